// Embedding, and the projections between two stages of a U-Net.

__device__ void embed(Shared& m, Place& at, const Arguments& a, int width) {
  int quads = width / 4, rows = width / CLUSTER;
#pragma unroll 4
  for (int item = at.thread; item < at.active * quads; item += THREADS) {
    int stream = item / quads, quad = item % quads;
    const uint4* from = (const uint4*)(a.embedding_operand + (i64)m.tokens[stream] * width);
    ((uint4*)m.stream[stream])[quad] = __ldg(from + quad);
  }
  float(*residual)[STREAMS] = m.residual[at.residuals & 1];
#pragma unroll 4
  for (int item = at.thread; item < at.active * rows; item += THREADS) {
    int stream = item % at.active, row = item / at.active;
    residual[row][stream] = __ldg(a.embedding + (i64)m.tokens[stream] * width + at.rank * rows + row);
  }
  __syncthreads();
}

// Project a complete frame to one position of the next stage.
__device__ void compress(Shared& m, const Operation& op, Place& at) {
  int rows = op.width / CLUSTER, pairs = op.first.steps * 8;
  int columns = op.width / PARTS, part = columns * op.pool;  // channels per partial sum, and their numbers in a frame
  Weights w = weights_of(op.first, at);
  Ring ring = fetch_first(m, w, at);
#pragma unroll 1
  for (int item = at.thread; item < pairs * at.active; item += THREADS) {
    int stream = item / pairs, k = item % pairs * 2, phase = k % part / columns;
    int channel = at.rank * rows + k / part * columns + k % columns;
    float2 read = *(const float2*)(op.frames_in + ((at.row + stream) * op.pool + phase) * op.width + channel);
    *(Pair*)&m.operand[stream][operand_word(k)] = split(read.x, read.y);
  }
  __syncthreads();
  int inner_rows = 2 * rows;
  multiply<OWN_PARTS>(m, w, ring, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    send_partial_sums(m, at, inner_rows, row, stream, a, b);
  });
  update_stream(m, at, op, 2 * op.width);
}

// Project the output of the next stage to the frame that this stage adds to its next positions.
__device__ void expand(Shared& m, const Operation& op, Place& at) {
  int rows = op.width / CLUSTER;
  Weights w = weights_of(op.first, at);
  Ring ring = fetch_first(m, w, at);
  await_stream(at);
  multiply<1>(m, w, ring, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    int phase = row / rows, channel = at.rank * rows + row % rows;
    if (phase >= op.pool || stream >= at.active) return;
    float bias = op.bias[phase * op.width + channel];
    float* to = op.frames_out + ((at.row + stream) * op.pool + phase) * op.width + channel;
    to[0] = a + bias;
    if (stream + 1 < at.active) to[(i64)op.pool * op.width] = b + bias;
  });
  __syncthreads();
}
