// Position of a block, a warp and a lane in the tensors, states in registers, and a chunk of time in shared memory.

struct Place {
  int block0, channel0, row, segment, batch;  // first channel of block and warp; row of partial sums
  int warp, lane, part, quad;
  __device__ Place(const Shape& s) {
    int across = (s.channels + CHANNELS - 1) / CHANNELS;
    warp = threadIdx.x >> 5; lane = threadIdx.x & 31; part = lane & 3; quad = lane >> 2;
    block0 = blockIdx.x % across * CHANNELS;
    channel0 = block0 + warp * WARP_CHANNELS;
    row = blockIdx.x / across;
    segment = row % s.segments;
    batch = row / s.segments;
  }
  __device__ int channel(int i) const { return channel0 + PER * quad + i; }
  // In the backward the order of the four floats differs between channels: register i holds float i ^ twist of the
  // part. Sums over the channels of a warp then need no selects.
  __device__ int twist() const { return COMPLEX ? 2 * (quad & 1) : (quad & 3); }
};

__device__ void untwist(int twist, float (&f)[4]) {
  float p[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) p[i] = twist & 1 ? f[i ^ 1] : f[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) f[i] = twist & 2 ? p[i ^ 2] : p[i];
}
// Four floats of a padded state row (16 * GROUPS floats per channel), in the order of the lane.
__device__ void load_state(const float* row, int group, int part, int twist, float (&f)[4]) {
  float4 v = *(const float4*)(row + 16 * group + 4 * part);
  f[0] = v.x; f[1] = v.y; f[2] = v.z; f[3] = v.w;
  untwist(twist, f);
}
__device__ void store_state(float* row, int group, int part, int twist, const float (&f)[4]) {
  float w[4] = {f[0], f[1], f[2], f[3]};
  untwist(twist, w);
  *(float4*)(row + 16 * group + 4 * part) = make_float4(w[0], w[1], w[2], w[3]);
}
// The same for an unpadded tensor (..., N) of numbers; null reads as zeros.
#define NUMBER_FLOATS (COMPLEX ? 2 : 1)
__device__ void load_numbers(const float* row, int group, const Shape& s, int part, int twist, float (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int k = 16 * group + 4 * part + (i ^ twist);
    f[i] = row != nullptr && k < s.state * NUMBER_FLOATS ? row[k] : 0.f;
  }
}
__device__ void store_numbers(float* row, int group, const Shape& s, int part, int twist, const float (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int k = 16 * group + 4 * part + (i ^ twist);
    if (k < s.state * NUMBER_FLOATS) row[k] = f[i];
  }
}
__device__ void load_rate(const float* A, int channel, int group, const Shape& s, int part, int twist, float (&rate)[4]) {
  load_numbers(channel < s.channels ? A + (i64)channel * s.state * NUMBER_FLOATS : nullptr, group, s, part, twist, rate);
#pragma unroll
  for (int i = 0; i < 4; ++i) rate[i] *= COMPLEX && (i & 1) ? 1.f / TWO_PI : LOG2E;
}

// ---------------------------------------------------------------- a chunk of time in shared memory
// The padding of rows avoids bank conflicts between 32 lanes that access one row each.
struct Steps {
  float2 at[CHUNK][WARP_CHANNELS + 2];
  __device__ void read(int t, int quad, float2 (&v)[PER]) const {
#if PER == 2
    float4 f = *(const float4*)&at[t][2 * quad];
    v[0] = make_float2(f.x, f.y); v[1] = make_float2(f.z, f.w);
#else
    v[0] = at[t][quad];
#endif
  }
  __device__ void write_row(int t, int vector, const float (&first)[8], const float (&second)[8]) {
#pragma unroll
    for (int i = 0; i < 8; i += 2)
      *(float4*)&at[t][8 * vector + i] = make_float4(first[i], second[i], first[i + 1], second[i + 1]);
  }
  __device__ void read_row(int t, int vector, float (&first)[8], float (&second)[8]) const {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      float4 v = *(const float4*)&at[t][8 * vector + i];
      first[i] = v.x; second[i] = v.y; first[i + 1] = v.z; second[i + 1] = v.w;
    }
  }
};
struct Values {
  float at[CHUNK][WARP_CHANNELS + 4];
  __device__ void read(int t, int quad, float (&v)[PER]) const {
#if PER == 2
    float2 f = *(const float2*)&at[t][2 * quad];
    v[0] = f.x; v[1] = f.y;
#else
    v[0] = at[t][quad];
#endif
  }
  __device__ void write_row(int t, int vector, const float (&f)[8]) {
    *(float4*)&at[t][8 * vector] = make_float4(f[0], f[1], f[2], f[3]);
    *(float4*)&at[t][8 * vector + 4] = make_float4(f[4], f[5], f[6], f[7]);
  }
  __device__ void read_row(int t, int vector, float (&f)[8]) const {
    float4 a = *(const float4*)&at[t][8 * vector], b = *(const float4*)&at[t][8 * vector + 4];
    f[0] = a.x; f[1] = a.y; f[2] = a.z; f[3] = a.w; f[4] = b.x; f[5] = b.y; f[6] = b.z; f[7] = b.w;
  }
};

__device__ void read4(const float* row, float (&f)[4]) {
  float4 v = *(const float4*)row;
  f[0] = v.x; f[1] = v.y; f[2] = v.z; f[3] = v.w;
}
__device__ float add_xor(float keep, float send, int mask) { return keep + __shfl_xor_sync(~0u, send, mask); }

// Sum four values over the four parts of a quad. Part i returns the sum of value i.
__device__ float sum_parts4(float v0, float v1, float v2, float v3, int part) {
  bool odd = part & 1, high = part & 2;
  float even = add_xor(odd ? v1 : v0, odd ? v0 : v1, 1);
  float other = add_xor(odd ? v3 : v2, odd ? v2 : v3, 1);
  return add_xor(high ? other : even, high ? even : other, 2);
}

// 16 adjacent floats of a row of B or C; floats past `floats` are zero.
struct Sixteen {
  Eight half[2];
};
__device__ Sixteen load16(const Rows& r, i64 b, i64 row, int column, int floats, bool inside) {
  Sixteen e = {};
  if (!inside) return e;
  i64 at = b * r.batch_stride + row * r.time_stride + column;
  bool aligned = (((at * IO_BYTES) | (i64)r.data) & 15) == 0;
  if (floats >= 16 && aligned) {
    e.half[0] = load8(r, b, row, column, true);
    e.half[1] = load8(r, b, row, column + 8, true);
  } else {
    u32 w[8 * IO_BYTES / 2] = {};
#pragma unroll
    for (int i = 0; i < 16; ++i) {
      if (i >= floats) continue;
#if IO == 0
      w[i] = __ldg((const u32*)r.data + at + i);
#else
      w[i / 2] |= (u32)__ldg((const u16*)r.data + at + i) << (16 * (i & 1));
#endif
    }
    e = *(const Sixteen*)w;
  }
  return e;
}
__device__ void unpack16(const Sixteen& e, float (&f)[16]) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float v[8];
    unpack(e.half[half], v);
#pragma unroll
    for (int i = 0; i < 8; ++i) f[8 * half + i] = v[i];
  }
}
// A complex C is stored as 2 conj(C), so that y = 2 Re(C h) is a sum over floats.
__device__ float conjugate_twice(int i) { return COMPLEX ? (i & 1 ? -2.f : 2.f) : 1.f; }
__device__ void write_bc(float* out, const Sixteen& e, bool is_c) {
  float f[16];
  unpack16(e, f);
#pragma unroll
  for (int i = 0; i < 16; ++i) f[i] *= is_c ? conjugate_twice(i) : 1.f;
#pragma unroll
  for (int i = 0; i < 16; i += 4) *(float4*)(out + i) = make_float4(f[i], f[i + 1], f[i + 2], f[i + 3]);
}
