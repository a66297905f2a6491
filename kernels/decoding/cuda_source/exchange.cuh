// What the blocks of a cluster tell one another. Each exchange is from all to all, this block to itself included, and
// has a barrier that counts the bytes. A block sends exchange k + 1 when it has all of exchange k, so none is more
// than one ahead, and a place may be written again in the second exchange after the one that filled it.

__device__ void await(Shared& m, Place& at, int barrier, int bytes) {
  if (at.thread == 0) barrier_expect(m.barriers + barrier, bytes);
  barrier_wait(m.barriers + barrier, (at.phases >> barrier) & 1);
  at.phases ^= 1u << barrier;
}

__device__ void await_stream(Shared& m, Place& at) {
  if (at.stream_bytes) await(m, at, STREAM + at.current, at.stream_bytes);
  at.stream_bytes = 0;
}

__device__ void send_floats(const void* p, u64* barrier, int rank, float a, float b) {
  send(p, barrier, rank, bits_of(a), bits_of(b));
}

// Sums what the ranks have sent of this rank's rows, brings the residual stream up to date with it, and tells all.
// Several threads do the same sum, each for some of the ranks that are told, where there are threads enough.
__device__ void settle(Shared& m, Place& at, const Operation& op, int width) {
  int rows = width / CLUSTER, items = rows / 2 * STREAMS;
  int replicas = THREADS / items < 1 ? 1 : THREADS / items > CLUSTER ? CLUSTER : THREADS / items;
  bool is_block = op.kind == BLOCK, is_framed = is_block && op.frames_in;
  u32 bit = 1u << op.depth, half = at.residuals & bit ? 1 : 0;
  float(*before)[STREAMS] = m.residual[half] + op.residual;
  float(*after)[STREAMS] = m.residual[half ^ 1] + op.residual;
  int next = at.current ^ 1;
  int phase = is_framed ? at.tick / op.period % op.pool : 0;
  i64 first_row = at.row * op.pool + phase;
  auto frame_of = [&](int item) {
    return (first_row + (i64)(item % STREAMS) * op.pool) * width + at.rank * rows + item / STREAMS * 2;
  };
  float2 written = make_float2(0, 0);
  if (is_framed && at.thread < items * replicas) written = *(const float2*)(op.frames_out + frame_of(at.thread % items));
  await(m, at, OUTPUT, width * STREAMS * 4);
#pragma unroll 1
  for (int index = at.thread; index < items * replicas; index += THREADS) {
    int item = index % items, replica = index / items, stream = item % STREAMS, row = item / STREAMS * 2;
    int channel = at.rank * rows + row;
    float a = 0, b = 0;
    for (int rank = 0; rank < CLUSTER; rank++) {
      a += m.outputs[rank][row][stream];
      b += m.outputs[rank][row + 1][stream];
    }
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
      if (index >= THREADS) written = *(const float2*)(op.frames_out + frame_of(item));
      if (replica == 0) *(float2*)(op.frames_in + frame_of(item)) = make_float2(a, b);
      a += written.x;
      b += written.y;
    }
    if (replica == 0) {
      after[row][stream] = a;
      after[row + 1][stream] = b;
    }
    Pair pair = split(a, b);
    const u32* place = &m.stream[next][stream][operand_word(channel)];
#pragma unroll 1
    for (int rank = replica; rank < CLUSTER; rank += replicas)
      send(place, m.barriers + STREAM + next, rank, pair.high, pair.low);
  }
  at.residuals ^= bit;
  at.current = next;
  at.stream_bytes = width * STREAMS * 4;
}
