// One position of a Mamba block. Each rank has some of the mixer's channels; it multiplies its rows of in_proj with
// the whole residual stream, and its columns of x_proj and out_proj with its channels, whose sums the ranks exchange.

// The reciprocal root mean square of each stream, a warp a stream.
__device__ void measure_streams(Shared& m, const Place& at, int width, float epsilon) {
#pragma unroll 1
  for (int stream = at.warp; stream < at.active; stream += WARPS) {
    float squares = 0;
#pragma unroll 2
    for (int pair = at.lane; pair < width / 2; pair += 32) {
      uint2 w = *(const uint2*)&m.stream[stream][2 * pair];
      float a = float_of(w.x << 16) + float_of(w.y << 16);
      float b = float_of(w.x & 0xffff0000u) + float_of(w.y & 0xffff0000u);
      squares += a * a + b * b;
    }
    for (int apart = 16; apart; apart /= 2) squares += __shfl_xor_sync(~0u, squares, apart);
    if (at.lane == 0) m.scale[stream] = rsqrtf(squares / width + epsilon);
  }
}

__device__ float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// The mixer's channels: how many this rank has, how many there are, and the first of this rank's. Here and below, what a
// phase uses of an operation again and again is in registers, for the reason that Weights has.
struct Channels {
  int own, all, first;
};
__device__ Channels channels_of(const Operation& op, const Place& at) {
  return {op.own_channels, op.own_channels * CLUSTER, op.own_channels * at.rank};
}
// How the threads share out the channels, `lanes` threads a channel: a thread has every `channels_apart`-th channel from
// `own` on, and of each every `apart`-th stream from `stream` on.
struct Walk {
  int own, lane, stream, apart, channels_apart;
};
__device__ Walk walk_of(const Channels& c, const Place& at, int lanes) {
  int width = c.own * lanes, index = at.thread % width, stream = at.thread / width;
  int apart = max(THREADS / width, 1);
  bool is_idle = stream >= min(apart, at.active);
  return {is_idle ? c.own : index / lanes, index % lanes, stream, apart, THREADS / lanes};
}
// What a thread does at once: a channel, and GROUP streams of it. Its loads come first, while the group before is in
// work, and no choice parts its streams, so that their arithmetic overlaps.
struct Group {
  int own, stream;
};
__device__ Group first_group(const Walk& walk) { return {walk.own, walk.stream}; }
__device__ Group next_group(Group group, const Walk& walk, int active) {
  group.stream += GROUP * walk.apart;
  if (group.stream >= active) group = {group.own + walk.channels_apart, walk.stream};
  return group;
}

// The convolution and both SiLUs.
constexpr int BEFORE = CONV - 1;
struct Convolution {
  const float *weight, *bias;  // of the rank's first channel
  float* state;                // of the cluster's first stream, too
};
__device__ Convolution convolution_of(const Operation& op, const Channels& c, const Place& at) {
  return {op.conv_weight + c.first, op.conv_bias + c.first, op.conv + at.row * BEFORE * c.all + c.first};
}
struct Past {
  float input[GROUP][BEFORE > 0 ? BEFORE : 1], weight[CONV], bias;
};
__device__ void load_past(Past& past, const Convolution& conv, const Channels& c, const Group& group,
                          const Walk& walk, int active) {
  if (group.own >= c.own) return;
#pragma unroll
  for (int k = 0; k < CONV; k++) past.weight[k] = __ldg(conv.weight + k * c.all + group.own);
  past.bias = __ldg(conv.bias + group.own);
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    const float* from = conv.state + (stream * BEFORE * c.all + group.own);
#pragma unroll
    for (int k = 0; k < BEFORE; k++)
      if (stream < active) past.input[i][k] = load_state(from + k * c.all);
  }
}
__device__ void convolve(Shared& m, const Convolution& conv, const Channels& c, const Past& past, const Group& group,
                         const Walk& walk, int active) {
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_there = stream < active;
    stream = is_there ? stream : group.stream;
    float scale = m.scale[stream], input = m.u[stream][group.own] * scale, z = m.z[stream][group.own] * scale;
    float u = past.bias;
#pragma unroll
    for (int k = 0; k < BEFORE; k++) u += past.weight[k] * past.input[i][k];
    u += past.weight[BEFORE] * input;
    u *= sigmoid(u);
    float neighbour = __shfl_xor_sync(~0u, u, 1);
    if (!is_there) continue;
    float* to = conv.state + (stream * BEFORE * c.all + group.own);
#pragma unroll
    for (int k = 0; k < BEFORE; k++) store_state(to + k * c.all, k + 1 < BEFORE ? past.input[i][k + 1] : input);
    m.u[stream][group.own] = u;
    m.z[stream][group.own] = z * sigmoid(z);
    if (group.own % 2 == 0) *(Pair*)&m.operand[stream][operand_word(group.own)] = split(u, neighbour);
  }
}

// dt of each channel, and dt u.
__device__ void make_steps(Shared& m, const Operation& op, const Channels& c, const Place& at) {
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

// Four lanes share a channel of a stream, each with a quarter of its states.
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

// h = exp(dt A) h + dt u B; returns the real part of C h.
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
// Sums a number over the four lanes of a channel.
__device__ float sum_lanes(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
// Sums four numbers over the four lanes of a channel, in the order of sum_lanes; lane k is left with that of the k-th.
__device__ float sum_four(float a, float b, float c, float d, int lane) {
  bool odd = lane & 1, upper = lane & 2;
  float ab = (odd ? b : a) + __shfl_xor_sync(~0u, odd ? a : b, 1);
  float cd = (odd ? d : c) + __shfl_xor_sync(~0u, odd ? c : d, 1);
  return (upper ? cd : ab) + __shfl_xor_sync(~0u, upper ? ab : cd, 2);
}

struct Scan {
  const float *A, *B, *C, *D;  // of the rank's first channel and the lane's quarter; B, C: null where they vary
  float* state;                // of the cluster's first stream, too
  int at_B, at_C;              // where they are, where they vary
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
struct Fetched {
  States h[GROUP], A;
  float skip;
};
__device__ void fetch_group(Fetched& f, const Scan& scan, const Channels& c, const Group& group, const Walk& walk,
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
// VARIES: both B and C do.
template <bool VARIES>
__device__ void scan_group(Shared& m, const Scan& scan, const Channels& c, Fetched& f, const Group& group,
                           const Walk& walk, int active) {
  float y[GROUP];
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_there = stream < active;
    stream = is_there ? stream : group.stream;
    const float* projected = m.projected[stream];
    bool is_B_there = !VARIES && scan.B, is_C_there = !VARIES && scan.C;
    States B = is_B_there ? load_parameter(scan.B + group.own * STATE) : load_shared(projected + scan.at_B);
    States C = is_C_there ? load_parameter(scan.C + group.own * STATE) : load_shared(projected + scan.at_C);
    y[i] = advance(f.h[i], f.A, B, C, m.steps[stream][group.own], scan.is_complex);
    if (is_there) store_states(scan.state + (stream * c.all + group.own) * STATE, f.h[i]);
  }
  constexpr int AT_ONCE = GROUP < 4 ? 1 : 4;  // streams whose sums the four lanes share out
#pragma unroll
  for (int i = 0; i < GROUP; i += AT_ONCE) {
    float sum;
    if constexpr (AT_ONCE == 1) sum = sum_lanes(y[i]);
    else sum = sum_four(y[i], y[i + 1], y[i + 2], y[i + 3], walk.lane);
    int stream = group.stream + (AT_ONCE == 1 ? i : i + walk.lane) * walk.apart;
    bool is_there = stream < active;
    stream = is_there ? stream : group.stream;
    float gated = (sum + f.skip * m.u[stream][group.own]) * m.z[stream][group.own];
    float neighbour = __shfl_xor_sync(~0u, gated, 4);
    if (is_there && group.own % 2 == 0 && walk.lane < AT_ONCE)
      *(Pair*)&m.operand[stream][operand_word(group.own)] = split(gated, neighbour);
  }
}

// Scans all groups of the walk; `fetched` holds the first.
template <bool VARIES>
__device__ void scan_groups(Shared& m, const Scan& scan, const Channels& c, Fetched& fetched, Group group,
                            const Walk& walk, int active) {
#pragma unroll 1
  while (group.own < c.own) {
    Fetched now = fetched;
    Group next = next_group(group, walk, active);
    fetch_group(fetched, scan, c, next, walk, active);
    scan_group<VARIES>(m, scan, c, now, group, walk, active);
    group = next;
  }
}

// The sums of dt, B and C over all channels.
__device__ void project(Shared& m, const Weights& w, int rows, const Place& at, Fragments& f) {
  multiply(w, f, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    if (row < rows && stream < at.active)
      for (int rank = 0; rank < CLUSTER; rank++) send_floats(&m.projections[at.rank][row][stream], rank, a, b);
  });
  cluster_arrive();
}
__device__ void sum_projections(Shared& m, int rows, const Place& at) {
#pragma unroll 1
  for (int item = at.thread; item < rows * at.active; item += THREADS) {
    int row = item / at.active, stream = item % at.active;
    float sum = 0;
    for (int rank = 0; rank < CLUSTER; rank++) sum += m.projections[rank][row][stream];
    m.projected[stream][row] = sum;
  }
}

__device__ void run_block(Shared& m, const Operation& op, Place& at, float epsilon) {
  Channels c = channels_of(op, at);
  int active = at.active;
  Fragments f;
  Weights in = weights_of(op.first, at);
  fetch_first(f, in, at);
  Walk walk = walk_of(c, at, 1);
  Group group = first_group(walk);
  Convolution conv = convolution_of(op, c, at);
  Past past;
  load_past(past, conv, c, group, walk, active);
  await_stream(at);
  multiply(in, f, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    float(*to)[OWN_CHANNELS + 4] = row < c.own ? m.u : m.z;
    int channel = row < c.own ? row : row - c.own;
    to[stream][channel] = a;
    to[stream + 1][channel] = b;
  });
  measure_streams(m, at, op.width, epsilon);
  int projected = op.projected;
  Weights projection = weights_of(op.second, at);
  if (projected) fetch_first(f, projection, at);
  __syncthreads();

#pragma unroll 1
  while (group.own < c.own) {
    Past now = past;
    Group next = next_group(group, walk, active);
    load_past(past, conv, c, next, walk, active);
    convolve(m, conv, c, now, group, walk, active);
    group = next;
  }
  __syncthreads();

  walk = walk_of(c, at, 4);
  group = first_group(walk);
  if (projected) project(m, projection, projected, at, f);
  Scan scan = scan_of(op, c, walk, at);
  Fetched fetched;
  fetch_group(fetched, scan, c, group, walk, active);
  Weights out = weights_of(op.third, at);
  fetch_first(f, out, at);
  if (projected) {
    cluster_wait();
    sum_projections(m, projected, at);
    __syncthreads();
  }
  make_steps(m, op, c, at);
  __syncthreads();

  if (scan.B || scan.C) scan_groups<false>(m, scan, c, fetched, group, walk, active);
  else scan_groups<true>(m, scan, c, fetched, group, walk, active);
  __syncthreads();

  int rows = op.width / CLUSTER;
  multiply(out, f, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    send_share(m, at, rows, row, stream, a, b);
  });
  settle(m, at, op, op.width);
}
