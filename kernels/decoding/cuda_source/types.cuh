// What the decoding kernel is given, and what a block of threads keeps in shared memory. Macros give the sizes; the
// structures have twins in arguments.py.
//
// Names: a stream is one sample that is being drawn; a rank is a block's place in its cluster; the stage of a
// U-Net with `width` channels has width / CLUSTER of them as each rank's own rows, and as many times `expand` own
// channels inside a mixer. Operands of the tensor cores are pairs of bf16 numbers, high + low, which together hold 16
// bits of a float's mantissa.

typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

constexpr int WARPS = THREADS / 32;
constexpr int TILES = STREAMS / 8;  // eight streams are the columns of one matrix product
constexpr int OWN_ROWS = WIDEST / CLUSTER;
constexpr int SHARE = PARTS / CLUSTER;  // parts that a rank has of a sum over channels; powers of two, all three
// Words from one stream's operand to the next: apart by half the banks, so that 16-byte loads do not meet.
__host__ __device__ constexpr int apart(int words) { return words + (words % 32 == 0 ? 16 : 0); }

// A matrix in the order in which the tensor cores read it, for all ranks: (rank, tile of 16 rows, step of 16 columns,
// lane). low is what bf16 leaves over, or null.
struct Product {
  const uint4 *high, *low;
  int tiles, steps;
};

enum Kind { BLOCK, HEAD, COMPRESS, EXPAND };

struct Operation {
  Product first;   // in_proj times the norm's weight; else the one product of the operation
  Product second;  // x_proj
  Product third;   // out_proj
  const float *bias;                                   // of the one product
  const float *conv_weight, *conv_bias;                // (CONV, channels), (channels)
  const float *dt_weight, *dt_bias;                    // (dt_rank, channels), (channels)
  const float *A, *B, *C, *D;                          // A has log2(e) within its real parts; B, C where constant
  float *conv, *ssm;                                   // the state: (streams, CONV - 1, channels), (.., STATE)
  float *frames_in, *frames_out;                       // (streams, pool, width), behind the last block before a pool
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
  i64 position;   // tokens so far
  int count, share;  // streams in all, and of a cluster
  int steps, slowest_period, top_k;
  float temperature, top_p, min_p, epsilon;
};

constexpr int SLOTS = (STREAMS + CLUSTER - 1) / CLUSTER;  // streams for which a rank draws

struct Shared {
  uint4 weights[WARPS][RING][AHEAD * PLANES][32];  // on their way to a warp: RING chunks of AHEAD steps, see products.cuh
  u32 stream[STREAMS][apart(WIDEST)];              // the residual stream as operand
  float projected[STREAMS][PROJECTED];             // dt, B and C of the position
  float2 steps[STREAMS][OWN_CHANNELS];             // dt, and dt u
  float u[STREAMS][OWN_CHANNELS + 4];
  float z[STREAMS][OWN_CHANNELS + 4];
  u32 operand[STREAMS][apart(OPERAND)];            // the mixer's own channels as operand
  float outputs[CLUSTER][OWN_ROWS][STREAMS];       // each rank's share of the sums of this rank's rows
  float projections[CLUSTER][PROJECTED][STREAMS];  // each rank's share of dt, B and C
  float residual[2][RESIDUAL_ROWS][STREAMS];
  float skips[SKIP_ROWS][STREAMS];
  float logits[SLOTS][VOCABULARY];
  float noise[SLOTS][VOCABULARY];
  float scale[STREAMS];
  int tokens[STREAMS];
  Operation operations[OPERATIONS];
};

// What every thread knows of where it stands.
struct Place {
  int thread, lane, warp, rank;
  i64 row;                 // the first stream of the cluster
  int active;              // how many it has; the other columns of its products are of no account
  u32 tick;                // tokens before the one that is being read, modulo the period of the slowest clock
  bool is_stream_pending;  // whether others may still write Shared::stream
  u32 residuals;           // a bit a stage: which half of Shared::residual holds its stream
};
