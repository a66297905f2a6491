// Types and constants of the selective scan. cuda.py compiles the source at run time and defines these macros:
//
//   IO        0: float, 1: bfloat16, 2: half      type of x, dt, B, C, z, y and of their gradients
//   COMPLEX   0, 1                                1: complex states, and B and C hold (re, im)
//   GROUPS    ceil(floats of a state / 16)        a lane holds 4 of the 16 floats of a group at a time
//   PER       1, 2                                channels of a lane; 2 in the backward
//   HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, REVERSE     0, 1
//   FORWARD_BLOCKS, BACKWARD_BLOCKS               blocks that a multiprocessor should hold; limits their registers
//   CLUSTER   blocks that sum dB and dC together in distributed shared memory
//
// Four lanes ("parts") share PER channels. So a warp owns 8 * PER channels and walks through time on its own, in
// chunks of 32 steps. To stage a chunk, lane t reads row t of the warp's channels and writes (dt, u = dt * x),
// and dy in the backward, to shared memory.
// "Floats" count a complex number as two. A state of N numbers is padded to 16 * GROUPS floats.

typedef unsigned short u16;
typedef unsigned int u32;
typedef long long i64;

#define WARPS 4
#define THREADS (32 * WARPS)
#define WARP_CHANNELS (8 * PER)
#define CHANNELS (WARPS * WARP_CHANNELS)
#define CHUNK 32
#define SUB 4  // steps whose decays and states the backward holds in registers
#define LN2 0.69314718056f
#define LOG2E 1.44269504089f
#define TWO_PI 6.28318530718f

struct Shape {
  i64 length;
  int batch, channels, state, segments, chunks_per_segment;  // state: complex or real numbers per channel
};
// A tensor (batch, length, channels) with contiguous channels.
struct Rows {
  void* data;
  i64 batch_stride, time_stride;
};
