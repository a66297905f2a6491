// Arithmetic on the four floats of a state that a lane holds, real or complex. `advance` is the recurrence.

__device__ float exp2_fast(float v) { float r; asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
// Volatile, so that the compiler does not branch around it: a branch would serialize the eight neighbours of a lane.
__device__ float log2_fast(float v) { float r; asm volatile("lg2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }
__device__ float reciprocal(float v) { float r; asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(v)); return r; }

// Below e = 1 the series of 2 artanh(e / (2 + e)) keeps the relative error of a small dt at that of fp32.
__device__ float softplus(float v) {
#if SOFTPLUS
  float e = exp2_fast(fminf(v, 20.f) * LOG2E);
  float r = e * reciprocal(2.f + e), r2 = r * r;
  float series = fmaf(r2, fmaf(r2, fmaf(r2, fmaf(r2, fmaf(r2, 2.f / 11, 2.f / 9), 2.f / 7), 2.f / 5), 2.f / 3), 2.f) * r;
  float direct = LN2 * log2_fast(1.f + e);
  float small = e < 1.f ? series : direct;
  return v > 20.f ? v : small;
#else
  return v;
#endif
}
__device__ float logistic(float v) { return reciprocal(1.f + exp2_fast(-v * LOG2E)); }
__device__ float silu(float v) { return v * logistic(v); }
__device__ float softplus_slope(float v) { return !SOFTPLUS || v > 20.f ? 1.f : logistic(v); }

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
// h <- a h + u b, with a = exp(dt A) from decay() and u = dt x: the recurrence
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
// g <- conj(a) g: the adjoint of the recurrence
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
// Re(conj(q) A) for the scaled rate of decay()
__device__ float rate_dot(const float (&q)[4], const float (&rate)[4]) {
#if COMPLEX
  return LN2 * fmaf(q[0], rate[0], q[2] * rate[2]) + TWO_PI * fmaf(q[1], rate[1], q[3] * rate[3]);
#else
  return LN2 * dot4(q, rate);
#endif
}
