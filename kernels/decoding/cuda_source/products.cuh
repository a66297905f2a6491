// Matrix times streams on the tensor cores. A stream's sums are made in one order, whatever the other streams are and
// however many: that is what makes a sample independent of its batch.

constexpr int AHEAD = 8 / PLANES;  // steps whose weights a thread fetches before it needs them

struct Fragments {
  uint4 high[AHEAD];
#if PLANES > 1
  uint4 low[AHEAD];
#endif
};

__device__ void fetch(Fragments& f, const Product& p, int tile, int step, const Place& at) {
  i64 first = (((i64)at.rank * p.tiles + tile) * p.steps + step) * 32 + at.lane;
#pragma unroll
  for (int i = 0; i < AHEAD; i++)
    if (step + i < p.steps) {
      f.high[i] = load_weights(p.high + first + 32 * i);
#if PLANES > 1
      f.low[i] = load_weights(p.low + first + 32 * i);
#endif
    }
}
// The weights that the warp needs first: they depend on nothing, so they are fetched while others are awaited.
__device__ void fetch_first(Fragments& f, const Product& p, const Place& at) {
  if (at.warp < p.tiles) fetch(f, p, at.warp, 0, at);
}

#if PREFETCH
// Asks for this rank's weights of an operation to come out of device memory into the second cache.
__device__ void prefetch_weights(const uint4* weights, const Product& p, const Place& at) {
  if (!weights) return;
  i64 bytes = (i64)p.tiles * p.steps * 512, piece = 8192;
  const char* from = (const char*)weights + at.rank * bytes;
  for (i64 start = at.thread * piece; start < bytes; start += THREADS * piece)
    prefetch(from + start, (u32)(bytes - start < piece ? bytes - start : piece));
}
__device__ void prefetch_operation(const Operation& op, const Place& at) {
  prefetch_weights(op.first.high, op.first, at);
  prefetch_weights(op.first.low, op.first, at);
  prefetch_weights(op.second.high, op.second, at);
  prefetch_weights(op.second.low, op.second, at);
  prefetch_weights(op.third.high, op.third, at);
  prefetch_weights(op.third.low, op.third, at);
}
#endif

// Where the pair of numbers k, k + 1 of a stream (k even) lies in its operand: the word of its high parts, then that
// of its low parts. A lane finds all that it needs of 16 numbers in 16 bytes.
__device__ int operand_word(int k) { return k / 16 * 16 + k % 8 / 2 * 4 + k % 16 / 8 * 2; }
struct Pair {
  u32 high, low;
};
__device__ Pair split(float first, float second) {
  Pair pair;
  pair.high = pack_bf16(first, second);
  pair.low = pack_bf16(first - float_of(pair.high << 16), second - float_of(pair.high & 0xffff0000u));
  return pair;
}

// Calls finish(row, stream, sum, sum of the next stream) for all rows of p times the operands of all streams. `f`
// holds what fetch_first fetched.
template <class Finish>
__device__ void multiply(const Product& p, Fragments& f, const u32* operand, int stride, const Place& at,
                         Finish finish) {
  int group = at.lane / 4, part = at.lane % 4;
#pragma unroll 1
  for (int tile = at.warp; tile < p.tiles; tile += WARPS) {
    float high[TILES][4] = {}, low[TILES][4] = {};
#pragma unroll 1
    for (int step = 0; step < p.steps; step += AHEAD) {
      Fragments now = f;
      bool same_tile = step + AHEAD < p.steps;
      if (same_tile || tile + WARPS < p.tiles)
        fetch(f, p, same_tile ? tile : tile + WARPS, same_tile ? step + AHEAD : 0, at);
#pragma unroll
      for (int i = 0; i < AHEAD; i++)
        if (step + i < p.steps)
#pragma unroll
          for (int n = 0; n < TILES; n++) {
            uint4 b = *(const uint4*)(operand + (8 * n + group) * stride + (step + i) * 16 + 4 * part);
            multiply_add(high[n], now.high[i], b.x, b.z);
            multiply_add(low[n], now.high[i], b.y, b.w);
#if PLANES > 1
            multiply_add(low[n], now.low[i], b.x, b.z);
#endif
          }
    }
#pragma unroll
    for (int n = 0; n < TILES; n++) {
      int row = 16 * tile + group, stream = 8 * n + 2 * part;
      finish(row, stream, high[n][0] + low[n][0], high[n][1] + low[n][1]);
      finish(row + 8, stream, high[n][2] + low[n][2], high[n][3] + low[n][3]);
    }
  }
}
