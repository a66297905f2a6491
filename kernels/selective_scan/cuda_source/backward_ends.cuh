// Arguments of the backward, and its phase 1: the adjoints that leave segments towards the start of time.

struct BackwardArguments {
  ForwardArguments f;
  Rows dy, dx, ddt, dz;
  const float* final_gradient;    // (batch, channels, N) or null
  const float* adjoints;          // padded adjoint that enters each segment at its end, if segments > 1
  float *adjoint_ends, *dt_sums;  // phase 1
  float *dA, *dD, *dbias;         // partial sums per row of blocks: (rows, channels, N), (rows, channels)
  float* initial_gradient;        // (batch, channels, N)
  float* dBC;                     // partial sums (parts, batch, length, groups of channels, 2, floats), or null
  void *dB, *dC;                  // written directly where dBC is null: one cluster then holds all channels of a group
  int batch_per_block;
};

// Adjoint that leaves each segment but the first, scanned back from zero.
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_backward_ends(const __grid_constant__ BackwardArguments p) {
  extern __shared__ __align__(16) char memory[];
  const ForwardArguments& q = p.f;
  const Shape& s = q.shape;
  const Place at(s);
  ForwardShared& m = ((ForwardShared*)memory)[at.warp];
  if (at.channel0 >= s.channels || at.segment == 0) return;
  i64 b = at.batch, first = (i64)at.segment * s.chunks_per_segment * CHUNK;
  i64 last = min(s.length, first + (i64)s.chunks_per_segment * CHUNK);
  int offset = at.block0 / q.group_channels * q.bc_floats;

  float rate[GROUPS][PER][4], g[GROUPS][PER][4], dt_sum[PER] = {};
#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      load_rate(q.A, at.channel(i), k, s, at.part, 0, rate[k][i]);
#pragma unroll
      for (int n = 0; n < 4; ++n) g[k][i][n] = 0.f;
    }

  Eight dt8[PER], dy8[PER], z8[PER];
  Sixteen c16;
  auto fetch = [&](i64 t0) {
#pragma unroll
    for (int v = 0; v < PER; ++v) {
      int column = at.channel0 + 8 * v;
      bool inside = t0 + at.lane < last && column < s.channels;
      i64 row = position(s, t0 + at.lane);
      dt8[v] = load8(q.dt, b, row, column, inside);
      dy8[v] = load8(p.dy, b, row, column, inside);
      if (HAS_Z) z8[v] = load8(q.z, b, row, column, inside);
    }
    if (GROUPS == 1) c16 = load16(q.C, b, position(s, t0 + at.lane), offset, q.bc_floats, t0 + at.lane < last);
  };
  i64 tiles = (last - first + CHUNK - 1) / CHUNK;
  fetch(first + (tiles - 1) * CHUNK);
#pragma unroll 1
  for (i64 tile = tiles - 1; tile >= 0; --tile) {
    i64 t0 = first + tile * CHUNK;
    bool row_inside = t0 + at.lane < last;
#pragma unroll
    for (int v = 0; v < PER; ++v) {
      int column = at.channel0 + 8 * v;
      bool inside = row_inside && column < s.channels;
      float dt[8], z[8], dy[8], bias[8] = {}, mask = inside ? 1.f : 0.f;
      unpack(dt8[v], dt); unpack(dy8[v], dy);
      if (HAS_Z) unpack(z8[v], z);
      if (HAS_BIAS) load_channels(q.bias, column, inside, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        dt[i] = mask * softplus(dt[i] + bias[i]);
        if (HAS_Z) dy[i] *= silu(z[i]);
      }
      m.step.write_row(at.lane, v, dt, dy);
    }
    if (GROUPS > 1 && tile > 0) fetch(t0 - CHUNK);
#pragma unroll 1
    for (int k = 0; k < GROUPS; ++k) {
      if (GROUPS > 1)
        c16 = load16(q.C, b, position(s, t0 + at.lane), offset + 16 * k, q.bc_floats - 16 * k, row_inside);
      if (GROUPS > 1 || k == 0) write_bc(&m.bc[at.lane][0], c16, true);
      if (GROUPS == 1 && tile > 0) fetch(t0 - CHUNK);
      __syncwarp();
      float gk[PER][4], rk[PER][4];
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) { gk[i][n] = g[k][i][n]; rk[i][n] = rate[k][i][n]; }
#pragma unroll 8
      for (int t = CHUNK - 1; t >= 0; --t) {
        float2 now[PER];
        m.step.read(t, at.quad, now);
        float4 c4 = *(const float4*)&m.bc[t][4 * at.part];
        const float cc[4] = {c4.x, c4.y, c4.z, c4.w};
#pragma unroll
        for (int i = 0; i < PER; ++i) {
          float a[4];
          decay(now[i].x, rk[i], a);
          if (k == 0) dt_sum[i] += now[i].x;
#pragma unroll
          for (int n = 0; n < 4; ++n) gk[i][n] = fmaf(now[i].y, cc[n], gk[i][n]);
          retreat(gk[i], a);
        }
      }
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) g[k][i][n] = gk[i][n];
      __syncwarp();
    }
  }
#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      if (at.channel(i) >= s.channels) continue;
      i64 index = b * s.segments + at.segment;
      store_state(state_row(p.adjoint_ends, s, index, at.channel(i)), k, at.part, 0, g[k][i]);
      if (k == 0 && at.part == 0) p.dt_sums[index * s.channels + at.channel(i)] = dt_sum[i];
    }
}
