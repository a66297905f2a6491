// The forward: phase 3 writes y, the final state and the checkpoints; phase 1 writes only the ends of segments.

struct ForwardArguments {
  Shape shape;
  Rows x, dt, B, C, z, y;
  const float *A, *D, *bias, *initial;  // initial: state on entry to a row, (batch, channels, N)
  const float* starts;                  // padded state on entry to each segment, (batch, segments, channels, 16 GROUPS)
  float *checkpoints, *final_state;     // checkpoints: padded, on entry to chunks 1, 2, ...
  float *ends, *dt_sums;                // of each segment, scanned from zero
  int group_channels;                   // channels that share a row of B and C
  int bc_floats;                        // floats of a row of B for one group of channels
};

__device__ float* state_row(float* states, const Shape& s, i64 index, int channel) {
  return states + (index * s.channels + channel) * 16 * GROUPS;
}
__device__ const float* number_row(const float* numbers, const Shape& s, i64 index, int channel) {
  return numbers && channel < s.channels ? numbers + (index * s.channels + channel) * s.state * NUMBER_FLOATS : nullptr;
}

// Shared memory of one warp. Row t of bc: 16 floats of B, 16 of C.
struct ForwardShared {
  Steps step;
  float bc[CHUNK][36];
#if GROUPS > 1
  Values y;
#endif
};

// Scan one segment. WHOLE: from its true start, writing y. Otherwise: from zero, writing only its end, which is not
// needed for the last segment.
template <bool WHOLE>
__device__ void forward_segment(const ForwardArguments& p) {
  extern __shared__ __align__(16) char memory[];
  const Shape& s = p.shape;
  const Place at(s);
  ForwardShared& m = ((ForwardShared*)memory)[at.warp];
  if (at.channel0 >= s.channels || (!WHOLE && at.segment == s.segments - 1)) return;
  i64 b = at.batch, first = (i64)at.segment * s.chunks_per_segment * CHUNK;
  i64 last = min(s.length, first + (i64)s.chunks_per_segment * CHUNK);
  i64 chunks = (s.length + CHUNK - 1) / CHUNK;
  int offset = at.block0 / p.group_channels * p.bc_floats;

  float rate[GROUPS][PER][4], h[GROUPS][PER][4], dt_sum[PER] = {};
#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      int channel = at.channel(i);
      load_rate(p.A, channel, k, s, at.part, 0, rate[k][i]);
      if (WHOLE && s.segments > 1 && channel < s.channels)
        load_state(state_row((float*)p.starts, s, b * s.segments + at.segment, channel), k, at.part, 0, h[k][i]);
      else
        load_numbers(WHOLE ? number_row(p.initial, s, b, channel) : nullptr, k, s, at.part, 0, h[k][i]);
    }

  Eight x8[PER], dt8[PER], z8[PER];
  Sixteen b16, c16;
  auto fetch = [&](i64 t0) {
    bool row_inside = t0 + at.lane < last;
    i64 row = position(s, t0 + at.lane);
#pragma unroll
    for (int v = 0; v < PER; ++v) {
      bool inside = row_inside && at.channel0 + 8 * v < s.channels;
      x8[v] = load8(p.x, b, row, at.channel0 + 8 * v, inside);
      dt8[v] = load8(p.dt, b, row, at.channel0 + 8 * v, inside);
      if (WHOLE && HAS_Z) z8[v] = load8(p.z, b, row, at.channel0 + 8 * v, inside);
    }
    if (GROUPS == 1) {
      b16 = load16(p.B, b, row, offset, p.bc_floats, row_inside);
      if (WHOLE) c16 = load16(p.C, b, row, offset, p.bc_floats, row_inside);
    }
  };
  fetch(first);
#pragma unroll 1
  for (i64 t0 = first; t0 < last; t0 += CHUNK) {
    bool row_inside = t0 + at.lane < last;
    i64 row = position(s, t0 + at.lane);
#pragma unroll
    for (int v = 0; v < PER; ++v) {
      int column = at.channel0 + 8 * v;
      bool inside = row_inside && column < s.channels;
      float x[8], dt[8], bias[8] = {}, mask = inside ? 1.f : 0.f;
      unpack(x8[v], x); unpack(dt8[v], dt);
      if (HAS_BIAS) load_channels(p.bias, column, inside, bias);
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        dt[i] = mask * softplus(dt[i] + bias[i]);
        x[i] *= dt[i];
      }
      m.step.write_row(at.lane, v, dt, x);
    }
    if (GROUPS == 1) {
      write_bc(&m.bc[at.lane][0], b16, false);
      if (WHOLE) write_bc(&m.bc[at.lane][16], c16, true);
    }
    Eight x_now[PER], z_now[PER];
#pragma unroll
    for (int v = 0; v < PER; ++v) { x_now[v] = x8[v]; z_now[v] = z8[v]; }
    if (t0 + CHUNK < last) fetch(t0 + CHUNK);
#pragma unroll 1
    for (int k = 0; k < GROUPS; ++k) {
      if (GROUPS > 1) {
        write_bc(&m.bc[at.lane][0], load16(p.B, b, row, offset + 16 * k, p.bc_floats - 16 * k, row_inside), false);
        if (WHOLE)
          write_bc(&m.bc[at.lane][16], load16(p.C, b, row, offset + 16 * k, p.bc_floats - 16 * k, row_inside), true);
      }
      if (WHOLE && t0 > 0 && p.checkpoints) {
#pragma unroll
        for (int i = 0; i < PER; ++i)
          if (at.channel(i) < s.channels)
            store_state(state_row(p.checkpoints, s, b * (chunks - 1) + t0 / CHUNK - 1, at.channel(i)), k, at.part, 0, h[k][i]);
      }
      __syncwarp();
      float hk[PER][4], rk[PER][4];
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) { hk[i][n] = h[k][i][n]; rk[i][n] = rate[k][i][n]; }
      float sums[PER];
      auto store_sums = [&](int t) {
#pragma unroll
        for (int i = 0; i < PER; ++i) {
#if GROUPS > 1
          float& slot = m.y.at[t + at.part][PER * at.quad + i];
          slot = k ? slot + sums[i] : sums[i];
#else
          m.step.at[t + at.part][PER * at.quad + i].x = sums[i];
#endif
        }
      };
#pragma unroll 2
      for (int t = 0; t < CHUNK; t += 4) {
        float2 now[4][PER];
        float bb[4][4], cc[4][4], y[4][PER];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          m.step.read(t + j, at.quad, now[j]);
          read4(&m.bc[t + j][4 * at.part], bb[j]);
          if (WHOLE) read4(&m.bc[t + j][16 + 4 * at.part], cc[j]);
        }
        // Store the sums of the previous steps only after these loads: a load cannot pass a store that may alias.
        if (WHOLE && t > 0) store_sums(t - 4);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
#pragma unroll
          for (int i = 0; i < PER; ++i) {
            float a[4];
            decay(now[j][i].x, rk[i], a);
            advance(hk[i], a, now[j][i].y, bb[j]);
            if (WHOLE) y[j][i] = dot4(cc[j], hk[i]);
            else if (k == 0) dt_sum[i] += now[j][i].x;
          }
        }
        if (WHOLE) {
#pragma unroll
          for (int i = 0; i < PER; ++i) sums[i] = sum_parts4(y[0][i], y[1][i], y[2][i], y[3][i], at.part);
        }
      }
      if (WHOLE) store_sums(CHUNK - 4);
#pragma unroll
      for (int i = 0; i < PER; ++i)
#pragma unroll
        for (int n = 0; n < 4; ++n) h[k][i][n] = hk[i][n];
      __syncwarp();
    }
    if (WHOLE && row_inside) {
#pragma unroll
      for (int v = 0; v < PER; ++v) {
        int column = at.channel0 + 8 * v;
        if (column >= s.channels) continue;
        float x[8], z[8], y[8], skip[8] = {};
        unpack(x_now[v], x);
        if (HAS_D) load_channels(p.D, column, true, skip);
        if (HAS_Z) unpack(z_now[v], z);
#if GROUPS > 1
        m.y.read_row(at.lane, v, y);
#else
        float unused[8];
        m.step.read_row(at.lane, v, y, unused);
#endif
#pragma unroll
        for (int i = 0; i < 8; ++i) {
          if (HAS_D) y[i] = fmaf(skip[i], x[i], y[i]);
          if (HAS_Z) y[i] *= silu(z[i]);
        }
        store8(p.y, b, row, column, y);
      }
    }
    __syncwarp();
  }

#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      int channel = at.channel(i);
      if (channel >= s.channels) continue;
      if (!WHOLE) {
        i64 index = b * s.segments + at.segment;
        store_state(state_row(p.ends, s, index, channel), k, at.part, 0, h[k][i]);
        if (k == 0 && at.part == 0) p.dt_sums[index * s.channels + channel] = dt_sum[i];
      } else if (at.segment == s.segments - 1) {
        store_numbers((float*)number_row(p.final_state, s, b, channel), k, s, at.part, 0, h[k][i]);
      }
    }
}

extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_forward(const __grid_constant__ ForwardArguments p) {
  forward_segment<true>(p);
}
extern "C" __global__ void __launch_bounds__(THREADS, FORWARD_BLOCKS) scan_forward_ends(const __grid_constant__ ForwardArguments p) {
  forward_segment<false>(p);
}
