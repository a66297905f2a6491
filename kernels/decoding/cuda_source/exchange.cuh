// Communication within a cluster. Blocks write into the shared memory of each other and synchronize at a barrier. After
// a barrier a block writes only where all blocks have finished reading.

__device__ void await_stream(Place& at) {
  if (at.is_stream_pending) cluster_wait();
  at.is_stream_pending = false;
}

__device__ void send_floats(void* p, int rank, float a, float b) { send(p, rank, bits_of(a), bits_of(b)); }

// Send the partial sums of two streams to the rank that owns the row; each rank owns `rows` rows.
__device__ void send_partial_sums(Shared& m, const Place& at, int rows, int row, int stream, float a, float b) {
  int rank = CLUSTER > 2 ? row / rows : row >= rows && CLUSTER > 1;
  if (stream < at.active) send_floats(&m.outputs[at.rank][row - rank * rows][stream], rank, a, b);
}

// Add up the partial sums of the rows of this rank, update the residual stream and broadcast it. If there are enough
// threads, several compute the same sum, and each sends it to some of the ranks.
__device__ void update_stream(Shared& m, Place& at, const Operation& op, int width) {
  cluster_arrive();
  int rows = width / CLUSTER, items = rows / 2 * at.active;
  int replicas = min(max(THREADS / items, 1), CLUSTER);
  bool is_block = op.kind == BLOCK, is_framed = is_block && op.frames_in;
  u32 bit = 1u << op.depth, half = at.residuals & bit ? 1 : 0;
  float(*before)[STREAMS] = m.residual[half] + op.residual;
  float(*after)[STREAMS] = m.residual[half ^ 1] + op.residual;
  int phase = is_framed ? at.tick / op.period % op.pool : 0;
  auto frame_of = [&](int stream, int channel) {
    return ((at.row + stream) * op.pool + phase) * width + channel;
  };
  float2 written = make_float2(0, 0);
  if (is_framed && at.thread < items * replicas) {
    int item = at.thread % items;
    written = *(const float2*)(op.frames_out + frame_of(item % at.active, at.rank * rows + item / at.active * 2));
  }
  cluster_wait();
#pragma unroll 1
  for (int index = at.thread; index < items * replicas; index += THREADS) {
    int item = index % items, replica = index / items, stream = item % at.active, row = item / at.active * 2;
    int channel = at.rank * rows + row;
    float a = add_up<CLUSTER>([&](int rank) { return m.outputs[rank][row][stream]; });
    float b = add_up<CLUSTER>([&](int rank) { return m.outputs[rank][row + 1][stream]; });
    if (is_block) {
      float was_a = before[row][stream], was_b = before[row + 1][stream];
      a += was_a;
      b += was_b;
      if (op.save >= 0 && replica == 0) {
        m.skips[op.save + row][stream] = was_a;
        m.skips[op.save + row + 1][stream] = was_b;
      }
      if (op.add >= 0) {
        bool itself = op.add == op.save;
        a += itself ? was_a : m.skips[op.add + row][stream];
        b += itself ? was_b : m.skips[op.add + row + 1][stream];
      }
    } else {
      a += op.bias[channel];
      b += op.bias[channel + 1];
    }
    if (is_framed) {
      if (index >= THREADS) written = *(const float2*)(op.frames_out + frame_of(stream, channel));
      if (replica == 0) *(float2*)(op.frames_in + frame_of(stream, channel)) = make_float2(a, b);
      a += written.x;
      b += written.y;
    }
    if (replica == 0) {
      after[row][stream] = a;
      after[row + 1][stream] = b;
    }
    Pair pair = split(a, b);
    u32* place = &m.stream[stream][operand_word(channel)];
    for (int rank = replica; rank < CLUSTER; rank += replicas) send(place, rank, pair.high, pair.low);
  }
  at.residuals ^= bit;
  cluster_arrive();
  at.is_stream_pending = true;
}
