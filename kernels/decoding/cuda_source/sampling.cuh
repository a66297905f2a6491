// Head and sampling of tokens: the arithmetic of core/decoding/sampling.py, one warp per stream.

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

// Return the stream of a slot: a rank samples every CLUSTER-th stream of the cluster.
__device__ int stream_of(int slot, const Place& at) { return slot * CLUSTER + at.rank; }

// Compute the Gumbel noise for the token at a position.
__device__ void compute_noise(Shared& m, const Place& at, const Arguments& a, i64 position) {
#pragma unroll 1
  for (int item = at.thread; item < VOCABULARY * SLOTS; item += THREADS) {
    int symbol = item % VOCABULARY, slot = item / VOCABULARY, stream = stream_of(slot, at);
    if (stream < at.active) m.noise[slot][symbol] = gumbel_noise(hash(a.keys[at.row + stream], position), symbol);
  }
}

// Compute the logits of the next token and send them to the rank that samples the stream. A rank has some tiles of 16
// symbols.
__device__ void run_head(Shared& m, const Operation& op, Place& at, const Arguments& a, i64 position) {
  Weights w = weights_of(op.first, at);
  Ring ring = fetch_first(m, w, at);
  compute_noise(m, at, a, position);
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

// Load the logits at the start of a launch, and store them at its end.
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

constexpr int SYMBOLS = (VOCABULARY + 31) / 32;  // per lane
constexpr float NEVER = -1e30f;

__device__ float warp_sum(float x) {
  for (int apart = 16; apart; apart /= 2) x += __shfl_xor_sync(~0u, x, apart);
  return x;
}
__device__ float warp_max(float x) {
  for (int apart = 16; apart; apart /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, apart));
  return x;
}

// Return the largest t in [lowest, 0] with enough(t). enough must hold at lowest and be decreasing in t.
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

// Set the scores that the filters exclude to NEVER; the largest score is 0.
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
    // Keep a symbol if all more probable symbols together have less than top_p; find the largest score that fails.
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

// Sample the next token of each stream, broadcast it, and store it as token `step` of the launch.
__device__ void sample_tokens(Shared& m, const Place& at, const Arguments& a, int step) {
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
        float filtered[SYMBOLS];  // in memory, for the call
        for (int i = 0; i < SYMBOLS; i++) filtered[i] = score[i];
        filter(filtered, a.top_k, a.top_p, a.min_p);
        for (int i = 0; i < SYMBOLS; i++) score[i] = filtered[i];
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
