// Emulator of the decoding kernel on a CPU: each GPU thread is a fiber, run in random order, and messages arrive late.
//
// Replaces cuda_source/primitives.cuh and the built-ins of NVRTC; the rest of the source runs unchanged. Shared memory
// starts as NaN. With a missing barrier the result depends on the seed.

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#define __device__
#define __host__
#define __global__
#define __noinline__
#define __cluster_dims__(...)
#define __launch_bounds__(...)

struct uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(8) float2 { float x, y; };
struct alignas(16) float4 { float x, y, z, w; };
static float2 make_float2(float x, float y) { return {x, y}; }
static float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
struct Index { int x; };
using std::max;
using std::min;

namespace emulator {
struct Message { void* to; unsigned word; };
struct Warp { int arrived = 0; unsigned turn = 0; unsigned slots[2][32][12]; };
struct Block { char* memory; int arrived = 0; unsigned turn = 0; std::vector<Warp> warps; };
struct Copy { uint4* to; const uint4* from; int request; };
struct Fiber {
  ucontext_t context;
  std::vector<char> stack;
  int block, thread;
  bool done = false;
  unsigned collectives = 0, turn = 0;
  std::vector<Copy> copies;
  int requests = 0;
};

static std::vector<Block> blocks;
static std::vector<Fiber> fibers;
static std::vector<Message> messages;
static std::mt19937 random_numbers;
static ucontext_t scheduler;
static Fiber* current;
static int cluster, cluster_arrived, live;
static unsigned cluster_turn;

static void yield() { swapcontext(&current->context, &scheduler); }
template <class Ready>
static void until(Ready ready) { while (!ready()) yield(); }
static void meet(int& arrived, unsigned& turn, int all) {
  unsigned mine = turn;
  if (++arrived == all) { arrived = 0; turn++; }
  else until([&] { return turn != mine; });
}
static Warp& warp() { return blocks[current->block].warps[current->thread / 32]; }
// Share `count` words with the warp and return the words of all lanes.
static unsigned (*share(const unsigned* words, int count))[12] {
  Warp& w = warp();
  unsigned(*slots)[12] = w.slots[current->collectives++ % 2];
  std::memcpy(slots[current->thread % 32], words, 4 * count);
  meet(w.arrived, w.turn, 32);
  return slots;
}
static void deliver(bool all) {
  while (!messages.empty() && (all || random_numbers() % 4)) {
    int chosen = random_numbers() % messages.size();
    std::memcpy(messages[chosen].to, &messages[chosen].word, 4);
    messages[chosen] = messages.back();
    messages.pop_back();
  }
}
static void* translated(const void* p, int rank) {
  return blocks[rank].memory + ((const char*)p - blocks[current->block].memory);
}
}  // namespace emulator

#define threadIdx (Index{emulator::current->thread})
#define blockIdx (Index{emulator::cluster * CLUSTER + emulator::current->block})
static void __syncthreads() {
  auto& b = emulator::blocks[emulator::current->block];
  emulator::meet(b.arrived, b.turn, THREADS);
}
template <class T>
static T __shfl_xor_sync(unsigned, T value, int mask) {
  unsigned word;
  std::memcpy(&word, &value, 4);
  auto slots = emulator::share(&word, 1);
  std::memcpy(&value, slots[emulator::current->thread % 32 ^ mask], 4);
  return value;
}
static unsigned __ballot_sync(unsigned, bool value) {
  unsigned word = value, all = 0;
  auto slots = emulator::share(&word, 1);
  for (int lane = 0; lane < 32; lane++) all |= slots[lane][0] << lane;
  return all;
}
static int __popc(unsigned x) { return __builtin_popcount(x); }
template <class T>
static T __ldg(const T* p) { return *p; }
static float rsqrtf(float x) { return 1 / std::sqrt(x); }

static int cluster_rank() { return emulator::current->block; }
static void cluster_arrive() {
  emulator::current->turn = emulator::cluster_turn;
  if (++emulator::cluster_arrived < CLUSTER * THREADS) return;
  emulator::deliver(true);
  emulator::cluster_arrived = 0;
  emulator::cluster_turn++;
}
static void cluster_wait() {
  emulator::until([] { return emulator::cluster_turn != emulator::current->turn; });
}
static void send(void* p, int rank, unsigned a) { emulator::messages.push_back({emulator::translated(p, rank), a}); }
static void send(void* p, int rank, unsigned a, unsigned b) {
  send(p, rank, a);
  send((unsigned*)p + 1, rank, b);
}
constexpr int LINE = 128;
static void prefetch(const void*) {}
static unsigned bits_of(float x) { unsigned u; std::memcpy(&u, &x, 4); return u; }
static float float_of(unsigned u) { float x; std::memcpy(&x, &u, 4); return x; }
static unsigned to_bf16(float x) { unsigned u = bits_of(x); return (u + 0x7fff + (u >> 16 & 1)) >> 16; }
static unsigned pack_bf16(float first, float second) { return to_bf16(first) | to_bf16(second) << 16; }
static void multiply_add(float (&sums)[4], const uint4& a, unsigned b0, unsigned b1) {
  unsigned words[6] = {a.x, a.y, a.z, a.w, b0, b1};
  auto slots = emulator::share(words, 6);
  auto number = [](unsigned word, int half) { return float_of(half ? word & 0xffff0000u : word << 16); };
  int lane = emulator::current->thread % 32;
  for (int i = 0; i < 4; i++) {
    int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
    for (int k = 0; k < 16; k++) {
      int quarter = k % 8 / 2;
      float x = number(slots[row % 8 * 4 + quarter][k / 8 * 2 + row / 8], k % 2);
      sums[i] += x * number(slots[column * 4 + quarter][4 + k / 8], k % 2);
    }
  }
}
// The destination of a copy is NaN until the copy is awaited or arrives at random.
static void arrive(int first, bool by_chance) {
  auto& copies = emulator::current->copies;
  for (size_t i = 0; i < copies.size();)
    if (copies[i].request < first || (by_chance && emulator::random_numbers() % 8 == 0)) {
      *copies[i].to = *copies[i].from;
      copies[i] = copies.back();
      copies.pop_back();
    } else i++;
}
static void copy_async(uint4* to, const uint4* from) {
  std::memset(to, 0xff, sizeof(uint4));
  emulator::current->copies.push_back({to, from, emulator::current->requests});
}
static void commit_copies() {
  emulator::current->requests++;
  arrive(0, true);
}
template <int LATEST>
static void wait_for_copies() { arrive(emulator::current->requests - LATEST, true); }
template <class T>
static T load_state(const T* p) { return *p; }
template <class T>
static void store_state(T* p, T x) { *p = x; }
static float sigmoid(float x) { return 1 / (1 + std::exp(-x)); }
static float power_of_two(float x) { return std::exp2(x); }

#include SOURCE

namespace emulator {
static const Arguments* arguments;
static void enter() {
  decode(*arguments);
  current->done = true;
  live--;
  swapcontext(&current->context, &scheduler);
}
}  // namespace emulator

extern "C" long shared_bytes() { return sizeof(Shared); }
extern "C" void emulate(const Arguments* arguments, int clusters, unsigned seed) {
  using namespace emulator;
  emulator::arguments = arguments;
  random_numbers.seed(seed);
  for (cluster = 0; cluster < clusters; cluster++) {
    cluster_arrived = 0;
    blocks.assign(CLUSTER, Block());
    for (Block& b : blocks) {
      b.memory = (char*)std::aligned_alloc(128, (sizeof(Shared) + 127) / 128 * 128);
      std::memset(b.memory, 0xff, sizeof(Shared));
      b.warps.resize(WARPS);
    }
    fibers = std::vector<Fiber>(CLUSTER * THREADS);
    live = fibers.size();
    for (size_t i = 0; i < fibers.size(); i++) {
      Fiber& f = fibers[i];
      f.block = i / THREADS;
      f.thread = i % THREADS;
      f.stack.resize(1 << 16);
      getcontext(&f.context);
      f.context.uc_stack.ss_sp = f.stack.data();
      f.context.uc_stack.ss_size = f.stack.size();
      f.context.uc_link = nullptr;
      makecontext(&f.context, enter, 0);
    }
    while (live) {
      size_t start = random_numbers() % fibers.size();
      for (size_t i = 0; i < fibers.size(); i++) {
        current = &fibers[(start + i) % fibers.size()];
        if (!current->done) swapcontext(&scheduler, &current->context);
      }
      deliver(false);
    }
    for (Block& b : blocks) std::free(b.memory);
  }
}
