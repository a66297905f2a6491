// Phase 3 of the backward: all gradients. It walks back through chunks and scans each again from its checkpoint.

extern "C" __global__ void CLUSTER_DIMENSIONS __launch_bounds__(THREADS, BACKWARD_BLOCKS)
scan_backward(const __grid_constant__ BackwardArguments p) {
  extern __shared__ __align__(16) char memory[];
  BackwardShared& shared = *(BackwardShared*)memory;
  const ForwardArguments& q = p.f;
  const Shape& s = q.shape;
  const Place at(s);
  WarpShared& m = shared.warps[at.warp];
  const int twist = at.twist(), sum_at = sum_index(at);
  i64 chunks = (s.length + CHUNK - 1) / CHUNK;
  i64 first_chunk = (i64)at.segment * s.chunks_per_segment;
  i64 last_chunk = min(chunks, first_chunk + s.chunks_per_segment);
  int offset = at.block0 / q.group_channels * q.bc_floats;

  float g[GROUPS][PER][4], dA[GROUPS][PER][4], rate[PER][4], dD = 0.f, dbias = 0.f;
#pragma unroll
  for (int i = 0; i < PER; ++i) load_rate(q.A, at.channel(i), 0, s, at.part, twist, rate[i]);
#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i)
#pragma unroll
      for (int n = 0; n < 4; ++n) dA[k][i][n] = 0.f;

  cluster_arrive(false);
#pragma unroll 1
  for (int within = 0; within < p.batch_per_block; ++within) {
    i64 b = (i64)at.batch * p.batch_per_block + within;
    if (b >= s.batch) break;
#pragma unroll 1
    for (int k = 0; k < GROUPS; ++k)
#pragma unroll
      for (int i = 0; i < PER; ++i) {
        if (s.segments > 1 && at.channel(i) < s.channels)
          load_state(state_row((float*)p.adjoints, s, b * s.segments + at.segment, at.channel(i)), k, at.part, twist, g[k][i]);
        else
          load_numbers(number_row(p.final_gradient, s, b, at.channel(i)), k, s, at.part, twist, g[k][i]);
      }

#pragma unroll 1
    for (i64 chunk = last_chunk - 1; chunk >= first_chunk; --chunk) {
      i64 t0 = chunk * CHUNK;
      int steps = (int)min((i64)CHUNK, s.length - t0), runs = (steps + SUB - 1) / SUB;
      i64 row = position(s, t0 + at.lane);
      bool row_inside = at.lane < steps;
      Sixteen bc16 = {};
      float h[PER][4];
      auto load_start = [&](int k) {
#pragma unroll
        for (int i = 0; i < PER; ++i) {
          int channel = at.channel(i);
          if (chunk > 0 && channel < s.channels)
            load_state(state_row(q.checkpoints, s, b * (chunks - 1) + chunk - 1, channel), k, at.part, twist, h[i]);
          else
            load_numbers(chunk > 0 ? nullptr : number_row(q.initial, s, b, channel), k, s, at.part, twist, h[i]);
        }
      };
      if (GROUPS == 1) {
        if (at.warp < 2) bc16 = load16(at.warp ? q.C : q.B, b, row, offset, q.bc_floats, row_inside);
        load_start(0);
      }
      stage_chunk(p, at, b, row, row_inside, m);
      if (chunk > first_chunk) {  // into L2: no registers are free until the chunk is done
        i64 before = row + (REVERSE ? CHUNK : -CHUNK);
        int column = min(at.channel0, s.channels - 8);
        prefetch(q.x, b, before, column); prefetch(q.dt, b, before, column); prefetch(p.dy, b, before, column);
        if (HAS_Z) prefetch(q.z, b, before, column);
      }
      ChunkRows rows;

#pragma unroll 1
      for (int k = 0; k < GROUPS; ++k) {
        if (GROUPS > 1 && at.warp < 2)
          bc16 = load16(at.warp ? q.C : q.B, b, row, offset + 16 * k, q.bc_floats - 16 * k, row_inside);
        cluster_wait();  // until all blocks have read the previous sums in the rows of B and C
        if (at.warp < 2) {
          float f[16];
          unpack16(bc16, f);
#pragma unroll
          for (int i = 0; i < 16; ++i) f[i] *= at.warp ? conjugate_twice(i) : 1.f;
          float* out = &shared.bc[at.lane][32 * at.warp];
#pragma unroll
          for (int j = 0; j < 16; j += 4) {  // rows of 256 bytes: a different start in each lane avoids bank conflicts
            int i = (j + 4 * at.lane) & 15;
            float4 v = i == 0 ? make_float4(f[0], f[1], f[2], f[3]) : i == 4 ? make_float4(f[4], f[5], f[6], f[7])
                     : i == 8 ? make_float4(f[8], f[9], f[10], f[11]) : make_float4(f[12], f[13], f[14], f[15]);
            *(float4*)(out + i) = v;
            if (!COMPLEX) *(float4*)(out + 16 + i) = make_float4(v.y, v.x, v.w, v.z);
          }
        }
        __syncthreads();

        float gk[PER][4], dAk[PER][4];
        if (GROUPS > 1) load_start(k);
#pragma unroll
        for (int i = 0; i < PER; ++i) {
          if (GROUPS > 1) load_rate(q.A, at.channel(i), k, s, at.part, twist, rate[i]);
#pragma unroll
          for (int n = 0; n < 4; ++n) { gk[i][n] = g[k][i][n]; dAk[i][n] = dA[k][i][n]; }
        }
#pragma unroll 1
        for (int run = 0; run < runs - 1; ++run) {
#pragma unroll
          for (int i = 0; i < PER; ++i)
            *(float4*)&m.runs[run][at.lane][4 * i] = make_float4(h[i][0], h[i][1], h[i][2], h[i][3]);
#pragma unroll
          for (int j = 0; j < SUB; ++j) {
            float2 now[PER];
            float bb[4];
            m.step.read(run * SUB + j, at.quad, now);
            load_twisted(shared.bc[run * SUB + j], at.part, twist, bb);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
              float a[4];
              decay(now[i].x, rate[i], a);
              advance(h[i], a, now[i].y, bb);
            }
          }
        }

#pragma unroll 1
        for (int run = runs - 1; run >= 0; --run) {
          const int t1 = run * SUB;
          float a[SUB][PER][4], hs[SUB + 1][PER][4];
#pragma unroll
          for (int i = 0; i < PER; ++i) {
#pragma unroll
            for (int n = 0; n < 4; ++n) hs[0][i][n] = h[i][n];
            if (run > 0) {
              float4 v = *(const float4*)&m.runs[run - 1][at.lane][4 * i];
              h[i][0] = v.x; h[i][1] = v.y; h[i][2] = v.z; h[i][3] = v.w;
            }
          }
          __syncwarp();
#pragma unroll
          for (int j = 0; j < SUB; ++j) {
            float2 now[PER];
            float bb[4];
            m.step.read(t1 + j, at.quad, now);
            load_twisted(shared.bc[t1 + j], at.part, twist, bb);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
              decay(now[i].x, rate[i], a[j][i]);
#pragma unroll
              for (int n = 0; n < 4; ++n) hs[j + 1][i][n] = hs[j][i][n];
              advance(hs[j + 1][i], a[j][i], now[i].y, bb);
            }
          }
          // Stored only after the run: loads of earlier steps cannot pass a store that may alias.
          float channel_sums[SUB], state_sums[SUB], decay_sums[SUB / 2], later[PER];
#pragma unroll
          for (int j = SUB - 1; j >= 0; --j) {
            const int t = t1 + j;
            float2 now[PER];
            float dy[PER], bb[4], cc[4], db[4], dc[4], y[PER], gb[PER], through[PER];
            m.step.read(t, at.quad, now);
            m.dy.read(t, at.quad, dy);
            load_twisted(shared.bc[t], at.part, twist, bb);
            load_twisted(shared.bc[t] + 32, at.part, twist, cc);
#pragma unroll
            for (int i = 0; i < PER; ++i) {
#pragma unroll
              for (int n = 0; n < 4; ++n) {
                gk[i][n] = fmaf(dy[i], cc[n], gk[i][n]);
                db[n] = i ? fmaf(now[i].y, gk[i][n], db[n]) : now[i].y * gk[i][n];
                dc[n] = i ? fmaf(dy[i], hs[j + 1][i][n], dc[n]) : dy[i] * hs[j + 1][i][n];
              }
              y[i] = dot4(cc, hs[j + 1][i]);
              gb[i] = dot4(bb, gk[i]);
              retreat(gk[i], a[j][i]);
              float e[4];
              exponent_gradient(e, gk[i], hs[j][i]);
              through[i] = rate_dot(e, rate[i]);
#pragma unroll
              for (int n = 0; n < 4; ++n) dAk[i][n] = fmaf(now[i].x, e[n], dAk[i][n]);
            }
            channel_sums[j] = sum_quads(db, dc, at.lane);
            state_sums[j] = sum_parts4(y[0], gb[0], y[1], gb[1], at.part);
            if (j & 1) {
              later[0] = through[0]; later[1] = through[1];
            } else {
              decay_sums[j / 2] = sum_parts4(through[0], through[1], later[0], later[1], at.part);
            }
          }
#if GROUPS > 1
          Steps& steps_out = m.step_sums;
          Values& decay_out = m.decay_sums;
#else
          Steps& steps_out = m.step;
          Values& decay_out = m.dy;
#endif
#pragma unroll
          for (int j = 0; j < SUB; ++j) {
            run_sums(m, run, j)[sum_at] = channel_sums[j];
            float& slot = ((float*)&steps_out.at[t1 + j][2 * at.quad])[at.part];
            slot = GROUPS > 1 && k ? slot + state_sums[j] : state_sums[j];
            if (j & 1) continue;
            float& decay_slot = decay_out.at[t1 + j + (at.part >> 1)][2 * at.quad + (at.part & 1)];
            decay_slot = GROUPS > 1 && k ? decay_slot + decay_sums[j / 2] : decay_sums[j / 2];
          }
        }
#pragma unroll
        for (int i = 0; i < PER; ++i)
#pragma unroll
          for (int n = 0; n < 4; ++n) { g[k][i][n] = gk[i][n]; dA[k][i][n] = dAk[i][n]; }

        if (k == GROUPS - 1) rows = load_chunk(p, at, b, row, row_inside);
        __syncthreads();
        // No thread reads B and C of the chunk any more: their rows now hold the sums of the block.
#pragma unroll 2
        for (int t = at.warp; t < runs * SUB; t += WARPS) {
          float total = 0.f;
#pragma unroll
          for (int w = 0; w < WARPS; ++w) total += run_sums(shared.warps[w], t / SUB, t % SUB)[at.lane];
          shared.bc[t][at.lane] = total;
        }
        cluster_arrive(true);
        if (k == GROUPS - 1) {
          finish_chunk(p, at, b, row, row_inside, rows, m);
          __syncwarp();
          if (HAS_D || HAS_BIAS) {  // 32 / WARP_CHANNELS lanes per channel
            for (int t = at.lane / WARP_CHANNELS; t < steps; t += 32 / WARP_CHANNELS) {
              float2 v = m.step.at[t][at.lane % WARP_CHANNELS];
              dD += v.x; dbias += v.y;
            }
          }
        }
        if (CLUSTER > 1) cluster_wait();
        int rank = CLUSTER > 1 ? (int)cluster_rank() : 0;
        int width = q.bc_floats, groups = s.channels / q.group_channels;
        int which = at.lane >> 4, column = 16 * k + (at.lane & 15);
        for (int t = rank * WARPS + at.warp; t < steps; t += CLUSTER * WARPS) {
          float total = 0.f;
#pragma unroll
          for (int r = 0; r < CLUSTER; ++r) total += peek(&shared.bc[t][at.lane], r);
          if (which) total *= conjugate_twice(at.lane);
          i64 token = (b * s.length + position(s, t0 + t)) * groups + at.block0 / q.group_channels;
          if (column >= width) continue;
          if (p.dBC) {
            int part = at.block0 % q.group_channels / (CHANNELS * CLUSTER);
            p.dBC[(((i64)part * s.batch * s.length * groups + token) * 2 + which) * width + column] = total;
          } else {
            store1(which ? p.dC : p.dB, token * width + column, total);
          }
        }
        cluster_arrive(false);
      }
    }
    if (at.segment == 0 && p.initial_gradient) {
#pragma unroll 1
      for (int k = 0; k < GROUPS; ++k)
#pragma unroll
        for (int i = 0; i < PER; ++i)
          if (at.channel(i) < s.channels)
            store_numbers((float*)number_row(p.initial_gradient, s, b, at.channel(i)), k, s, at.part, twist, g[k][i]);
    }
  }

  cluster_wait();

#pragma unroll
  for (int mask = WARP_CHANNELS; mask < 32; mask *= 2) {
    dD = add_xor(dD, dD, mask);
    dbias = add_xor(dbias, dbias, mask);
  }
  int channel = at.channel0 + at.lane;
  if (at.lane < WARP_CHANNELS && channel < s.channels) {
    if (HAS_D) p.dD[(i64)at.row * s.channels + channel] = dD;
    if (HAS_BIAS) p.dbias[(i64)at.row * s.channels + channel] = dbias;
  }
#pragma unroll 1
  for (int k = 0; k < GROUPS; ++k)
#pragma unroll
    for (int i = 0; i < PER; ++i)
      if (at.channel(i) < s.channels)
        store_numbers((float*)number_row(p.dA, s, at.row, at.channel(i)), k, s, at.part, twist, dA[k][i]);
}

// Sum the partial dB and dC over clusters of channels.
extern "C" __global__ void sum_parts(const float* parts, void* dB, void* dC, int count, i64 tokens, int width) {
  i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= tokens * 2 * width) return;
  float total = 0.f;
  for (int k = 0; k < count; ++k) total += parts[k * tokens * 2 * width + i];
  i64 token = i / (2 * width);
  int f = (int)(i % (2 * width));
  store1(f < width ? dB : dC, token * width + f % width, total);
}
