// Reads and writes of tensor rows: eight or sixteen adjacent channels together, converted to and from fp32.

#if IO == 0
#define IO_BYTES 4
__device__ float decode(u32 bits) { return __uint_as_float(bits); }
#else
#define IO_BYTES 2
#if IO == 1
__device__ float decode(u16 bits) { return __uint_as_float((u32)bits << 16); }
__device__ u32 encode2(float low, float high) {
  u32 r; asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
}
#else
__device__ float decode(u16 bits) { float f; asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(bits)); return f; }
__device__ u32 encode2(float low, float high) {
  u32 r; asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low)); return r;
}
#endif
#endif

__device__ i64 position(const Shape& s, i64 t) { return REVERSE ? s.length - 1 - t : t; }

struct Eight {
#if IO == 0
  float4 a, b;
#else
  uint4 a;
#endif
};
__device__ Eight load8(const Rows& r, i64 b, i64 row, int column, bool inside) {
  Eight e = {};
  if (!inside) return e;
  i64 at = b * r.batch_stride + row * r.time_stride + column;
#if IO == 0
  const float4* p = (const float4*)((const float*)r.data + at);
  e.a = __ldg(p); e.b = __ldg(p + 1);
#else
  e.a = __ldg((const uint4*)((const u16*)r.data + at));
#endif
  return e;
}
__device__ void unpack(const Eight& e, float (&f)[8]) {
#if IO == 0
  f[0] = e.a.x; f[1] = e.a.y; f[2] = e.a.z; f[3] = e.a.w; f[4] = e.b.x; f[5] = e.b.y; f[6] = e.b.z; f[7] = e.b.w;
#else
  const u32 w[4] = {e.a.x, e.a.y, e.a.z, e.a.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) { f[2 * i] = decode((u16)(w[i] & 0xffff)); f[2 * i + 1] = decode((u16)(w[i] >> 16)); }
#endif
}
__device__ void store8(const Rows& r, i64 b, i64 row, int column, const float (&f)[8]) {
  i64 at = b * r.batch_stride + row * r.time_stride + column;
#if IO == 0
  float4* p = (float4*)((float*)r.data + at);
  p[0] = make_float4(f[0], f[1], f[2], f[3]); p[1] = make_float4(f[4], f[5], f[6], f[7]);
#else
  *(uint4*)((u16*)r.data + at) = make_uint4(encode2(f[0], f[1]), encode2(f[2], f[3]), encode2(f[4], f[5]), encode2(f[6], f[7]));
#endif
}
// Eight adjacent entries of a vector over channels. It stays in L1, so loading it again is cheaper than registers.
__device__ void load_channels(const float* vector, int column, bool inside, float (&f)[8]) {
  float4 lo = {}, hi = {};
  if (inside) { lo = __ldg((const float4*)(vector + column)); hi = __ldg((const float4*)(vector + column) + 1); }
  f[0] = lo.x; f[1] = lo.y; f[2] = lo.z; f[3] = lo.w; f[4] = hi.x; f[5] = hi.y; f[6] = hi.z; f[7] = hi.w;
}
__device__ void store1(void* data, i64 at, float f) {
#if IO == 0
  ((float*)data)[at] = f;
#else
  ((u16*)data)[at] = (u16)encode2(f, 0.f);
#endif
}
