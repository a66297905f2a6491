// PTX instructions without a CUDA C++ equivalent, and small conversions.

__device__ u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
// Barrier of the cluster in two halves, with work in between. Writes before the arrival, to the shared memory of any
// block, are visible after the wait.
__device__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Return the address of `p` in the shared memory of block `rank` of the cluster.
__device__ u32 address_at(const void* p, int rank) {
  u32 there;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"((u32)__cvta_generic_to_shared(p)), "r"(rank));
  return there;
}
__device__ void send(void* p, int rank, u32 a) {
  asm volatile("st.shared::cluster.u32 [%0], %1;" ::"r"(address_at(p, rank)), "r"(a) : "memory");
}
__device__ void send(void* p, int rank, u32 a, u32 b) {
  asm volatile("st.shared::cluster.v2.u32 [%0], {%1, %2};" ::"r"(address_at(p, rank)), "r"(a), "r"(b) : "memory");
}
// Load a cache line into L2.
constexpr int LINE = 128;  // bytes
__device__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory"); }

// Round two floats to bf16; the first goes to the low half.
__device__ u32 pack_bf16(float first, float second) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}
// Compute sums += a b for a tile of 16 rows, 16 steps and 8 columns.
__device__ void multiply_add(float (&sums)[4], const uint4& a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
// Start a copy of 16 bytes of weights to shared memory. It bypasses L1, where it would evict other data.
__device__ void copy_async(uint4* to, const uint4* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from)
               : "memory");
}
// Group all copies that the thread has started since the last group; the group may be empty.
__device__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Wait until at most the latest LATEST groups of the thread are still in flight.
template <int LATEST>
__device__ void wait_for_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory"); }
// Access to the state in device memory. Nothing else in the kernel uses this memory, so these accesses need no order
// with other memory. For an ordinary store the compiler would have to assume aliasing.
__device__ float load_state(const float* p) {
  float x;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(x) : "l"(p));
  return x;
}
__device__ float2 load_state(const float2* p) {
  float2 x;
  asm volatile("ld.global.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "l"(p));
  return x;
}
__device__ float4 load_state(const float4* p) {
  float4 x;
  asm volatile("ld.global.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w) : "l"(p));
  return x;
}
__device__ void store_state(float* p, float x) { asm volatile("st.global.f32 [%0], %1;" ::"l"(p), "f"(x)); }
__device__ void store_state(float2* p, float2 x) {
  asm volatile("st.global.v2.f32 [%0], {%1, %2};" ::"l"(p), "f"(x.x), "f"(x.y));
}
__device__ void store_state(float4* p, float4 x) {
  asm volatile("st.global.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(p), "f"(x.x), "f"(x.y), "f"(x.z), "f"(x.w));
}
// Return 1 / (1 + e^-x) with an error of about 1e-6.
__device__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }
__device__ float power_of_two(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ float float_of(u32 bits) { return __uint_as_float(bits); }
