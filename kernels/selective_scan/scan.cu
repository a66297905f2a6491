// The selective scan for one NVIDIA GPU, compiled at run time by cuda.py, which defines the macros below.
//
//   IO        0: float, 1: bfloat16, 2: half      type of x, dt, B, C, z, y and of their gradients
//   COMPLEX   0, 1                                complex states; B and C then carry (re, im)
//   GROUPS    ceil(floats of state / 16)          a lane holds 4 of the 16 floats of a group at a time
//   HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, REVERSE     0, 1
//   CLUSTER   blocks that sum dB and dC together through distributed shared memory
//
// A block owns 64 channels, a warp 8, and four lanes share a channel: lane = 4 * channel + part. Everything a
// lane needs at a step besides B and C is (dt, u = dt * x, dy), staged in shared memory a tile of time at once.
// "Floats" count a complex number as two; a state of N numbers is padded to 16 * GROUPS floats.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define CHANNELS 64
#define THREADS 256
#define CHUNK 64
#define TILE 32   // steps that the forward stages at once
#define SUB 8     // steps whose decays and states the backward holds in registers
#define LN2 0.69314718056f
#define LOG2E 1.44269504089f
#define TWO_PI 6.28318530718f

struct Shape {
  i64 length;
  int batch, channels, state, segments, chunks_per_segment;  // state: numbers a channel, complex or real
};
// A tensor (batch, length, channels) whose channels are contiguous.
struct Rows {
  void* data;
  i64 batch_stride, time_stride;
};

// ---------------------------------------------------------------- reading and writing 8 neighbours, or one
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

__device__ float load1(const Rows& r, i64 b, i64 row, int column) {
  i64 at = b * r.batch_stride + row * r.time_stride + column;
#if IO == 0
  return __ldg((const float*)r.data + at);
#else
  return decode(__ldg((const u16*)r.data + at));
#endif
}

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
__device__ void store1(void* data, i64 at, float f) {
#if IO == 0
  ((float*)data)[at] = f;
#else
  ((u16*)data)[at] = (u16)encode2(f, 0.f);
#endif
}

// ---------------------------------------------------------------- arithmetic of one lane's four floats
__device__ float exp2_fast(float v) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
__device__ float log2_fast(float v) { float r; asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
__device__ float reciprocal(float v) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }

// log(1 + e) loses all digits of a small e; there its series is exact to fp32.
__device__ float softplus(float v) {
#if SOFTPLUS
  if (v > 20.f) return v;
  float e = exp2_fast(v * LOG2E);
  return e < 0.03125f ? e * (1.f + e * (-0.5f + e * (0.333333333f + e * (-0.25f + e * 0.2f)))) : LN2 * log2_fast(1.f + e);
#else
  return v;
#endif
}
// The slope of softplus at v is the logistic function of v.
__device__ float softplus_slope(float v) {
#if SOFTPLUS
  return v > 20.f ? 1.f : reciprocal(1.f + exp2_fast(-v * LOG2E));
#else
  return 1.f;
#endif
}

// `rate` is A * log2(e) for real states; (re A * log2(e), im A / 2 pi) for complex ones.
__device__ void decay(float dt, const float (&rate)[4], float (&a)[4]) {
#if COMPLEX
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    float size = exp2_fast(dt * rate[i]);
    float turn = dt * rate[i + 1];
    turn = (turn - rintf(turn)) * TWO_PI;
    a[i] = size * __cosf(turn);
    a[i + 1] = size * __sinf(turn);
  }
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = exp2_fast(dt * rate[i]);
#endif
}
// h <- a h + u b
__device__ void advance(float (&h)[4], const float (&a)[4], float u, const float (&b)[4]) {
#if COMPLEX
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    float re = a[i] * h[i] - a[i + 1] * h[i + 1] + u * b[i];
    h[i + 1] = a[i] * h[i + 1] + a[i + 1] * h[i] + u * b[i + 1];
    h[i] = re;
  }
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) h[i] = fmaf(a[i], h[i], u * b[i]);
#endif
}
// g <- conj(a) g
__device__ void retreat(float (&g)[4], const float (&a)[4]) {
#if COMPLEX
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    float re = a[i] * g[i] + a[i + 1] * g[i + 1];
    g[i + 1] = a[i] * g[i + 1] - a[i + 1] * g[i];
    g[i] = re;
  }
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) g[i] *= a[i];
#endif
}
// q = g conj(h): the gradient of the exponent dt A
__device__ void exponent_gradient(float (&q)[4], const float (&g)[4], const float (&h)[4]) {
#if COMPLEX
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    q[i] = g[i] * h[i] + g[i + 1] * h[i + 1];
    q[i + 1] = g[i + 1] * h[i] - g[i] * h[i + 1];
  }
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) q[i] = g[i] * h[i];
#endif
}
__device__ float dot4(const float (&a)[4], const float (&b)[4]) {
  return fmaf(a[0], b[0], a[1] * b[1]) + fmaf(a[2], b[2], a[3] * b[3]);
}
// Re(conj(q) A), from the scaled rate of decay()
__device__ float rate_dot(const float (&q)[4], const float (&rate)[4]) {
#if COMPLEX
  return LN2 * fmaf(q[0], rate[0], q[2] * rate[2]) + TWO_PI * fmaf(q[1], rate[1], q[3] * rate[3]);
#else
  return LN2 * dot4(q, rate);
#endif
}

// ---------------------------------------------------------------- the lane's place
// `twist` permutes the order in which a lane holds its four floats, so that sums over the channels of a warp
// need no selects: register i of channel c holds float i ^ twist of its part.
struct Lane {
  int warp, lane, part, channel, twist;
  __device__ Lane(bool twisted) {
    warp = threadIdx.x >> 5; lane = threadIdx.x & 31; part = lane & 3;
    channel = warp * 8 + (lane >> 2);
    int c = lane >> 2;
    twist = !twisted ? 0 : COMPLEX ? 2 * (c & 1) : (c & 3);
  }
};
// Four floats of a padded state row (16 * GROUPS floats a channel), in the lane's order.
__device__ void load_state(const float* row, int group, const Lane& l, float (&f)[4]) {
  float4 v = *(const float4*)(row + 16 * group + 4 * l.part);
  const float w[4] = {v.x, v.y, v.z, v.w};
  bool swap1 = l.twist & 1, swap2 = l.twist & 2;
  float p[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) p[i] = swap1 ? w[i ^ 1] : w[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) f[i] = swap2 ? p[i ^ 2] : p[i];
}
__device__ void store_state(float* row, int group, const Lane& l, const float (&f)[4]) {
  bool swap1 = l.twist & 1, swap2 = l.twist & 2;
  float p[4], w[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) p[i] = swap1 ? f[i ^ 1] : f[i];
#pragma unroll
  for (int i = 0; i < 4; ++i) w[i] = swap2 ? p[i ^ 2] : p[i];
  *(float4*)(row + 16 * group + 4 * l.part) = make_float4(w[0], w[1], w[2], w[3]);
}
// The same from and to a tensor (..., N) of numbers that is not padded.
#define NUMBER_FLOATS (COMPLEX ? 2 : 1)
__device__ void load_numbers(const float* row, int group, const Shape& s, const Lane& l, float (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int k = 16 * group + 4 * l.part + (i ^ l.twist);
    f[i] = row != nullptr && k < s.state * NUMBER_FLOATS ? row[k] : 0.f;
  }
}
__device__ void store_numbers(float* row, int group, const Shape& s, const Lane& l, const float (&f)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    int k = 16 * group + 4 * l.part + (i ^ l.twist);
    if (k < s.state * NUMBER_FLOATS) row[k] = f[i];
  }
}
__device__ void load_rate(const float* A, int channel, int group, const Shape& s, const Lane& l, float (&rate)[4]) {
  load_numbers(channel < s.channels ? A + (i64)channel * s.state * NUMBER_FLOATS : nullptr, group, s, l, rate);
#pragma unroll
  for (int i = 0; i < 4; ++i) rate[i] *= COMPLEX && (i & 1) ? 1.f / TWO_PI : LOG2E;
}

// ---------------------------------------------------------------- forward
struct ForwardArguments {
  Shape shape;
  Rows x, dt, B, C, z, y;
  const float *A, *D, *bias, *initial;  // initial: state on entry, (batch, channels, N)
  const float* starts;                  // padded state on entry of each segment, (batch, segments, channels, 16 GROUPS)
  float *checkpoints, *final_state;     // checkpoints: padded, on entry of chunks 1, 2, ...
  float *ends, *dt_sums;                // of each segment, when it starts from zero
  int group_channels;                   // channels that share a row of B and C
  int bc_floats;                        // floats of a row of B for one group of channels
};

// B and C of `steps` steps: row t holds 16 floats of B, then 16 of C.
template <int ROWS_STAGED, bool WITH_C>
__device__ void stage_bc(float* shared, const ForwardArguments& p, i64 b, i64 t0, int group, int channel0) {
  int offset = channel0 / p.group_channels * p.bc_floats;
#pragma unroll 4
  for (int i = threadIdx.x; i < ROWS_STAGED * (WITH_C ? 32 : 16); i += THREADS) {
    int t = WITH_C ? i >> 5 : i >> 4, k = i & 15, which = WITH_C ? (i >> 4) & 1 : 0;
    int column = 16 * group + k;
    float v = 0.f;
    if (t0 + t < p.shape.length && column < p.bc_floats) {
      v = load1(which ? p.C : p.B, b, position(p.shape, t0 + t), offset + column);
      if (COMPLEX && which) v *= k & 1 ? -2.f : 2.f;
    }
    shared[t * 32 + which * 16 + k] = v;
  }
}

// Scans one segment of 64 channels. WHOLE: from its true start, writing y. Otherwise: from zero, for its end only.
template <bool WHOLE>
__device__ void forward_segment(const ForwardArguments& p) {
  __shared__ __align__(16) float2 step[TILE][CHANNELS + 8];
  __shared__ __align__(16) float bc[GROUPS][TILE][32];
  const Shape& s = p.shape;
  const Lane l(false);
  int channel0 = blockIdx.x * CHANNELS, channel = channel0 + l.channel;
  int segment = blockIdx.y % s.segments;
  i64 b = blockIdx.y / s.segments;
  i64 first = (i64)segment * s.chunks_per_segment * CHUNK;
  i64 last = min(s.length, first + (i64)s.chunks_per_segment * CHUNK);
  bool mine = channel < s.channels;
  i64 chunks = (s.length + CHUNK - 1) / CHUNK;

  float rate[GROUPS][4], h[GROUPS][4], dt_sum = 0.f;
#pragma unroll
  for (int g = 0; g < GROUPS; ++g) {
    load_rate(p.A, channel, g, s, l, rate[g]);
    if (WHOLE && s.segments > 1 && mine)
      load_state(p.starts + ((b * s.segments + segment) * s.channels + channel) * 16 * GROUPS, g, l, h[g]);
    else
      load_numbers(WHOLE && p.initial && mine ? p.initial + (b * s.channels + channel) * s.state * NUMBER_FLOATS : nullptr,
                   g, s, l, h[g]);
  }

  int row = threadIdx.x >> 3, column = channel0 + 8 * (threadIdx.x & 7);
  bool column_inside = column < s.channels;
  float bias8[8] = {};
  float skip8[8] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    if (HAS_BIAS && column_inside) bias8[i] = p.bias[column + i];
    if (HAS_D && WHOLE && column_inside) skip8[i] = p.D[column + i];
  }

  Eight x8 = {}, dt8 = {}, z8 = {};
  auto fetch = [&](i64 t0) {
    bool inside = column_inside && t0 + row < last;
    i64 at = position(s, t0 + row);
    x8 = load8(p.x, b, at, column, inside);
    dt8 = load8(p.dt, b, at, column, inside);
    if (HAS_Z && WHOLE) z8 = load8(p.z, b, at, column, inside);
  };
  fetch(first);
  for (i64 t0 = first; t0 < last; t0 += TILE) {
    Eight x_now = x8, z_now = z8;
    bool inside = column_inside && t0 + row < last;
    {
      float x[8], dt[8];
      unpack(x8, x); unpack(dt8, dt);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        float d = inside ? softplus(dt[i] + bias8[i]) : 0.f;
        step[row][(column - channel0) + i] = make_float2(d, d * x[i]);
      }
    }
#pragma unroll
    for (int g = 0; g < GROUPS; ++g) stage_bc<TILE, WHOLE>(&bc[g][0][0], p, b, t0, g, channel0);
    if (t0 + TILE < last) fetch(t0 + TILE);
    if (WHOLE && t0 > 0 && t0 % CHUNK == 0 && mine && p.checkpoints) {
      float* row_out = p.checkpoints + ((b * (chunks - 1) + t0 / CHUNK - 1) * s.channels + channel) * 16 * GROUPS;
#pragma unroll
      for (int g = 0; g < GROUPS; ++g) store_state(row_out, g, l, h[g]);
    }
    __syncthreads();
#pragma unroll 2
    for (int t = 0; t < TILE; t += 4) {
      float y4[4];
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        float2 now = step[t + k][l.channel];
        y4[k] = 0.f;
        if (!WHOLE) dt_sum += now.x;
#pragma unroll
        for (int g = 0; g < GROUPS; ++g) {
          float a[4];
          decay(now.x, rate[g], a);
          float4 b4 = *(const float4*)&bc[g][t + k][4 * l.part];
          const float bb[4] = {b4.x, b4.y, b4.z, b4.w};
          advance(h[g], a, now.y, bb);
          if (WHOLE) {
            float4 c4 = *(const float4*)&bc[g][t + k][16 + 4 * l.part];
            const float cc[4] = {c4.x, c4.y, c4.z, c4.w};
            y4[k] += dot4(cc, h[g]);
          }
        }
      }
      if (WHOLE) {  // sum over the four lanes of a channel; lane `part` is left with step t + part
        bool odd = l.part & 1, high = l.part & 2;
        float v0 = (odd ? y4[1] : y4[0]) + __shfl_xor_sync(~0u, odd ? y4[0] : y4[1], 1);
        float v1 = (odd ? y4[3] : y4[2]) + __shfl_xor_sync(~0u, odd ? y4[2] : y4[3], 1);
        float v = (high ? v1 : v0) + __shfl_xor_sync(~0u, high ? v0 : v1, 2);
        step[t + l.part][l.channel].x = v;
      }
    }
    __syncthreads();
    if (WHOLE) {
      if (inside) {
        float x[8], z[8], y[8];
        unpack(x_now, x); unpack(z_now, z);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          y[i] = step[row][(column - channel0) + i].x + skip8[i] * x[i];
          if (HAS_Z) y[i] *= z[i] * reciprocal(1.f + exp2_fast(-z[i] * LOG2E));
        }
        store8(p.y, b, position(s, t0 + row), column, y);
      }
      __syncthreads();
    }
  }

  if (!mine) return;
#pragma unroll
  for (int g = 0; g < GROUPS; ++g) {
    if (!WHOLE)
      store_state(p.ends + ((b * s.segments + segment) * s.channels + channel) * 16 * GROUPS, g, l, h[g]);
    else if (segment == s.segments - 1)
      store_numbers(p.final_state + (b * s.channels + channel) * s.state * NUMBER_FLOATS, g, s, l, h[g]);
  }
  if (!WHOLE && l.part == 0) p.dt_sums[(b * s.segments + segment) * s.channels + channel] = dt_sum;
}

extern "C" __global__ void __launch_bounds__(THREADS, 3) scan_forward(const __grid_constant__ ForwardArguments p) {
  forward_segment<true>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, 4) scan_forward_ends(const __grid_constant__ ForwardArguments p) {
  forward_segment<false>(p);
}

// ---------------------------------------------------------------- states from segment to segment
struct PassArguments {
  Shape shape;
  const float *A, *initial;  // initial: (batch, channels, N) or null
  float* ends;               // in: what each segment adds; out: the state on entry of each segment
  const float* dt_sums;
};
// One thread a state number. `backwards` walks adjoints, from the last segment to the first.
__device__ void pass_states(const PassArguments& p, bool backwards) {
  const Shape& s = p.shape;
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  const int padded = 16 * GROUPS / NUMBER_FLOATS;
  if (i >= (i64)s.batch * s.channels * padded) return;
  int n = i % padded, channel = i / padded % s.channels;
  i64 b = i / padded / s.channels;
  bool real_number = n < s.state;
  i64 number = ((i64)b * s.channels + channel) * s.state + n;
  float rate[2] = {}, h[2] = {};
#pragma unroll
  for (int f = 0; f < NUMBER_FLOATS; ++f) {
    if (real_number) rate[f] = p.A[((i64)channel * s.state + n) * NUMBER_FLOATS + f] * (f ? 1.f / TWO_PI : LOG2E);
    if (real_number && p.initial) h[f] = p.initial[number * NUMBER_FLOATS + f];
  }
  for (int k = 0; k < s.segments; ++k) {
    int segment = backwards ? s.segments - 1 - k : k;
    i64 at = (b * s.segments + segment) * s.channels + channel;
    float* end = p.ends + at * 16 * GROUPS + n * NUMBER_FLOATS;
    float dt = p.dt_sums[at], size = exp2_fast(dt * rate[0]);
#if COMPLEX
    float turn = dt * rate[1];
    turn = (turn - rintf(turn)) * TWO_PI;
    float re = size * __cosf(turn), im = size * __sinf(turn) * (backwards ? -1.f : 1.f);
    float next0 = re * h[0] - im * h[1] + end[0], next1 = re * h[1] + im * h[0] + end[1];
    end[0] = h[0]; end[1] = h[1];
    h[0] = next0; h[1] = next1;
#else
    float next = size * h[0] + end[0];
    end[0] = h[0];
    h[0] = next;
#endif
  }
}
extern "C" __global__ void pass_forward(const __grid_constant__ PassArguments p) { pass_states(p, false); }
extern "C" __global__ void pass_backward(const __grid_constant__ PassArguments p) { pass_states(p, true); }

// ---------------------------------------------------------------- backward
struct BackwardArguments {
  ForwardArguments f;
  Rows dy, dx, ddt, dz;
  const float* final_gradient;    // (batch, channels, N) or null
  const float* adjoints;          // padded adjoint on entry of each segment from its end, when segments > 1
  float *adjoint_ends, *dt_sums;  // phase 1
  float *dA, *dD, *dbias;         // partial sums of block row r: (rows, channels, N), (rows, channels)
  float* initial_gradient;        // (batch, channels, N)
  float* dBC;                     // partial sums (parts, batch, length, groups of channels, 2, floats), or null:
  void *dB, *dC;                  // the gradients themselves, where one cluster holds all channels of a group
  int parts, batch_per_block;
};

__device__ float silu_gate(float z) { return HAS_Z ? z * reciprocal(1.f + exp2_fast(-z * LOG2E)) : 1.f; }

// The adjoint that a segment sends to the one before it, if it receives none itself.
extern "C" __global__ void __launch_bounds__(THREADS, 4) scan_backward_ends(const __grid_constant__ BackwardArguments p) {
  __shared__ __align__(16) float2 step[TILE][CHANNELS + 8];
  __shared__ __align__(16) float bc[GROUPS][TILE][32];
  const ForwardArguments& q = p.f;
  const Shape& s = q.shape;
  const Lane l(false);
  int channel0 = blockIdx.x * CHANNELS, channel = channel0 + l.channel;
  int segment = blockIdx.y % s.segments;
  i64 b = blockIdx.y / s.segments;
  i64 first = (i64)segment * s.chunks_per_segment * CHUNK;
  i64 last = min(s.length, first + (i64)s.chunks_per_segment * CHUNK);
  bool mine = channel < s.channels;

  float rate[GROUPS][4], g[GROUPS][4], dt_sum = 0.f;
#pragma unroll
  for (int k = 0; k < GROUPS; ++k) {
    load_rate(q.A, channel, k, s, l, rate[k]);
#pragma unroll
    for (int i = 0; i < 4; ++i) g[k][i] = 0.f;
  }
  int row = threadIdx.x >> 3, column = channel0 + 8 * (threadIdx.x & 7);
  bool column_inside = column < s.channels;
  float bias8[8] = {};
#pragma unroll
  for (int i = 0; i < 8; ++i)
    if (HAS_BIAS && column_inside) bias8[i] = q.bias[column + i];

  Eight dt8 = {}, z8 = {}, dy8 = {};
  auto fetch = [&](i64 t0) {
    bool inside = column_inside && t0 + row < last;
    i64 at = position(s, t0 + row);
    dt8 = load8(q.dt, b, at, column, inside);
    dy8 = load8(p.dy, b, at, column, inside);
    if (HAS_Z) z8 = load8(q.z, b, at, column, inside);
  };
  i64 tiles = (last - first + TILE - 1) / TILE;
  fetch(first + (tiles - 1) * TILE);
  for (i64 tile = tiles - 1; tile >= 0; --tile) {
    i64 t0 = first + tile * TILE;
    bool inside = column_inside && t0 + row < last;
    {
      float dt[8], z[8], dy[8];
      unpack(dt8, dt); unpack(z8, z); unpack(dy8, dy);
#pragma unroll
      for (int i = 0; i < 8; ++i)
        step[row][(column - channel0) + i] =
            make_float2(inside ? softplus(dt[i] + bias8[i]) : 0.f, dy[i] * silu_gate(z[i]));
    }
#pragma unroll
    for (int k = 0; k < GROUPS; ++k) stage_bc<TILE, true>(&bc[k][0][0], q, b, t0, k, channel0);
    if (tile > 0) fetch(t0 - TILE);
    __syncthreads();
#pragma unroll 8
    for (int t = TILE - 1; t >= 0; --t) {
      float2 now = step[t][l.channel];
      dt_sum += now.x;
#pragma unroll
      for (int k = 0; k < GROUPS; ++k) {
        float a[4];
        decay(now.x, rate[k], a);
        float4 c4 = *(const float4*)&bc[k][t][16 + 4 * l.part];
        g[k][0] = fmaf(now.y, c4.x, g[k][0]); g[k][1] = fmaf(now.y, c4.y, g[k][1]);
        g[k][2] = fmaf(now.y, c4.z, g[k][2]); g[k][3] = fmaf(now.y, c4.w, g[k][3]);
        retreat(g[k], a);
      }
    }
    __syncthreads();
  }
  if (!mine) return;
#pragma unroll
  for (int k = 0; k < GROUPS; ++k)
    store_state(p.adjoint_ends + ((b * s.segments + segment) * s.channels + channel) * 16 * GROUPS, k, l, g[k]);
  if (l.part == 0) p.dt_sums[(b * s.segments + segment) * s.channels + channel] = dt_sum;
}

// Shared memory of the backward, in this order. B's row exists twice, the second time with neighbours swapped,
// for the lanes whose twist is odd; once a step is done its row takes the sums of dB and dC over the channels.
struct BackwardShared {
  float2 step[CHUNK][CHANNELS + 4];            // (dt, u), then (y, sum of G B)
  float dy[CHUNK][CHANNELS + 8];               // dy, then the gradient of dt through the decay
  float bc[CHUNK][64];                         // B, B swapped, C, C swapped
  float starts[CHUNK / SUB - 1][THREADS][4];   // state on entry of each run of SUB steps but the last
  float sums[2][SUB][THREADS / 32][32];        // dB and dC, summed over the channels of each warp
#if GROUPS > 1
  float2 out[CHUNK][CHANNELS + 4];
  float out_decay[CHUNK][CHANNELS + 8];
#endif
};

__device__ void load_twisted(const float* row, const Lane& l, float (&f)[4]) {
  const float* pair = row + (!COMPLEX && (l.twist & 1) ? 16 : 0) + 4 * l.part;
  int near = l.twist & 2;
  float2 lo = *(const float2*)(pair + near), hi = *(const float2*)(pair + (near ^ 2));
  f[0] = lo.x; f[1] = lo.y; f[2] = hi.x; f[3] = hi.y;
}

__device__ float add_xor(float keep, float send, int mask) { return keep + __shfl_xor_sync(~0u, send, mask); }

// Sums dB and dC over the 8 channels of a warp; each lane is left with one of the 32 sums.
__device__ float sum_channels(float (&db)[4], float (&dc)[4], const Lane& l) {
#if COMPLEX
  db[0] = add_xor(db[0], db[2], 4); db[1] = add_xor(db[1], db[3], 4);
  dc[0] = add_xor(dc[0], dc[2], 4); dc[1] = add_xor(dc[1], dc[3], 4);
  bool c = l.lane & 8, imaginary = l.lane & 16;
  float re = add_xor(c ? dc[0] : db[0], c ? db[0] : dc[0], 8);
  float im = add_xor(c ? dc[1] : db[1], c ? db[1] : dc[1], 8);
  return add_xor(imaginary ? im : re, imaginary ? re : im, 16);
#else
  db[0] = add_xor(db[0], db[2], 8); db[1] = add_xor(db[1], db[3], 8);
  dc[0] = add_xor(dc[0], dc[2], 8); dc[1] = add_xor(dc[1], dc[3], 8);
  db[0] = add_xor(db[0], db[1], 4);
  dc[0] = add_xor(dc[0], dc[1], 4);
  bool c = l.lane & 16;
  return add_xor(c ? dc[0] : db[0], c ? db[0] : dc[0], 16);
#endif
}
// Which of the 32 sums (16 floats of dB, then 16 of dC) sum_channels leaves with this lane.
__device__ int sum_index(const Lane& l) {
  int c = l.lane >> 2;
  return COMPLEX ? ((c >> 1) & 1) * 16 + 4 * l.part + 2 * (c & 1) + (c >> 2) : (c >> 2) * 16 + 4 * l.part + (c & 3);
}

__device__ u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
__device__ void cluster_sync() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.arrive.release.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
// The value at the same place of shared memory in block `rank` of the cluster.
__device__ float peek(const float* mine, int rank) {
#if CLUSTER > 1
  u32 here = (u32)__cvta_generic_to_shared(mine), there;
  float v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there) : "memory");
  return v;
#else
  return *mine;
#endif
}

#if CLUSTER > 1
#define CLUSTER_DIMENSIONS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMENSIONS
#endif

extern "C" __global__ void CLUSTER_DIMENSIONS __launch_bounds__(THREADS, GROUPS > 1 ? 1 : 2)
scan_backward(const __grid_constant__ BackwardArguments p) {
  extern __shared__ __align__(16) char memory[];
  BackwardShared& m = *(BackwardShared*)memory;
  const ForwardArguments& q = p.f;
  const Shape& s = q.shape;
  const Lane l(true);
  int channel0 = blockIdx.x * CHANNELS, channel = channel0 + l.channel;
  int segment = blockIdx.y % s.segments, batch_block = blockIdx.y / s.segments;
  bool mine = channel < s.channels;
  i64 chunks = (s.length + CHUNK - 1) / CHUNK;
  i64 first_chunk = (i64)segment * s.chunks_per_segment;
  i64 last_chunk = min(chunks, first_chunk + s.chunks_per_segment);
  int vector = threadIdx.x & 7, column = channel0 + 8 * vector;
  bool column_inside = column < s.channels;
  int sum_at = sum_index(l);

  float rate[GROUPS][4], g[GROUPS][4], dA[GROUPS][4];
#pragma unroll
  for (int k = 0; k < GROUPS; ++k) {
    load_rate(q.A, channel, k, s, l, rate[k]);
#pragma unroll
    for (int i = 0; i < 4; ++i) dA[k][i] = 0.f;
  }
  float dD = 0.f, dbias = 0.f;  // of channel threadIdx.x / 4, a quarter of the steps

  for (int within = 0; within < p.batch_per_block; ++within) {
    i64 b = (i64)batch_block * p.batch_per_block + within;
    if (b >= s.batch) break;
#pragma unroll
    for (int k = 0; k < GROUPS; ++k) {
      if (s.segments > 1 && mine)
        load_state(p.adjoints + ((b * s.segments + segment) * s.channels + channel) * 16 * GROUPS, k, l, g[k]);
      else
        load_numbers(p.final_gradient && mine ? p.final_gradient + (b * s.channels + channel) * s.state * NUMBER_FLOATS : nullptr,
                     k, s, l, g[k]);
    }

    for (i64 chunk = last_chunk - 1; chunk >= first_chunk; --chunk) {
      i64 t0 = chunk * CHUNK;
      int steps = (int)min((i64)CHUNK, s.length - t0);
      int runs = (steps + SUB - 1) / SUB;
#pragma unroll 1
      for (int row = threadIdx.x >> 3; row < runs * SUB; row += THREADS / 8) {
        bool inside = column_inside && row < steps;
        i64 at = position(s, t0 + row);
        float x[8], dt[8], z[8], dy[8];
        unpack(load8(q.x, b, at, column, inside), x);
        unpack(load8(q.dt, b, at, column, inside), dt);
        if (HAS_Z) unpack(load8(q.z, b, at, column, inside), z);
        unpack(load8(p.dy, b, at, column, inside), dy);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          float d = inside ? softplus(dt[i] + (HAS_BIAS ? q.bias[column + i] : 0.f)) : 0.f;
          m.step[row][8 * vector + i] = make_float2(d, d * x[i]);
          m.dy[row][8 * vector + i] = dy[i] * (HAS_Z ? silu_gate(z[i]) : 1.f);
        }
      }

#pragma unroll
      for (int k = 0; k < GROUPS; ++k) {
        int offset = channel0 / q.group_channels * q.bc_floats;
        if (k > 0) cluster_sync();  // the rows of B and C still hold the sums of the group before
#pragma unroll 4
        for (int i = threadIdx.x; i < runs * SUB * 32; i += THREADS) {
          int t = i >> 5, which = (i >> 4) & 1, f = i & 15, c = 16 * k + f;
          float v = 0.f;
          if (t < steps && c < q.bc_floats) {
            v = load1(which ? q.C : q.B, b, position(s, t0 + t), offset + c);
            if (COMPLEX && which) v *= f & 1 ? -2.f : 2.f;
          }
          m.bc[t][which * 32 + f] = v;
          if (!COMPLEX) m.bc[t][which * 32 + 16 + (f ^ 1)] = v;
        }
        __syncthreads();

        float h[4];
        if (chunk > 0 && mine)
          load_state(q.checkpoints + ((b * (chunks - 1) + chunk - 1) * s.channels + channel) * 16 * GROUPS, k, l, h);
        else
          load_numbers(q.initial && mine ? q.initial + (b * s.channels + channel) * s.state * NUMBER_FLOATS : nullptr,
                       k, s, l, h);
#pragma unroll 1
        for (int run = 0; run < runs - 1; ++run) {
          *(float4*)m.starts[run][threadIdx.x] = make_float4(h[0], h[1], h[2], h[3]);
#pragma unroll
          for (int i = 0; i < SUB; ++i) {
            float2 now = m.step[run * SUB + i][l.channel];
            float a[4], bb[4];
            decay(now.x, rate[k], a);
            load_twisted(m.bc[run * SUB + i], l, bb);
            advance(h, a, now.y, bb);
          }
        }

#pragma unroll 1
        for (int run = runs - 1; run >= 0; --run) {
          const int t1 = run * SUB;
          float a[SUB][4], hs[SUB + 1][4];
#pragma unroll
          for (int n = 0; n < 4; ++n) hs[0][n] = h[n];
          if (run > 0) {
            float4 v = *(const float4*)m.starts[run - 1][threadIdx.x];
            h[0] = v.x; h[1] = v.y; h[2] = v.z; h[3] = v.w;
          }
#pragma unroll
          for (int i = 0; i < SUB; ++i) {
            float2 now = m.step[t1 + i][l.channel];
            float bb[4];
            decay(now.x, rate[k], a[i]);
            load_twisted(m.bc[t1 + i], l, bb);
#pragma unroll
            for (int n = 0; n < 4; ++n) hs[i + 1][n] = hs[i][n];
            advance(hs[i + 1], a[i], now.y, bb);
          }
#pragma unroll
          for (int half = SUB - 4; half >= 0; half -= 4) {
            float y4[4], s4[4], p4[4];
#pragma unroll
            for (int i = 3; i >= 0; --i) {
              const int at = half + i;
              float2 now = m.step[t1 + at][l.channel];
              float dy = m.dy[t1 + at][l.channel];
              float bb[4], cc[4], db[4], dc[4], e[4];
              load_twisted(m.bc[t1 + at], l, bb);
              load_twisted(m.bc[t1 + at] + 32, l, cc);
#pragma unroll
              for (int n = 0; n < 4; ++n) {
                g[k][n] = fmaf(dy, cc[n], g[k][n]);
                db[n] = now.y * g[k][n];
                dc[n] = dy * hs[at + 1][n];
              }
              y4[i] = dot4(cc, hs[at + 1]);
              s4[i] = dot4(bb, g[k]);
              retreat(g[k], a[at]);
              exponent_gradient(e, g[k], hs[at]);
              p4[i] = rate_dot(e, rate[k]);
#pragma unroll
              for (int n = 0; n < 4; ++n) dA[k][n] = fmaf(now.x, e[n], dA[k][n]);
              m.sums[run & 1][at][l.warp][sum_at] = sum_channels(db, dc, l);
            }
            // sum over the four lanes of a channel; lane `part` is left with step `half + part`
            bool odd = l.part & 1, high = l.part & 2;
            float y, sb, pd;
#define SUM_PARTS(out, v)                                                             \
  {                                                                                   \
    float v0 = add_xor(odd ? v[1] : v[0], odd ? v[0] : v[1], 1);                      \
    float v1 = add_xor(odd ? v[3] : v[2], odd ? v[2] : v[3], 1);                      \
    out = add_xor(high ? v1 : v0, high ? v0 : v1, 2);                                 \
  }
            SUM_PARTS(y, y4) SUM_PARTS(sb, s4) SUM_PARTS(pd, p4)
#undef SUM_PARTS
            int t = t1 + half + l.part;
#if GROUPS > 1
            float2 before = k ? m.out[t][l.channel] : make_float2(0.f, 0.f);
            m.out[t][l.channel] = make_float2(before.x + y, before.y + sb);
            m.out_decay[t][l.channel] = (k ? m.out_decay[t][l.channel] : 0.f) + pd;
#else
            m.step[t][l.channel] = make_float2(y, sb);
            m.dy[t][l.channel] = pd;
#endif
          }
          __syncthreads();
          // The rows of B and C of these steps have been read for the last time: they take the sums.
          float total = 0.f;
          int t = threadIdx.x >> 5, which = threadIdx.x & 31;
#pragma unroll
          for (int w = 0; w < THREADS / 32; ++w) total += m.sums[run & 1][t][w][which];
          m.bc[t1 + t][which] = total;
        }

        cluster_sync();
        int rank = CLUSTER > 1 ? (int)cluster_rank() : 0;
        int width = q.bc_floats, groups = s.channels / q.group_channels;
        for (int i = threadIdx.x; i < steps * 32; i += THREADS) {
          int t = i >> 5, which = (i >> 4) & 1, f = i & 15, c = 16 * k + f;
          if (t % CLUSTER != rank || c >= width) continue;
          float total = 0.f;
#pragma unroll
          for (int r = 0; r < CLUSTER; ++r) total += peek(&m.bc[t][i & 31], r);
          if (COMPLEX && which) total *= f & 1 ? -2.f : 2.f;
          i64 token = (b * s.length + position(s, t0 + t)) * groups + channel0 / q.group_channels;
          if (p.dBC) {
            int part = channel0 % q.group_channels / (CHANNELS * CLUSTER);
            p.dBC[(((i64)part * s.batch * s.length * groups + token) * 2 + which) * width + c] = total;
          } else {
            store1(which ? p.dC : p.dB, token * width + c, total);
          }
        }
      }
      cluster_sync();

#pragma unroll 1
      for (int row = threadIdx.x >> 3; row < steps; row += THREADS / 8) {
        i64 at = position(s, t0 + row);
        float x[8], raw[8], z[8], dy[8], dx[8], ddt[8], dz[8];
        unpack(load8(q.x, b, at, column, column_inside), x);
        unpack(load8(q.dt, b, at, column, column_inside), raw);
        if (HAS_Z) unpack(load8(q.z, b, at, column, column_inside), z);
        unpack(load8(p.dy, b, at, column, column_inside), dy);
#pragma unroll
        for (int i = 0; i < 8; ++i) {
#if GROUPS > 1
          float2 sums = m.out[row][8 * vector + i];
          float through_decay = m.out_decay[row][8 * vector + i];
#else
          float2 sums = m.step[row][8 * vector + i];
          float through_decay = m.dy[row][8 * vector + i];
#endif
          if (HAS_BIAS) raw[i] += column_inside ? q.bias[column + i] : 0.f;
          float d = softplus(raw[i]), skip = HAS_D && column_inside ? q.D[column + i] : 0.f;
          float gated = dy[i];
          if (HAS_Z) {
            float sigmoid = reciprocal(1.f + exp2_fast(-z[i] * LOG2E)), silu = z[i] * sigmoid;
            dz[i] = dy[i] * (sums.x + skip * x[i]) * (sigmoid + silu * (1.f - sigmoid));
            gated *= silu;
          }
          dx[i] = sums.y * d + skip * gated;
          ddt[i] = (sums.y * x[i] + through_decay) * softplus_slope(raw[i]);
          m.step[row][8 * vector + i] = make_float2(gated * x[i], ddt[i]);
        }
        if (column_inside) {
          store8(p.dx, b, at, column, dx);
          store8(p.ddt, b, at, column, ddt);
          if (HAS_Z) store8(p.dz, b, at, column, dz);
        }
      }
      __syncthreads();
      for (int t = threadIdx.x & 3; t < steps; t += 4) {
        float2 v = m.step[t][threadIdx.x >> 2];
        dD += v.x; dbias += v.y;
      }
      __syncthreads();
    }
    if (segment == 0 && mine && p.initial_gradient) {
#pragma unroll
      for (int k = 0; k < GROUPS; ++k)
        store_numbers(p.initial_gradient + (b * s.channels + channel) * s.state * NUMBER_FLOATS, k, s, l, g[k]);
    }
  }

  dD += __shfl_xor_sync(~0u, dD, 1); dD += __shfl_xor_sync(~0u, dD, 2);
  dbias += __shfl_xor_sync(~0u, dbias, 1); dbias += __shfl_xor_sync(~0u, dbias, 2);
  if (!mine) return;
  i64 out = (i64)blockIdx.y * s.channels + channel;
  if (l.part == 0) {
    if (HAS_D) p.dD[out] = dD;
    if (HAS_BIAS) p.dbias[out] = dbias;
  }
#pragma unroll
  for (int k = 0; k < GROUPS; ++k) store_numbers(p.dA + out * s.state * NUMBER_FLOATS, k, s, l, dA[k]);
}

// Sums the parts of dB and dC over the clusters of channels.
extern "C" __global__ void sum_parts(const float* parts, void* dB, void* dC, int count, i64 tokens, int width) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * 2 * width) return;
  float total = 0.f;
  for (int k = 0; k < count; ++k) total += parts[k * tokens * 2 * width + i];
  i64 token = i / (2 * width);
  int f = (int)(i % (2 * width));
  store1(f < width ? dB : dC, token * width + f % width, total);
}
