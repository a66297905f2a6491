// Logits, and a token drawn from them: the arithmetic of core/decoding/sampling.py, a warp a stream.

__device__ u64 hash(u64 key, u64 index) {
  u64 bits = key + (index + 1) * 0x9E3779B97F4A7C15ull;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ull;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBull;
  return bits ^ (bits >> 31);
}
__device__ float gumbel_noise(u64 key_at_position, int symbol) {
  float uniform = ((float)(u32)(hash(key_at_position, symbol) >> 41) + 0.5f) * (1.0f / 8388608);
  return -logf(-logf(uniform));
}


// A rank draws for every CLUSTER-th stream of the cluster, its slots.
__device__ int stream_of(int slot, const Place& at) { return slot * CLUSTER + at.rank; }

// The noise that will choose the token at a position.
__device__ void make_noise(Shared& m, const Place& at, const Arguments& a, i64 position) {
#pragma unroll 1
  for (int item = at.thread; item < VOCABULARY * SLOTS; item += THREADS) {
    int symbol = item % VOCABULARY, slot = item / VOCABULARY, stream = stream_of(slot, at);
    if (stream < at.active) m.noise[slot][symbol] = gumbel_noise(hash(a.keys[at.row + stream], position), symbol);
  }
}

// Logits of the next token, for the ranks that draw. A rank has some tiles of 16 symbols.
__device__ void run_head(Shared& m, const Operation& op, Place& at, const Arguments& a, i64 position) {
  Weights w = weights_of(op.first, at);
  Ring ring = fetch_first(m, w, at);
  make_noise(m, at, a, position);
  await_stream(at);
  measure_streams(m, at, op.width, a.epsilon);
  __syncthreads();
  int first = at.rank * op.first.tiles * 16;
  multiply<1>(m, w, ring, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float x, float y) {
    int symbol = first + row;
    if (symbol >= VOCABULARY || stream >= at.active) return;
    float bias = op.bias ? op.bias[symbol] : 0;
    x = x * m.scale[stream] + bias;
    send(&m.logits[stream / CLUSTER][symbol], stream % CLUSTER, bits_of(x));
    if (++stream >= at.active) return;
    y = y * m.scale[stream] + bias;
    send(&m.logits[stream / CLUSTER][symbol], stream % CLUSTER, bits_of(y));
  });
  cluster_arrive();
  cluster_wait();
}

// The logits that a launch begins with, and those that it ends with.
__device__ void load_logits(Shared& m, const Place& at, const Arguments& a) {
#pragma unroll 1
  for (int item = at.thread; item < VOCABULARY * SLOTS; item += THREADS) {
    int symbol = item % VOCABULARY, slot = item / VOCABULARY, stream = stream_of(slot, at);
    if (stream < at.active) m.logits[slot][symbol] = a.logits[(at.row + stream) * VOCABULARY + symbol];
  }
}
__device__ void store_logits(const Shared& m, const Place& at, const Arguments& a) {
#pragma unroll 1
  for (int item = at.thread; item < VOCABULARY * SLOTS; item += THREADS) {
    int symbol = item % VOCABULARY, slot = item / VOCABULARY, stream = stream_of(slot, at);
    if (stream < at.active) a.logits[(at.row + stream) * VOCABULARY + symbol] = m.logits[slot][symbol];
  }
}

constexpr int SYMBOLS = (VOCABULARY + 31) / 32;  // of a lane
constexpr float NEVER = -1e30f;

__device__ float warp_sum(float x) {
  for (int apart = 16; apart; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}
__device__ float warp_max(float x) {
  for (int apart = 16; apart; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}

// The largest t in [lowest, 0] for which enough(t) holds; it holds at the lowest, and falls as t rises.
template <class Enough>
__device__ float bisect(float lowest, Enough enough) {
  float low = lowest, high = 0;
#pragma unroll 1
  for (int i = 0; i < 40; i++) {
    float middle = 0.5f * (low + high);
    if (enough(middle)) low = middle;
    else high = middle;
  }
  return low;
}

// Marks as NEVER the scores (the largest is 0) that the filters forbid.
__device__ __noinline__ void filter(float (&score)[SYMBOLS], int top_k, float top_p, float min_p) {
  float least = 0;
  for (int i = 0; i < SYMBOLS; i++)
    if (score[i] > NEVER) least = fminf(least, score[i]);
  least = -warp_max(-least) - 1;
  float threshold = least;
  if (top_k > 0)
    threshold = bisect(least, [&](float t) {
      int count = 0;
      for (int i = 0; i < SYMBOLS; i++) count += __popc(__ballot_sync(~0u, score[i] >= t));
      return count >= top_k;
    });
  for (int i = 0; i < SYMBOLS; i++)
    if (score[i] < threshold) score[i] = NEVER;
  if (top_p < 1) {
    float total = 0;
    for (int i = 0; i < SYMBOLS; i++) total += expf(score[i]);
    total = warp_sum(total) * top_p;
    // A symbol stays where the more probable ones have less than top_p: below the least such score they have more.
    threshold = bisect(least, [&](float t) {
      float above = 0;
      for (int i = 0; i < SYMBOLS; i++) above += score[i] > t ? expf(score[i]) : 0;
      return warp_sum(above) >= total;
    });
    for (int i = 0; i < SYMBOLS; i++)
      if (score[i] <= threshold && score[i] < 0) score[i] = NEVER;
  }
  for (int i = 0; i < SYMBOLS; i++)
    if (expf(score[i]) < min_p) score[i] = NEVER;
}

// Draws the next token of each stream, tells all ranks, and writes it as number `step` of the launch.
__device__ void draw(Shared& m, const Place& at, const Arguments& a, int step) {
#pragma unroll 1
  for (int slot = at.warp; slot < SLOTS && stream_of(slot, at) < at.active; slot += WARPS) {
    int stream = stream_of(slot, at);
    float logit[SYMBOLS], score[SYMBOLS], largest = NEVER, best = NEVER;
    for (int i = 0; i < SYMBOLS; i++) {
      int symbol = at.lane + 32 * i;
      logit[i] = symbol < VOCABULARY ? m.logits[slot][symbol] : NEVER;
      score[i] = symbol < VOCABULARY && a.allowed[symbol] ? logit[i] : NEVER;
      largest = fmaxf(largest, logit[i]);
      best = fmaxf(best, score[i]);
    }
    largest = warp_max(largest);
    best = warp_max(best);
    float total = 0;
    for (int i = 0; i < SYMBOLS; i++) total += expf(logit[i] - largest);
    total = warp_sum(total);
    if (a.temperature > 0) {
      for (int i = 0; i < SYMBOLS; i++)
        if (score[i] > NEVER) score[i] = fmaxf((score[i] - best) / a.temperature, 0.5f * NEVER);
      if (a.top_k > 0 || a.top_p < 1 || a.min_p > 0) {
        float kept[SYMBOLS];  // in memory, where a call wants it
        for (int i = 0; i < SYMBOLS; i++) kept[i] = score[i];
        filter(kept, a.top_k, a.top_p, a.min_p);
        for (int i = 0; i < SYMBOLS; i++) score[i] = kept[i];
      }
      for (int i = 0; i < SYMBOLS; i++)
        if (score[i] > NEVER) score[i] += m.noise[slot][at.lane + 32 * i];
    }
    float top = NEVER;
    int token = VOCABULARY;
    for (int i = 0; i < SYMBOLS; i++)
      if (score[i] > top) {
        top = score[i];
        token = at.lane + 32 * i;
      }
    for (int apart = 16; apart; apart /= 2) {
      float other = __shfl_xor_sync(~0u, top, apart);
      int others = __shfl_xor_sync(~0u, token, apart);
      if (other > top || (other == top && others < token)) {
        top = other;
        token = others;
      }
    }
    if (at.lane == 0) {
      for (int rank = 0; rank < CLUSTER; rank++) send(&m.tokens[stream], rank, token);
      i64 to = (at.row + stream) * a.steps + step;
      a.tokens[to] = token;
      a.log_probabilities[to] = m.logits[slot][token] - largest - logf(total);
    }
  }
  cluster_arrive();
  cluster_wait();
}
