// Parts of the backward: shared memory, sums over channels and blocks, and the start and finish of a chunk.

// Shared memory of one warp.
struct WarpShared {
  Steps step;  // (dt, u), then (y, sum of G B)
  Values dy;   // dy, then the gradient of dt through the decay
  // State on entry to each run of SUB steps. Runs go from last to first; after a run has read its slot, the slot
  // holds the run's sums of dB and dC over the channels of the warp.
  float runs[CHUNK / SUB][32][4 * PER];
#if GROUPS > 1
  Steps step_sums;
  Values decay_sums;
#endif
};
// B and C are stored twice; the second copy has neighbours swapped, for lanes with an odd twist. After the chunk the
// rows hold the sums of dB (16 floats) and dC (16 floats) over the channels of the block.
struct BackwardShared {
  WarpShared warps[WARPS];
  float bc[CHUNK][64];  // B, B swapped, C, C swapped
};

__device__ void load_twisted(const float* row, int part, int twist, float (&f)[4]) {
  const float* pair = row + (!COMPLEX && (twist & 1) ? 16 : 0) + 4 * part;
  int near = twist & 2;
  float2 lo = *(const float2*)(pair + near), hi = *(const float2*)(pair + (near ^ 2));
  f[0] = lo.x; f[1] = lo.y; f[2] = hi.x; f[3] = hi.y;
}

// Sum dB and dC over the 8 quads of a warp. Each lane returns one of the 32 sums.
__device__ float sum_quads(float (&db)[4], float (&dc)[4], int lane) {
#if COMPLEX
  db[0] = add_xor(db[0], db[2], 4); db[1] = add_xor(db[1], db[3], 4);
  dc[0] = add_xor(dc[0], dc[2], 4); dc[1] = add_xor(dc[1], dc[3], 4);
  bool c = lane & 8, imaginary = lane & 16;
  float re = add_xor(c ? dc[0] : db[0], c ? db[0] : dc[0], 8);
  float im = add_xor(c ? dc[1] : db[1], c ? db[1] : dc[1], 8);
  return add_xor(imaginary ? im : re, imaginary ? re : im, 16);
#else
  db[0] = add_xor(db[0], db[2], 8); db[1] = add_xor(db[1], db[3], 8);
  dc[0] = add_xor(dc[0], dc[2], 8); dc[1] = add_xor(dc[1], dc[3], 8);
  db[0] = add_xor(db[0], db[1], 4);
  dc[0] = add_xor(dc[0], dc[1], 4);
  bool c = lane & 16;
  return add_xor(c ? dc[0] : db[0], c ? db[0] : dc[0], 16);
#endif
}
// Index of the sum that sum_quads returns in a lane: 16 floats of dB, then 16 of dC.
__device__ int sum_index(const Place& at) {
  int c = at.quad;
  return COMPLEX ? ((c >> 1) & 1) * 16 + 4 * at.part + 2 * (c & 1) + (c >> 2) : (c >> 2) * 16 + 4 * at.part + (c & 3);
}
__device__ float* run_sums(WarpShared& m, int run, int i) { return &m.runs[run][0][0] + 32 * i; }

__device__ u32 cluster_rank() { u32 r; asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r)); return r; }
// A cluster barrier in two halves, so that work fits between them. Blocks exchange only shared memory: where a block
// has written nothing for the others, its arrival does not wait for memory.
__device__ void cluster_arrive(bool with_data) {
#if CLUSTER > 1
  if (with_data) asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
  else asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}
__device__ void cluster_wait() {
#if CLUSTER > 1
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#else
  __syncthreads();
#endif
}
// Value at the same address of shared memory in block `rank` of the cluster.
__device__ float peek(const float* mine, int rank) {
#if CLUSTER > 1
  u32 here = (u32)__cvta_generic_to_shared(mine), there;
  float v;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(here), "r"(rank));
  asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(v) : "r"(there) : "memory");
  return v;
#else
  return *mine;
#endif
}

#if CLUSTER > 1
#define CLUSTER_DIMENSIONS __cluster_dims__(CLUSTER, 1, 1)
#else
#define CLUSTER_DIMENSIONS
#endif

// Row t of a chunk, over the channels of the warp, in lane t.
struct ChunkRows {
  Eight x[PER], dt[PER], dy[PER], z[PER];
};
__device__ ChunkRows load_chunk(const BackwardArguments& p, const Place& at, i64 b, i64 row, bool row_inside) {
  ChunkRows rows;
#pragma unroll
  for (int v = 0; v < PER; ++v) {
    int column = at.channel0 + 8 * v;
    bool inside = row_inside && column < p.f.shape.channels;
    rows.x[v] = load8(p.f.x, b, row, column, inside);
    rows.dt[v] = load8(p.f.dt, b, row, column, inside);
    rows.dy[v] = load8(p.dy, b, row, column, inside);
    if (HAS_Z) rows.z[v] = load8(p.f.z, b, row, column, inside);
  }
  return rows;
}
__device__ void prefetch(const Rows& r, i64 b, i64 row, int column) {
#if IO == 0
  const float* address = (const float*)r.data + b * r.batch_stride + row * r.time_stride + column;
#else
  const u16* address = (const u16*)r.data + b * r.batch_stride + row * r.time_stride + column;
#endif
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address));
}
__device__ void stage_chunk(const BackwardArguments& p, const Place& at, i64 b, i64 row, bool row_inside, WarpShared& m) {
  const ForwardArguments& q = p.f;
  ChunkRows rows = load_chunk(p, at, b, row, row_inside);
#pragma unroll
  for (int v = 0; v < PER; ++v) {
    int column = at.channel0 + 8 * v;
    bool inside = row_inside && column < q.shape.channels;
    float x[8], dt[8], z[8], dy[8], bias[8] = {}, mask = inside ? 1.f : 0.f;
    if (HAS_BIAS) load_channels(q.bias, column, inside, bias);
    unpack(rows.x[v], x); unpack(rows.dt[v], dt); unpack(rows.dy[v], dy);
    if (HAS_Z) unpack(rows.z[v], z);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      dt[i] = mask * softplus(dt[i] + bias[i]);
      x[i] *= dt[i];
      if (HAS_Z) dy[i] *= silu(z[i]);
    }
    m.step.write_row(at.lane, v, dt, x);
    m.dy.write_row(at.lane, v, dy);
  }
}

// Write the gradients of x, dt and z from the sums over states. Leave (dy x, ddt) of each step in shared memory for
// the gradients of D and dt_bias.
__device__ void finish_chunk(const BackwardArguments& p, const Place& at, i64 b, i64 row, bool row_inside, const ChunkRows& rows, WarpShared& m) {
  const ForwardArguments& q = p.f;
#pragma unroll
  for (int v = 0; v < PER; ++v) {
    int column = at.channel0 + 8 * v;
    bool inside = row_inside && column < q.shape.channels;
    float x[8], raw[8], z[8], dy[8], y[8], gb[8], through_decay[8], bias[8] = {}, skip[8] = {};
    if (HAS_BIAS) load_channels(q.bias, column, inside, bias);
    if (HAS_D) load_channels(q.D, column, inside, skip);
    unpack(rows.x[v], x); unpack(rows.dt[v], raw); unpack(rows.dy[v], dy);
    if (HAS_Z) unpack(rows.z[v], z);
#if GROUPS > 1
    m.step_sums.read_row(at.lane, v, y, gb);
    m.decay_sums.read_row(at.lane, v, through_decay);
#else
    m.step.read_row(at.lane, v, y, gb);
    m.dy.read_row(at.lane, v, through_decay);
#endif
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      raw[i] += bias[i];
      float gated = dy[i];
      if (HAS_Z) {
        float sigmoid = logistic(z[i]), silu = z[i] * sigmoid;
        z[i] = dy[i] * fmaf(skip[i], x[i], y[i]) * (sigmoid + silu * (1.f - sigmoid));
        gated *= silu;
      }
      dy[i] = fmaf(gb[i], softplus(raw[i]), skip[i] * gated);
      y[i] = gated * x[i];
      raw[i] = fmaf(gb[i], x[i], through_decay[i]) * softplus_slope(raw[i]);
    }
    if (inside) {
      store8(p.dx, b, row, column, dy);
      store8(p.ddt, b, row, column, raw);
      if (HAS_Z) store8(p.dz, b, row, column, z);
    }
#pragma unroll
    for (int i = 0; i < 8; ++i) raw[i] = inside ? raw[i] : 0.f;
    m.step.write_row(at.lane, v, y, raw);
  }
}
