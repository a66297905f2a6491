// Step of the scan: dt of each channel, the new state, and the gated output, which is the operand of out_proj.

__device__ float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// Prefetch the weights that compute_steps reads; call it at the start of a block.
__device__ void prefetch_steps(const Operation& op, const Channels& c, const Place& at) {
  constexpr int FLOATS = LINE / 4;
  int lines = (c.own + FLOATS - 1) / FLOATS;
#pragma unroll 1
  for (int item = at.thread; item < op.dt_rank * lines; item += THREADS)
    prefetch(op.dt_weight + (item / lines * c.all + c.first + item % lines * FLOATS));
}

// Compute dt and dt * u of each channel.
__device__ void compute_steps(Shared& m, const Operation& op, const Channels& c, const Place& at) {
  Walk walk = walk_of(c, at, 1);
  const float *weights = op.dt_weight + c.first, *biases = op.dt_bias + c.first;
  int ranks = op.dt_rank;
#pragma unroll 1
  for (int own = walk.own; own < c.own; own += walk.channels_apart) {
    float weight[DT_RANK], bias = __ldg(biases + own);
#pragma unroll
    for (int r = 0; r < DT_RANK; r++)
      if (r < ranks) weight[r] = __ldg(weights + r * c.all + own);
#pragma unroll 1
    for (int stream = walk.stream; stream < at.active; stream += walk.apart) {
      const float4* projected = (const float4*)m.projected[stream];
      float dt = bias;
#pragma unroll
      for (int r = 0; r < DT_RANK; r += 4)
        if (r < ranks) {
          float4 four = projected[r / 4];
          dt += weight[r] * four.x;
          dt += weight[r + 1] * four.y;
          dt += weight[r + 2] * four.z;
          dt += weight[r + 3] * four.w;
        }
      dt = softplus(dt);
      m.steps[stream][own] = make_float2(dt, dt * m.u[stream][own]);
    }
  }
}

// Four lanes share a channel of a stream; each has a quarter of its states.
constexpr int QUARTER = STATE / 4;
struct States {
  float h[QUARTER];
};
#if STATE % 16
typedef float2 Piece;
__device__ void unpack(float* h, float2 piece) { h[0] = piece.x; h[1] = piece.y; }
__device__ float2 pack(const float* h) { return make_float2(h[0], h[1]); }
#else
typedef float4 Piece;
__device__ void unpack(float* h, float4 piece) { h[0] = piece.x; h[1] = piece.y; h[2] = piece.z; h[3] = piece.w; }
__device__ float4 pack(const float* h) { return make_float4(h[0], h[1], h[2], h[3]); }
#endif
constexpr int PIECE = sizeof(Piece) / 4, PIECES = QUARTER / PIECE;

__device__ States load_shared(const float* from) {
  States s;
#pragma unroll
  for (int i = 0; i < PIECES; i++) unpack(s.h + i * PIECE, ((const Piece*)from)[i]);
  return s;
}
__device__ States load_parameter(const float* from) {
  States s;
#pragma unroll
  for (int i = 0; i < PIECES; i++) unpack(s.h + i * PIECE, __ldg((const Piece*)from + i));
  return s;
}
__device__ States load_states(const float* from) {
  States s;
#pragma unroll
  for (int i = 0; i < PIECES; i++) unpack(s.h + i * PIECE, load_state((const Piece*)from + i));
  return s;
}
__device__ void store_states(float* to, const States& s) {
#pragma unroll
  for (int i = 0; i < PIECES; i++) store_state((Piece*)to + i, pack(s.h + i * PIECE));
}

// Set h = exp(dt A) h + dt u B and return the real part of C h.
__device__ float advance(States& s, const States& A, const States& B, const States& C, float2 step, bool is_complex) {
  float sum = 0;
#if COMPLEX
  if (is_complex) {
#pragma unroll
    for (int i = 0; i < QUARTER; i += 2) {
      float decay = power_of_two(step.x * A.h[i]), sine, cosine;
      sincosf(step.x * A.h[i + 1], &sine, &cosine);
      float re = decay * (cosine * s.h[i] - sine * s.h[i + 1]) + step.y * B.h[i];
      float im = decay * (cosine * s.h[i + 1] + sine * s.h[i]) + step.y * B.h[i + 1];
      s.h[i] = re;
      s.h[i + 1] = im;
      sum += C.h[i] * re - C.h[i + 1] * im;
    }
    return 2 * sum;
  }
#endif
#pragma unroll
  for (int i = 0; i < QUARTER; i++) {
    s.h[i] = power_of_two(step.x * A.h[i]) * s.h[i] + step.y * B.h[i];
    sum += C.h[i] * s.h[i];
  }
  return sum;
}
// Sum a number over the four lanes of a channel.
__device__ float sum_lanes(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
// Sum four numbers over the four lanes of a channel, in the order of sum_lanes; lane k returns the k-th sum.
__device__ float sum_four(float a, float b, float c, float d, int lane) {
  bool odd = lane & 1, upper = lane & 2;
  float ab = (odd ? b : a) + __shfl_xor_sync(~0u, odd ? a : b, 1);
  float cd = (odd ? d : c) + __shfl_xor_sync(~0u, odd ? c : d, 1);
  return (upper ? cd : ab) + __shfl_xor_sync(~0u, upper ? ab : cd, 2);
}

struct Scan {
  const float *A, *B, *C, *D;  // at the first channel of the rank and the quarter of the lane; B, C: null if they vary
  float* state;                // at the first stream of the cluster
  int at_B, at_C;              // offsets in Shared::projected if they vary
  bool is_complex;
};
__device__ Scan scan_of(const Operation& op, const Channels& c, const Walk& walk, const Place& at) {
  int quarter = walk.lane * QUARTER, first = c.first * STATE + quarter;
  Scan scan;
  scan.A = op.A + first;
  scan.B = op.has_B ? nullptr : op.B + first;
  scan.C = op.has_C ? nullptr : op.C + first;
  scan.D = op.D + c.first;
  scan.state = op.ssm + at.row * c.all * STATE + first;
  scan.at_B = op.dt_rank + quarter;
  scan.at_C = scan.at_B + (op.has_B ? STATE : 0);
  scan.is_complex = op.is_complex;
  return scan;
}
struct GroupInputs {
  States h[GROUP], A;
  float skip;
};
__device__ void fetch_group(GroupInputs& f, const Scan& scan, const Channels& c, const Group& group, const Walk& walk,
                            int active) {
  if (group.own >= c.own) return;
  f.A = load_parameter(scan.A + group.own * STATE);
  f.skip = __ldg(scan.D + group.own);
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    if (stream < active) f.h[i] = load_states(scan.state + (stream * c.all + group.own) * STATE);
  }
}
// VARIES: both B and C vary over time.
template <bool VARIES>
__device__ void scan_group(Shared& m, const Scan& scan, const Channels& c, GroupInputs& f, const Group& group,
                           const Walk& walk, int active) {
  float y[GROUP];
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_active = stream < active;
    stream = is_active ? stream : group.stream;
    const float* projected = m.projected[stream];
    bool is_B_constant = !VARIES && scan.B, is_C_constant = !VARIES && scan.C;
    States B = is_B_constant ? load_parameter(scan.B + group.own * STATE) : load_shared(projected + scan.at_B);
    States C = is_C_constant ? load_parameter(scan.C + group.own * STATE) : load_shared(projected + scan.at_C);
    y[i] = advance(f.h[i], f.A, B, C, m.steps[stream][group.own], scan.is_complex);
    if (is_active) store_states(scan.state + (stream * c.all + group.own) * STATE, f.h[i]);
  }
  constexpr int SUMS_AT_ONCE = GROUP < 4 ? 1 : 4;  // number of streams summed together
#pragma unroll
  for (int i = 0; i < GROUP; i += SUMS_AT_ONCE) {
    float sum;
    if constexpr (SUMS_AT_ONCE == 1) sum = sum_lanes(y[i]);
    else sum = sum_four(y[i], y[i + 1], y[i + 2], y[i + 3], walk.lane);
    int stream = group.stream + (SUMS_AT_ONCE == 1 ? i : i + walk.lane) * walk.apart;
    bool is_active = stream < active;
    stream = is_active ? stream : group.stream;
    float gated = (sum + f.skip * m.u[stream][group.own]) * m.z[stream][group.own];
    float neighbour = __shfl_xor_sync(~0u, gated, 4);
    if (is_active && group.own % 2 == 0 && walk.lane < SUMS_AT_ONCE)
      *(Pair*)&m.operand[stream][operand_word(group.own)] = split(gated, neighbour);
  }
}

// Scan all groups of the walk; `inputs` has the data of the first.
template <bool VARIES>
__device__ void scan_groups(Shared& m, const Scan& scan, const Channels& c, GroupInputs& inputs, Group group,
                            const Walk& walk, int active) {
#pragma unroll 1
  while (group.own < c.own) {
    GroupInputs now = inputs;
    Group next = next_group(group, walk, active);
    fetch_group(inputs, scan, c, next, walk, active);
    scan_group<VARIES>(m, scan, c, now, group, walk, active);
    group = next;
  }
}
