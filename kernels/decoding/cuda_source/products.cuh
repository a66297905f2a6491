// Matrix times streams on the tensor cores. A stream's sums are made in one order, whatever the other streams are and
// however many: that is what makes a sample independent of its batch. Sums over channels that ranks share out have PARTS
// parts, which are added up as the leaves of a tree; so they are the same for any number of ranks.

// get(0) + get(1) + ..., as the leaves of a tree; COUNT is a power of two.
template <int COUNT, class Get>
__device__ float add_up(Get get) {
  float sums[COUNT];
#pragma unroll
  for (int i = 0; i < COUNT; i++) sums[i] = get(i);
#pragma unroll
  for (int apart = 1; apart < COUNT; apart *= 2)
#pragma unroll
    for (int i = 0; i < COUNT; i += 2 * apart) sums[i] += sums[i + apart];
  return sums[0];
}

// This rank's rows of a product as a lane reads them, in registers: a store to shared memory, where operations are, would
// have the compiler read them again.
struct Weights {
  const uint4 *high, *low;
  int tiles, steps;
};
__device__ Weights weights_of(const Product& p, const Place& at) {
  i64 first = (i64)at.rank * p.tiles * p.steps * 32 + at.lane;
  return {p.high + first, p.low + first, p.tiles, p.steps};
}

// Weights come through a ring of chunks in shared memory, all but one of which are under way: registers would hold too
// few to hide how long they take. A lane reads what it has asked for itself, so that nobody waits for anybody. A ring
// says what of a product the warp asks for next, and which chunk it becomes.
struct Ring {
  int tile, step, chunk;
};
__device__ int after(int chunk) { return chunk + 1 == RING ? 0 : chunk + 1; }
// Asks for one chunk more, or for nothing where all of the product has been asked for.
__device__ void fetch(Shared& m, Ring& ring, const Weights& w, const Place& at) {
  if (ring.tile < w.tiles) {
    int first = (ring.tile * w.steps + ring.step) * 32;
    uint4(*to)[32] = m.weights[at.warp][ring.chunk];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      if (ring.step + i < w.steps) {
        ask(&to[PLANES * i][at.lane], w.high + first + 32 * i);
#if PLANES > 1
        ask(&to[PLANES * i + 1][at.lane], w.low + first + 32 * i);
#endif
      }
    ring.chunk = after(ring.chunk);
    ring.step += AHEAD;
    if (ring.step >= w.steps) {
      ring.step = 0;
      ring.tile += WARPS;
    }
  }
  close_request();
}
// The weights that the warp needs first: they depend on nothing, so they are fetched while others are awaited.
__device__ Ring fetch_first(Shared& m, const Weights& w, const Place& at) {
  Ring ring = {at.warp, 0, 0};
#pragma unroll 1
  for (int chunk = 0; chunk < RING - 1; chunk++) fetch(m, ring, w, at);
  return ring;
}

// Where the pair of numbers k, k + 1 of a stream (k even) lies in its operand: the word of its high parts, then that
// of its low parts. A lane finds all that it needs of 16 numbers in 16 bytes.
__device__ int operand_word(u32 k) { return k / 16 * 16 + k % 8 / 2 * 4 + k % 16 / 8 * 2; }
struct Pair {
  u32 high, low;
};
__device__ Pair split(float first, float second) {
  Pair pair;
  pair.high = pack_bf16(first, second);
  pair.low = pack_bf16(first - float_of(pair.high << 16), second - float_of(pair.high & 0xffff0000u));
  return pair;
}

// Calls finish(row, stream, sum, sum of the next stream) for all rows of the weights times the operands of all streams.
// `ring` is as fetch_first left it. PIECES: parts of each sum; they are made side by side, a step of each in turn, which is
// how their weights come.
template <int PIECES, class Finish>
__device__ void multiply(Shared& m, const Weights& w, Ring ring, const u32* operand, int stride, const Place& at,
                         Finish finish) {
  static_assert(AHEAD % PIECES == 0, "a chunk has whole turns");
  int group = at.lane / 4, quarter = at.lane % 4, chunk = 0, length = w.steps / PIECES;
  operand += group * stride + 4 * quarter;
#pragma unroll 1
  for (int tile = at.warp; tile < w.tiles; tile += WARPS) {
    float high[PIECES][TILES][4] = {}, low[PIECES][TILES][4] = {};
#pragma unroll 1
    for (int step = 0; step < w.steps; step += AHEAD) {
      await_requests<RING - 2>();
      fetch(m, ring, w, at);  // into the chunk that was multiplied before this one
      const uint4(*weights)[32] = m.weights[at.warp][chunk];
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
        if (step + i < w.steps) {
          int piece = i % PIECES;
          const u32* columns = operand + (piece * length + (step + i) / PIECES) * 16;
          uint4 a = weights[PLANES * i][at.lane];
#if PLANES > 1
          uint4 rest = weights[PLANES * i + 1][at.lane];
#endif
#pragma unroll
          for (int n = 0; n < TILES; n++) {
            uint4 b = *(const uint4*)(columns + 8 * n * stride);
            multiply_add(high[piece][n], a, b.x, b.z);
            multiply_add(low[piece][n], a, b.y, b.w);
#if PLANES > 1
            multiply_add(low[piece][n], rest, b.x, b.z);
#endif
          }
        }
      chunk = after(chunk);
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      float sums[4];
#pragma unroll
      for (int i = 0; i < 4; i++) {
        sums[i] = add_up<PIECES>([&](int piece) { return high[piece][n][i] + low[piece][n][i]; });
      }
      int row = 16 * tile + group, stream = 8 * n + 2 * quarter;
      finish(row, stream, sums[0], sums[1]);
      finish(row + 8, stream, sums[2], sums[3]);
    }
  }
}
