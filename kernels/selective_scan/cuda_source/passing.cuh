// Phase 2 of a scan in segments: pass states from segment to segment.

struct PassArguments {
  Shape shape;
  const float *A, *initial;  // initial: (batch, channels, N) or null
  float* ends;               // in: end of each segment from zero; out: state on entry to each segment
  const float* dt_sums;
};
// One thread per number of a state. `backwards` passes adjoints, from the last segment to the first.
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
