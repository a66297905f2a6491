// Products of a matrix and the streams on the tensor cores. The order of summation of a stream does not depend on the
// other streams, so a sample does not depend on its batch. A sum over channels that is split over ranks has PARTS
// partial sums, added up as a binary tree, so the result does not depend on the number of ranks.

// Return get(0) + get(1) + ..., added as a binary tree; COUNT is a power of two.
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

// Rows of a product for this rank and lane, in registers. The operations are in shared memory, and the compiler would
// reload them after every store to shared memory.
struct Weights {
  const uint4 *high, *low;
  int tiles, steps;
};
__device__ Weights weights_of(const Product& p, const Place& at) {
  i64 first = (i64)at.rank * p.tiles * p.steps * 32 + at.lane;
  return {p.high + first, p.low + first, p.tiles, p.steps};
}

// Weights pass through a ring of chunks in shared memory. All chunks but one are in flight, which hides the latency of
// memory; registers would hold too few. Each lane reads the data that it copied itself, so no barrier is needed. Ring
// has the position of the next copy in the product and its chunk.
struct Ring {
  int tile, step, chunk;
};
__device__ int after(int chunk) { return chunk + 1 == RING ? 0 : chunk + 1; }
// Start the copy of the next chunk, or an empty group at the end of the product.
__device__ void fetch(Shared& m, Ring& ring, const Weights& w, const Place& at) {
  if (ring.tile < w.tiles) {
    int first = (ring.tile * w.steps + ring.step) * 32;
    uint4(*to)[32] = m.weights[at.warp][ring.chunk];
#pragma unroll
    for (int i = 0; i < AHEAD; i++)
      if (ring.step + i < w.steps) {
        copy_async(&to[PLANES * i][at.lane], w.high + first + 32 * i);
#if PLANES > 1
        copy_async(&to[PLANES * i + 1][at.lane], w.low + first + 32 * i);
#endif
      }
    ring.chunk = after(ring.chunk);
    ring.step += AHEAD;
    if (ring.step >= w.steps) {
      ring.step = 0;
      ring.tile += WARPS;
    }
  }
  commit_copies();
}
// Start the copies of the first chunks. They depend on no result, so they overlap with waiting.
__device__ Ring fetch_first(Shared& m, const Weights& w, const Place& at) {
  Ring ring = {at.warp, 0, 0};
#pragma unroll 1
  for (int chunk = 0; chunk < RING - 1; chunk++) fetch(m, ring, w, at);
  return ring;
}

// Return the index of the numbers k, k + 1 (k even) in the operand of a stream: the word of the high parts; the word of
// the low parts follows. The data of a lane for 16 numbers is contiguous, 16 bytes.
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

// Multiply all rows of the weights with the operands of all streams, and call finish(row, stream, sum, sum of the next
// stream). `ring` is the result of fetch_first. PIECES: partial sums of each sum, computed in turn, one step of each,
// which is also the order of the weights.
template <int PIECES, class Finish>
__device__ void multiply(Shared& m, const Weights& w, Ring ring, const u32* operand, int stride, const Place& at,
                         Finish finish) {
  static_assert(AHEAD % PIECES == 0, "a chunk must hold a step of every partial sum");
  int group = at.lane / 4, quarter = at.lane % 4, chunk = 0, length = w.steps / PIECES;
  operand += group * stride + 4 * quarter;
#pragma unroll 1
  for (int tile = at.warp; tile < w.tiles; tile += WARPS) {
    float high[PIECES][TILES][4] = {}, low[PIECES][TILES][4] = {};
#pragma unroll 1
    for (int step = 0; step < w.steps; step += AHEAD) {
      wait_for_copies<RING - 2>();
      fetch(m, ring, w, at);  // into the chunk of the previous iteration
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
