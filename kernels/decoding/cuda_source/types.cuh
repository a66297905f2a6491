// Arguments and shared memory of the decoding kernel. Macros define the sizes; arguments.py mirrors the structs.
//
// Terms: a stream is one sample of the batch. A rank is the index of a block in its cluster. In a U-Net stage with
// `width` channels, each rank owns width / CLUSTER rows, and `expand` times as many channels inside a mixer. Operands
// of the tensor cores are pairs of bf16 numbers, high + low, which together hold 16 bits of the mantissa of a float.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr int WARPS = THREADS / 32;
constexpr int TILES = STREAMS / 8;  // eight streams are the columns of one matrix product
constexpr int OWN_ROWS = WIDEST / CLUSTER;
constexpr int OWN_PARTS = PARTS / CLUSTER;  // partial sums per rank in a sum over channels; all three are powers of two
// Words between the operands of two streams, offset by half the banks to avoid bank conflicts of 16-byte loads.
__host__ __device__ constexpr int apart(int words) { return words + (words % 32 == 0 ? 16 : 0); }

// Matrix of all ranks in the order in which the tensor cores read it: (rank, tile of 16 rows, step of 16 columns,
// lane). low is the rounding error of high in bf16, or null.
struct Product {
  const uint4 *high, *low;
  int tiles, steps;
};

enum Kind { BLOCK, HEAD, COMPRESS, EXPAND };

struct Operation {
  Product first;   // in_proj times the weight of the norm, or the only product of the operation
  Product second;  // x_proj
  Product third;   // out_proj
  const float *bias;                                   // of the only product
  const float *conv_weight, *conv_bias;                // (CONV, channels), (channels)
  const float *dt_weight, *dt_bias;                    // (dt_rank, channels), (channels)
  const float *A, *B, *C, *D;                          // the real parts of A include log2(e); B and C if constant
  float *conv, *ssm;                                   // state: (streams, CONV - 1, channels), (.., channels, STATE)
  float *frames_in, *frames_out;                       // (streams, pool, width), of the last block of a stage
  int kind, period, depth, width, own_channels, pool;
  int dt_rank, projected, is_complex, has_dt, has_B, has_C;
  int residual, save, add;                             // rows in Shared::residual and Shared::skips, or -1
};

struct Arguments {
  const Operation* operations;
  const u32* embedding_operand;  // (vocabulary, width) as operands
  const float* embedding;
  const u64* keys;
  const unsigned char* allowed;
  float* logits;  // (streams, vocabulary), in and out
  i64* tokens;    // (streams, steps)
  float* log_probabilities;
  i64 position;   // number of tokens before this launch
  int count, share;  // streams in total and per cluster
  int steps, slowest_period, top_k;
  float temperature, top_p, min_p, epsilon;
};

constexpr int SLOTS = (STREAMS + CLUSTER - 1) / CLUSTER;  // streams that one rank samples

struct Shared {
  uint4 weights[WARPS][RING][AHEAD * PLANES][32];  // ring of each warp: RING chunks of AHEAD steps, see products.cuh
  u32 stream[STREAMS][apart(WIDEST)];              // the residual stream as operand
  float projected[STREAMS][PROJECTED];             // dt, B and C of this position
  float2 steps[STREAMS][OWN_CHANNELS];             // dt and dt * u
  float u[STREAMS][OWN_CHANNELS + 4];
  float z[STREAMS][OWN_CHANNELS + 4];
  u32 operand[STREAMS][apart(OPERAND)];            // the mixer's own channels as operand
  float outputs[CLUSTER][OWN_ROWS][STREAMS];       // partial sums from each rank for the rows of this rank
  float projections[CLUSTER][PROJECTED][STREAMS];  // partial sums from each rank for dt, B and C
  float residual[2][RESIDUAL_ROWS][STREAMS];
  float skips[SKIP_ROWS][STREAMS];
  float logits[SLOTS][VOCABULARY];
  float noise[SLOTS][VOCABULARY];
  float scale[STREAMS];
  int tokens[STREAMS];
  Operation operations[OPERATIONS];
};

// Position of a thread in the launch and in time.
struct Place {
  int thread, lane, warp, rank;
  i64 row;                 // the first stream of the cluster
  int active;              // number of its streams; other columns of its products are ignored
  u32 tick;                // tokens before the current token, modulo the slowest period
  bool is_stream_pending;  // other ranks may still write Shared::stream
  u32 residuals;           // one bit per stage: which half of Shared::residual holds its stream
};
