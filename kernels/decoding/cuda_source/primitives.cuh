// Instructions that CUDA C++ has no words for.

__device__ u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
// A barrier of the cluster in two halves, so that work fits between: what is written before the arrival, in whatever
// block's shared memory, is there after the wait.
__device__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// Where `p` lies in the shared memory of the block `rank` of the cluster.
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
// Brings a line of memory into the second cache, which all blocks share.
constexpr int LINE = 128;  // bytes
__device__ void prefetch(const void* p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p) : "memory"); }

// Two floats as bf16, rounded to nearest, the first in the low half.
__device__ u32 pack_bf16(float first, float second) {
  u32 packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(second), "f"(first));
  return packed;
}
// sums += a b for a tile of 16 rows, 16 steps and 8 columns.
__device__ void multiply_add(float (&sums)[4], const uint4& a, u32 b0, u32 b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}
// Asks for 16 bytes of weights, which come to shared memory past the first cache, where they would drive out other things.
__device__ void ask(uint4* to, const uint4* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"((u32)__cvta_generic_to_shared(to)), "l"(from)
               : "memory");
}
// Makes one request of all that the thread has asked for since the last; it may be empty.
__device__ void close_request() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most so many of the thread's requests, the latest ones, are still under way.
template <int LATEST>
__device__ void await_requests() { asm volatile("cp.async.wait_group %0;" ::"n"(LATEST) : "memory"); }
// The state in device memory, which nothing else in the kernel reads or writes: so these need not be ordered with
// other memory, as the compiler would have to order a store through a pointer that may lead anywhere.
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
// 1 / (1 + e^-x), about 1e-6 off.
__device__ float sigmoid(float x) { return __fdividef(1, 1 + __expf(-x)); }
__device__ float power_of_two(float x) { float y; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x)); return y; }
__device__ u32 bits_of(float x) { return __float_as_uint(x); }
__device__ float float_of(u32 bits) { return __uint_as_float(bits); }
