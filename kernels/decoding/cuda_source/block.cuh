// One position of a Mamba block. Each rank has some of the mixer's channels; it multiplies its rows of in_proj with
// the whole residual stream, and its columns of x_proj and out_proj with its channels, whose sums the ranks exchange.

// The reciprocal root mean square of each stream, a warp a stream.
__device__ void measure_streams(Shared& m, const Place& at, int width, float epsilon) {
#pragma unroll 1
  for (int stream = at.warp; stream < STREAMS; stream += WARPS) {
    float squares = 0;
#pragma unroll 2
    for (int pair = at.lane; pair < width / 2; pair += 32) {
      uint2 w = *(const uint2*)&m.stream[at.current][stream][2 * pair];
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
  float input[CONV > 1 ? CONV - 1 : 1];
};
__device__ float* past_of(const Operation& op, const Place& at, int item) {
  int channels = op.own_channels * CLUSTER;
  i64 stream = at.row + item / op.own_channels;
  return op.conv + stream * (CONV - 1) * channels + at.rank * op.own_channels + item % op.own_channels;
}
__device__ void load_past(Past& past, const Operation& op, const Place& at, int item) {
  if (item < op.own_channels * STREAMS)
#pragma unroll
    for (int k = 0; k < CONV - 1; k++) past.input[k] = past_of(op, at, item)[k * op.own_channels * CLUSTER];
}
__device__ void convolve(Shared& m, const Operation& op, const Place& at, Past& past, int item) {
  int own = item % op.own_channels, stream = item / op.own_channels, channel = at.rank * op.own_channels + own;
  float scale = m.scale[stream], input = m.local.u[stream][own] * scale, z = m.local.z[stream][own] * scale;
  const float* weight = op.conv_weight + channel * CONV;
  float u = op.conv_bias[channel];
#pragma unroll
  for (int k = 0; k < CONV - 1; k++) u += weight[k] * past.input[k];
  u += weight[CONV - 1] * input;
  u *= sigmoid(u);
#pragma unroll
  for (int k = 0; k < CONV - 1; k++)
    past_of(op, at, item)[k * op.own_channels * CLUSTER] = k + 2 < CONV ? past.input[k + 1] : input;
  m.local.u[stream][own] = u;
  m.local.z[stream][own] = z * sigmoid(z);
  float neighbour = __shfl_xor_sync(~0u, u, 1);
  if (own % 2 == 0) *(Pair*)&m.local.operand[stream][operand_word(own)] = split(u, neighbour);
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

constexpr int STATES_AHEAD = 4;  // streams whose states a thread fetches at once

// One thread's share of the scan: the same quarter of a channel in every `apart`-th stream.
struct Column {
  int own, part, stream, apart;
};
__device__ float* states_of(const Operation& op, const Place& at, const Column& c, int stream) {
  i64 channels = op.own_channels * CLUSTER;
  return op.ssm + ((at.row + stream) * channels + at.rank * op.own_channels + c.own) * STATE + c.part * QUARTER;
}
__device__ void load_ahead(States (&ahead)[STATES_AHEAD], const Operation& op, const Place& at, const Column& c,
                           int stream) {
#pragma unroll
  for (int i = 0; i < STATES_AHEAD; i++)
    if (stream + i * c.apart < STREAMS) ahead[i] = load_states(states_of(op, at, c, stream + i * c.apart));
}
__device__ void scan_column(Shared& m, const Operation& op, const Place& at, const Column& c,
                            States (&ahead)[STATES_AHEAD]) {
  int channel = at.rank * op.own_channels + c.own, at_states = channel * STATE + c.part * QUARTER;
  int at_B = op.dt_rank + c.part * QUARTER, at_C = at_B + (op.has_B ? STATE : 0);
  States A = load_states(op.A + at_states), B = {}, C = {};
  if (!op.has_B) B = load_states(op.B + at_states);
  if (!op.has_C) C = load_states(op.C + at_states);
  float bias = op.dt_bias[channel], skip = op.D[channel];
#pragma unroll 1
  for (int first = c.stream; first < STREAMS; first += STATES_AHEAD * c.apart) {
    States now[STATES_AHEAD];
#pragma unroll
    for (int i = 0; i < STATES_AHEAD; i++) now[i] = ahead[i];
    load_ahead(ahead, op, at, c, first + STATES_AHEAD * c.apart);
#pragma unroll
    for (int i = 0; i < STATES_AHEAD; i++) {
      int stream = first + i * c.apart;
      if (stream >= STREAMS) break;
      const float* projected = m.local.projected[stream];
      float dt = 0;
      if (op.has_dt) {
#pragma unroll 4
        for (int r = c.part; r < op.dt_rank; r += 4) dt += op.dt_weight[channel * op.dt_rank + r] * projected[r];
        dt = sum_quad(dt);
      }
      dt = softplus(dt + bias);
      if (op.has_B) B = load_states(projected + at_B);
      if (op.has_C) C = load_states(projected + at_C);
      float u = m.local.u[stream][c.own];
      float y = sum_quad(advance(now[i], A, B, C, dt, u, op.is_complex));
      *(States*)states_of(op, at, c, stream) = now[i];
      y = (y + skip * u) * m.local.z[stream][c.own];
      float neighbour = __shfl_xor_sync(~0u, y, 4);
      if (c.part == 0 && c.own % 2 == 0)
        *(Pair*)&m.local.operand[stream][operand_word(c.own)] = split(y, neighbour);
    }
  }
}

__device__ void run_block(Shared& m, const Operation& op, Place& at, float epsilon) {
  int own = op.own_channels, items = own * STREAMS;
  Fragments in, projection, out;
  Past past;
  fetch_first(in, op.first, at);
  load_past(past, op, at, at.thread);
  await_stream(m, at);
  multiply(op.first, in, &m.stream[at.current][0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    float(*to)[OWN_CHANNELS + 4] = row < own ? m.local.u : m.local.z;
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

  int lanes = 4 * own, lane = at.thread % lanes, per_round = lanes < THREADS ? THREADS / lanes : 1;
  Column column = {lane / 4, lane % 4, at.thread / lanes, per_round};
  States ahead[STATES_AHEAD];
  bool is_scanning = lanes > THREADS || at.thread < per_round * lanes;
  if (is_scanning) load_ahead(ahead, op, at, column, column.stream);
  if (op.projected) {
    multiply(op.second, projection, &m.local.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
      if (row < op.projected)
        for (int rank = 0; rank < CLUSTER; rank++)
          send_floats(&m.projections[at.rank][row][stream], m.barriers + PROJECTION, rank, a, b);
    });
    await(m, at, PROJECTION, CLUSTER * op.projected * STREAMS * 4);
#pragma unroll 1
    for (int item = at.thread; item < op.projected * STREAMS; item += THREADS) {
      float sum = 0;
      for (int rank = 0; rank < CLUSTER; rank++) sum += m.projections[rank][item / STREAMS][item % STREAMS];
      m.local.projected[item % STREAMS][item / STREAMS] = sum;
    }
  }
  fetch_first(out, op.third, at);
  __syncthreads();

#pragma unroll 1
  for (int more = at.thread; is_scanning;) {
    scan_column(m, op, at, column, ahead);
    more += THREADS;
    if (more >= lanes) break;
    column = {more / 4, more % 4, 0, 1};
    load_ahead(ahead, op, at, column, 0);
  }
  __syncthreads();

  int rows = op.width / CLUSTER;
  multiply(op.third, out, &m.local.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    send_floats(&m.outputs[at.rank][row % rows][stream], m.barriers + OUTPUT, row / rows, a, b);
  });
  settle(m, at, op, op.width);
}
