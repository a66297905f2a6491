// The selective scan for one NVIDIA GPU, compiled at run time by cuda.py, which defines the macros below.
//
//   IO        0: float, 1: bfloat16, 2: half      type of x, dt, B, C, z, y and of their gradients
//   COMPLEX   0, 1                                complex states; B and C then carry (re, im)
//   GROUPS    ceil(floats of a state / 16)        a lane holds 4 of the 16 floats of a group at a time
//   PER       1, 2                                channels of a lane; 2 in the backward
//   HAS_D, HAS_Z, HAS_BIAS, SOFTPLUS, REVERSE     0, 1
//   FORWARD_BLOCKS, BACKWARD_BLOCKS               blocks that a multiprocessor should hold at once
//   CLUSTER   blocks that sum dB and dC together through distributed shared memory
//
// Four lanes ("parts") share PER channels, so that a warp owns 8 * PER channels and walks time on its own, a
// tile of 32 steps at once. To stage a tile, lane t reads row t of the warp's channels and leaves what a step
// needs besides B and C, (dt, u = dt * x) and dy, in shared memory.
// "Floats" count a complex number as two; a state of N numbers is padded to 16 * GROUPS floats.

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
  int batch, channels, state, segments, chunks_per_segment;  // state: numbers a channel, complex or real
};
// A tensor (batch, length, channels) whose channels are contiguous.
struct Rows {
  void* data;
  i64 batch_stride, time_stride;
};
