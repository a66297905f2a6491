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

__device__ float sigmoid(float x) { return 1 / (1 + expf(-x)); }
__device__ float softplus(float x) { return x > 20 ? x : log1pf(expf(x)); }

// The convolution and both SiLUs, for the rank's channels of each stream.
struct Past {
  float input[CONV > 1 ? CONV - 1 : 1], weight[CONV], bias;
};
__device__ float* past_of(const Operation& op, const Place& at, int item) {
  int channels = op.own_channels * CLUSTER;
  i64 stream = at.row + item / op.own_channels;
  return op.conv + stream * (CONV - 1) * channels + at.rank * op.own_channels + item % op.own_channels;
}
__device__ void load_past(Past& past, const Operation& op, const Place& at, int item) {
  if (item >= op.own_channels * at.active) return;
  int channel = at.rank * op.own_channels + item % op.own_channels;
#pragma unroll
  for (int k = 0; k < CONV - 1; k++) past.input[k] = past_of(op, at, item)[k * op.own_channels * CLUSTER];
#pragma unroll
  for (int k = 0; k < CONV; k++) past.weight[k] = op.conv_weight[channel * CONV + k];
  past.bias = op.conv_bias[channel];
}
__device__ void convolve(Shared& m, const Operation& op, const Place& at, const Past& past, int item) {
  int own = item % op.own_channels, stream = item / op.own_channels;
  float scale = m.scale[stream], input = m.u[stream][own] * scale, z = m.z[stream][own] * scale;
  float u = past.bias;
#pragma unroll
  for (int k = 0; k < CONV - 1; k++) u += past.weight[k] * past.input[k];
  u += past.weight[CONV - 1] * input;
  u *= sigmoid(u);
#pragma unroll
  for (int k = 0; k < CONV - 1; k++)
    past_of(op, at, item)[k * op.own_channels * CLUSTER] = k + 2 < CONV ? past.input[k + 1] : input;
  m.u[stream][own] = u;
  m.z[stream][own] = z * sigmoid(z);
  float neighbour = __shfl_xor_sync(~0u, u, 1);
  if (own % 2 == 0) *(Pair*)&m.operand[stream][operand_word(own)] = split(u, neighbour);
}

// Four lanes share a channel of a stream, each with a quarter of its states.
constexpr int QUARTER = STATE / 4;
struct alignas(QUARTER % 4 ? 8 : 16) States {
  float h[QUARTER];
};
__device__ States load_states(const float* from) { return *(const States*)from; }
// h = exp(dt A) h + dt B u; returns the real part of C h.
__device__ float advance(States& s, const States& A, const States& B, const States& C, float dt, float u,
                         bool is_complex) {
  float sum = 0, dt_u = dt * u;
#if COMPLEX
  if (is_complex) {
#pragma unroll
    for (int i = 0; i < QUARTER; i += 2) {
      float decay = power_of_two(dt * A.h[i]), sine, cosine;
      sincosf(dt * A.h[i + 1], &sine, &cosine);
      float re = decay * (cosine * s.h[i] - sine * s.h[i + 1]) + dt_u * B.h[i];
      float im = decay * (cosine * s.h[i + 1] + sine * s.h[i]) + dt_u * B.h[i + 1];
      s.h[i] = re;
      s.h[i + 1] = im;
      sum += C.h[i] * re - C.h[i + 1] * im;
    }
    return 2 * sum;
  }
#endif
#pragma unroll
  for (int i = 0; i < QUARTER; i++) {
    s.h[i] = power_of_two(dt * A.h[i]) * s.h[i] + dt_u * B.h[i];
    sum += C.h[i] * s.h[i];
  }
  return sum;
}
__device__ float sum_quad(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

constexpr int STATES_AHEAD = STREAMS > 8 ? 8 : 4;  // states that a thread fetches before it needs them

// The states that one thread advances: the same quarter of some channels, for some streams.
struct Cursor {
  int own, part, stream;
};
struct Walk {
  int first_stream, apart, channels_apart;
};
__device__ void step_forward(Cursor& c, const Walk& walk, const Place& at) {
  c.stream += walk.apart;
  if (c.stream < at.active) return;
  c.stream = walk.first_stream;
  c.own += walk.channels_apart;
}
__device__ States* states_of(const Operation& op, const Place& at, const Cursor& c) {
  i64 channels = op.own_channels * CLUSTER;
  i64 row = (at.row + c.stream) * channels + at.rank * op.own_channels + c.own;
  return (States*)(op.ssm + row * STATE + c.part * QUARTER);
}
// Fetches the next states from `c` on, and moves it behind them.
__device__ void load_ahead(States (&ahead)[STATES_AHEAD], const Operation& op, const Place& at, Cursor& c,
                           const Walk& walk) {
#pragma unroll
  for (int i = 0; i < STATES_AHEAD; i++)
    if (c.own < op.own_channels) {
      ahead[i] = *states_of(op, at, c);
      step_forward(c, walk, at);
    }
}
// What a channel has of its own.
struct Channel {
  int own;
  States A, B, C;
  float bias, skip, dt_weight[DT_RANK / 4];
};
__device__ void load_channel(Channel& channel, const Operation& op, const Place& at, const Cursor& c) {
  int index = at.rank * op.own_channels + c.own, states = index * STATE + c.part * QUARTER;
  channel.own = c.own;
  if (c.own >= op.own_channels) return;
  channel.A = load_states(op.A + states);
  if (!op.has_B) channel.B = load_states(op.B + states);
  if (!op.has_C) channel.C = load_states(op.C + states);
  channel.bias = op.dt_bias[index];
  channel.skip = op.D[index];
#pragma unroll
  for (int r = 0; r < DT_RANK / 4; r++)
    if (4 * r < op.dt_rank) channel.dt_weight[r] = op.dt_weight[index * op.dt_rank + 4 * r + c.part];
}
// `ahead` holds the first states, up to `fetched`, and `channel` is that of the first.
__device__ void scan(Shared& m, const Operation& op, const Place& at, Cursor c, Cursor fetched, const Walk& walk,
                     States (&ahead)[STATES_AHEAD], Channel& channel) {
  int at_B = op.dt_rank + c.part * QUARTER, at_C = at_B + (op.has_B ? STATE : 0);
#pragma unroll 1
  while (c.own < op.own_channels) {
    States now[STATES_AHEAD];
#pragma unroll
    for (int i = 0; i < STATES_AHEAD; i++) now[i] = ahead[i];
    load_ahead(ahead, op, at, fetched, walk);
#pragma unroll
    for (int i = 0; i < STATES_AHEAD; i++) {
      if (c.own >= op.own_channels) break;
      if (c.own != channel.own) load_channel(channel, op, at, c);
      const float* projected = m.projected[c.stream];
      float dt = 0;
      if (op.has_dt) {
#pragma unroll
        for (int r = 0; r < DT_RANK / 4; r++)
          if (4 * r < op.dt_rank) dt += channel.dt_weight[r] * projected[4 * r + c.part];
        dt = sum_quad(dt);
      }
      dt = softplus(dt + channel.bias);
      if (op.has_B) channel.B = load_states(projected + at_B);
      if (op.has_C) channel.C = load_states(projected + at_C);
      float u = m.u[c.stream][c.own];
      float y = sum_quad(advance(now[i], channel.A, channel.B, channel.C, dt, u, op.is_complex));
      *states_of(op, at, c) = now[i];
      y = (y + channel.skip * u) * m.z[c.stream][c.own];
      float neighbour = __shfl_xor_sync(~0u, y, 4);
      if (c.part == 0 && c.own % 2 == 0)
        *(Pair*)&m.operand[c.stream][operand_word(c.own)] = split(y, neighbour);
      step_forward(c, walk, at);
    }
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
__device__ void sum_projections(Shared& m, const Operation& op, const Place& at) {
  cluster_wait();
#pragma unroll 1
  for (int item = at.thread; item < op.projected * at.active; item += THREADS) {
    int row = item / at.active, stream = item % at.active;
    float sum = 0;
    for (int rank = 0; rank < CLUSTER; rank++) sum += m.projections[rank][row][stream];
    m.projected[stream][row] = sum;
  }
}

__device__ void run_block(Shared& m, const Operation& op, Place& at, float epsilon) {
  int own = op.own_channels, items = own * at.active;
  Fragments in, projection, out;
  Past past;
  fetch_first(in, op.first, at);
  load_past(past, op, at, at.thread);
  await_stream(at);
  multiply(op.first, in, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    float(*to)[OWN_CHANNELS + 4] = row < own ? m.u : m.z;
    int channel = row < own ? row : row - own;
    to[stream][channel] = a;
    to[stream + 1][channel] = b;
  });
  measure_streams(m, at, op.width, epsilon);
  if (op.projected) fetch_first(projection, op.second, at);
  __syncthreads();

#pragma unroll 1
  for (int item = at.thread; item < items; item += THREADS) {
    if (item != at.thread) load_past(past, op, at, item);
    convolve(m, op, at, past, item);
  }
  __syncthreads();

  int lanes = 4 * own, lane = at.thread % lanes, stream = at.thread / lanes;
  Walk walk = {stream, max(THREADS / lanes, 1), THREADS / 4};
  Cursor start = {stream < min(walk.apart, at.active) ? lane / 4 : own, lane % 4, stream}, fetched = start;
  States ahead[STATES_AHEAD];
  Channel channel;
  if (op.projected) project(m, op, at, projection);
  load_ahead(ahead, op, at, fetched, walk);
  load_channel(channel, op, at, start);
  fetch_first(out, op.third, at);
  if (op.projected) sum_projections(m, op, at);
  __syncthreads();

  scan(m, op, at, start, fetched, walk, ahead, channel);
  __syncthreads();

  int rows = op.width / CLUSTER;
  multiply(op.third, out, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    if (stream < at.active) send_floats(&m.outputs[at.rank][row % rows][stream], row / rows, a, b);
  });
  settle(m, at, op, op.width);
}
