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

// How the threads share out the mixer's own channels, `lanes` threads a channel: a thread has every `channels_apart`-th
// channel from `own` on, and of each every `apart`-th stream from `stream` on.
struct Walk {
  int own, lane, stream, apart, channels_apart;
};
__device__ Walk walk_of(const Operation& op, const Place& at, int lanes) {
  int width = op.own_channels * lanes, index = at.thread % width, stream = at.thread / width;
  int apart = max(THREADS / width, 1);
  bool is_idle = stream >= min(apart, at.active);
  return {is_idle ? op.own_channels : index / lanes, index % lanes, stream, apart, THREADS / lanes};
}
// What a thread does at once: a channel, and GROUP streams of it. Its loads come first, while the group before is in
// work, and no choice parts its streams, so that their arithmetic overlaps.
constexpr int GROUP = STREAMS > 8 ? 8 : 4;
struct Group {
  int own, stream;
};
__device__ Group first_group(const Walk& walk) { return {walk.own, walk.stream}; }
__device__ Group next_group(Group group, const Walk& walk, const Place& at) {
  group.stream += GROUP * walk.apart;
  if (group.stream >= at.active) group = {group.own + walk.channels_apart, walk.stream};
  return group;
}

// The convolution and both SiLUs.
constexpr int BEFORE = CONV - 1;
struct Past {
  float input[GROUP][BEFORE > 0 ? BEFORE : 1], weight[CONV], bias;
};
__device__ float* past_of(const Operation& op, const Place& at, int own, int stream) {
  int channels = op.own_channels * CLUSTER;
  return op.conv + (at.row + stream) * BEFORE * channels + at.rank * op.own_channels + own;
}
__device__ void load_past(Past& past, const Operation& op, const Place& at, const Group& group, const Walk& walk) {
  if (group.own >= op.own_channels) return;
  int channel = at.rank * op.own_channels + group.own;
#pragma unroll
  for (int k = 0; k < CONV; k++) past.weight[k] = __ldg(op.conv_weight + channel * CONV + k);
  past.bias = __ldg(op.conv_bias + channel);
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    const float* from = past_of(op, at, group.own, stream);
#pragma unroll
    for (int k = 0; k < BEFORE; k++)
      if (stream < at.active) past.input[i][k] = load_state(from + k * op.own_channels * CLUSTER);
  }
}
__device__ void convolve(Shared& m, const Operation& op, const Place& at, const Past& past, const Group& group,
                         const Walk& walk) {
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_there = stream < at.active;
    stream = is_there ? stream : group.stream;
    float scale = m.scale[stream], input = m.u[stream][group.own] * scale, z = m.z[stream][group.own] * scale;
    float u = past.bias;
#pragma unroll
    for (int k = 0; k < BEFORE; k++) u += past.weight[k] * past.input[i][k];
    u += past.weight[BEFORE] * input;
    u *= sigmoid(u);
    float neighbour = __shfl_xor_sync(~0u, u, 1);
    if (!is_there) continue;
    float* to = past_of(op, at, group.own, stream);
#pragma unroll
    for (int k = 0; k < BEFORE; k++)
      store_state(to + k * op.own_channels * CLUSTER, k + 1 < BEFORE ? past.input[i][k + 1] : input);
    m.u[stream][group.own] = u;
    m.z[stream][group.own] = z * sigmoid(z);
    if (group.own % 2 == 0) *(Pair*)&m.operand[stream][operand_word(group.own)] = split(u, neighbour);
  }
}

// dt of each channel, with the sums of its projection over the ranks; and dt u.
__device__ void make_steps(Shared& m, const Operation& op, const Place& at) {
  Walk walk = walk_of(op, at, 1);
  for (Group group = first_group(walk); group.own < op.own_channels;) {
    int channel = at.rank * op.own_channels + group.own;
    float weight[DT_RANK], bias = __ldg(op.dt_bias + channel);
#pragma unroll
    for (int r = 0; r < DT_RANK; r++)
      if (r < op.dt_rank) weight[r] = __ldg(op.dt_weight + channel * op.dt_rank + r);
    for (int stream = group.stream; stream < at.active; stream += walk.apart) {
      float dt = bias;
#pragma unroll
      for (int r = 0; r < DT_RANK; r++)
        if (r < op.dt_rank) {
          float projected = 0;
          for (int rank = 0; rank < CLUSTER; rank++) projected += m.projections[rank][r][stream];
          dt += weight[r] * projected;
        }
      dt = softplus(dt);
      m.steps[stream][group.own] = make_float2(dt, dt * m.u[stream][group.own]);
    }
    group.own += walk.channels_apart;
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
// Sums four numbers over the four lanes of a channel; lane k is left with the sum of the k-th.
__device__ float sum_four(float a, float b, float c, float d, int lane) {
  bool odd = lane & 1, upper = lane & 2;
  float ab = (odd ? b : a) + __shfl_xor_sync(~0u, odd ? a : b, 1);
  float cd = (odd ? d : c) + __shfl_xor_sync(~0u, odd ? c : d, 1);
  return (upper ? cd : ab) + __shfl_xor_sync(~0u, upper ? ab : cd, 2);
}

struct Fetched {
  States h[GROUP], A;
  float skip;
};
__device__ float* states_of(const Operation& op, const Place& at, const Walk& walk, int own, int stream) {
  i64 channels = op.own_channels * CLUSTER;
  return op.ssm + ((at.row + stream) * channels + at.rank * op.own_channels + own) * STATE + walk.lane * QUARTER;
}
__device__ void fetch_group(Fetched& f, const Operation& op, const Place& at, const Group& group, const Walk& walk) {
  if (group.own >= op.own_channels) return;
  int channel = at.rank * op.own_channels + group.own;
  f.A = load_parameter(op.A + channel * STATE + walk.lane * QUARTER);
  f.skip = __ldg(op.D + channel);
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    if (stream < at.active) f.h[i] = load_states(states_of(op, at, walk, group.own, stream));
  }
}
__device__ void scan_group(Shared& m, const Operation& op, const Place& at, Fetched& f, const Group& group,
                           const Walk& walk) {
  int at_B = op.dt_rank + walk.lane * QUARTER, at_C = at_B + (op.has_B ? STATE : 0);
  int constant = (at.rank * op.own_channels + group.own) * STATE + walk.lane * QUARTER;
  float y[GROUP];
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_there = stream < at.active;
    stream = is_there ? stream : group.stream;
    const float* projected = m.projected[stream];
    States B = op.has_B ? load_shared(projected + at_B) : load_parameter(op.B + constant);
    States C = op.has_C ? load_shared(projected + at_C) : load_parameter(op.C + constant);
    y[i] = advance(f.h[i], f.A, B, C, m.steps[stream][group.own], op.is_complex);
    if (is_there) store_states(states_of(op, at, walk, group.own, stream), f.h[i]);
  }
#pragma unroll
  for (int i = 0; i < GROUP; i += 4) {
    float sum = sum_four(y[i], y[i + 1], y[i + 2], y[i + 3], walk.lane);
    int stream = group.stream + (i + walk.lane) * walk.apart;
    bool is_there = stream < at.active;
    stream = is_there ? stream : group.stream;
    float gated = (sum + f.skip * m.u[stream][group.own]) * m.z[stream][group.own];
    float neighbour = __shfl_xor_sync(~0u, gated, 4);
    if (is_there && group.own % 2 == 0)
      *(Pair*)&m.operand[stream][operand_word(group.own)] = split(gated, neighbour);
  }
}

// The sums of dt, B and C over all channels.
__device__ void project(Shared& m, const Operation& op, const Place& at, Fragments& f) {
  multiply(op.second, f, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    if (row < op.projected && stream < at.active)
      for (int rank = 0; rank < CLUSTER; rank++) send_floats(&m.projections[at.rank][row][stream], rank, a, b);
  });
  cluster_arrive();
}
// dt of all channels, and the sums of B and C.
__device__ void sum_projections(Shared& m, const Operation& op, const Place& at) {
  make_steps(m, op, at);
  int rows = op.projected - op.dt_rank;
#pragma unroll 1
  for (int item = at.thread; item < rows * at.active; item += THREADS) {
    int row = op.dt_rank + item / at.active, stream = item % at.active;
    float sum = 0;
    for (int rank = 0; rank < CLUSTER; rank++) sum += m.projections[rank][row][stream];
    m.projected[stream][row] = sum;
  }
}

__device__ void run_block(Shared& m, const Operation& op, Place& at, float epsilon) {
  int own = op.own_channels;
  Fragments f;
  fetch_first(f, op.first, at);
  Walk walk = walk_of(op, at, 1);
  Group group = first_group(walk);
  Past past;
  load_past(past, op, at, group, walk);
  await_stream(at);
  multiply(op.first, f, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    float(*to)[OWN_CHANNELS + 4] = row < own ? m.u : m.z;
    int channel = row < own ? row : row - own;
    to[stream][channel] = a;
    to[stream + 1][channel] = b;
  });
  measure_streams(m, at, op.width, epsilon);
  if (op.projected) fetch_first(f, op.second, at);
  __syncthreads();

#pragma unroll 1
  while (group.own < own) {
    Past now = past;
    Group next = next_group(group, walk, at);
    load_past(past, op, at, next, walk);
    convolve(m, op, at, now, group, walk);
    group = next;
  }
  __syncthreads();

  walk = walk_of(op, at, 4);
  group = first_group(walk);
  Fetched fetched;
  if (op.projected) project(m, op, at, f);
  fetch_group(fetched, op, at, group, walk);
  fetch_first(f, op.third, at);
  if (op.projected) cluster_wait();
  sum_projections(m, op, at);
  __syncthreads();

#pragma unroll 1
  while (group.own < own) {
    Fetched now = fetched;
    Group next = next_group(group, walk, at);
    fetch_group(fetched, op, at, next, walk);
    scan_group(m, op, at, now, group, walk);
    group = next;
  }
  __syncthreads();

  int rows = op.width / CLUSTER;
  multiply(op.third, f, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    send_share(m, at, rows, row, stream, a, b);
  });
  settle(m, at, op, op.width);
}
