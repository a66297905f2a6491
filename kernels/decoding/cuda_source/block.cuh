// One position of a Mamba block. Each rank owns some channels of the mixer. It multiplies its rows of in_proj with the
// whole residual stream, and its columns of x_proj and out_proj with its channels. The ranks exchange the partial sums.

// Compute the reciprocal root mean square of each stream, one warp per stream.
__device__ void measure_streams(Shared& m, const Place& at, int width, float epsilon) {
#pragma unroll 1
  for (int stream = at.warp; stream < at.active; stream += WARPS) {
    float squares = 0;
#pragma unroll 2
    for (int pair = at.lane; pair < width / 2; pair += 32) {
      uint2 w = *(const uint2*)&m.stream[stream][2 * pair];
      float a = float_of(w.x << 16) + float_of(w.y << 16);
      float b = float_of(w.x & 0xffff0000u) + float_of(w.y & 0xffff0000u);
      squares += a * a + b * b;
    }
    for (int apart = 16; apart; apart /= 2) squares += __shfl_xor_sync(~0u, squares, apart);
    if (at.lane == 0) m.scale[stream] = rsqrtf(squares / width + epsilon);
  }
}

// Compute dt, B and C: sums over all channels.
__device__ void project(Shared& m, const Weights& w, int rows, const Place& at, Ring ring) {
  multiply<OWN_PARTS>(m, w, ring, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    if (row < rows && stream < at.active)
      for (int rank = 0; rank < CLUSTER; rank++) send_floats(&m.projections[at.rank][row][stream], rank, a, b);
  });
  cluster_arrive();
}
__device__ void sum_projections(Shared& m, int rows, const Place& at) {
#pragma unroll 1
  for (int item = at.thread; item < rows * at.active; item += THREADS) {
    int row = item / at.active, stream = item % at.active;
    m.projected[stream][row] = add_up<CLUSTER>([&](int rank) { return m.projections[rank][row][stream]; });
  }
}

__device__ void run_block(Shared& m, const Operation& op, Place& at, float epsilon) {
  Channels c = channels_of(op, at);
  int active = at.active;
  Weights in = weights_of(op.first, at);
  Ring ring = fetch_first(m, in, at);
  Walk walk = walk_of(c, at, 1);
  Group group = first_group(walk);
  Convolution conv = convolution_of(op, c, at);
  Past past;
  load_past(past, conv, c, group, walk, active);
  prefetch_steps(op, c, at);
  await_stream(at);
  multiply<1>(m, in, ring, &m.stream[0][0], apart(WIDEST), at, [&](int row, int stream, float a, float b) {
    float(*to)[OWN_CHANNELS + 4] = row < c.own ? m.u : m.z;
    int channel = row < c.own ? row : row - c.own;
    to[stream][channel] = a;
    to[stream + 1][channel] = b;
  });
  measure_streams(m, at, op.width, epsilon);
  int projected = op.projected;
  Weights projection = weights_of(op.second, at);
  if (projected) ring = fetch_first(m, projection, at);
  __syncthreads();

#pragma unroll 1
  while (group.own < c.own) {
    Past now = past;
    Group next = next_group(group, walk, active);
    load_past(past, conv, c, next, walk, active);
    convolve(m, conv, c, now, group, walk, active);
    group = next;
  }
  __syncthreads();

  walk = walk_of(c, at, 4);
  group = first_group(walk);
  if (projected) project(m, projection, projected, at, ring);
  Scan scan = scan_of(op, c, walk, at);
  GroupInputs inputs;
  fetch_group(inputs, scan, c, group, walk, active);
  Weights out = weights_of(op.third, at);
  ring = fetch_first(m, out, at);
  if (projected) {
    cluster_wait();
    sum_projections(m, projected, at);
    __syncthreads();
  }
  compute_steps(m, op, c, at);
  __syncthreads();

  if (scan.B || scan.C) scan_groups<false>(m, scan, c, inputs, group, walk, active);
  else scan_groups<true>(m, scan, c, inputs, group, walk, active);
  __syncthreads();

  int rows = op.width / CLUSTER;
  multiply<OWN_PARTS>(m, out, ring, &m.operand[0][0], apart(OPERAND), at, [&](int row, int stream, float a, float b) {
    send_partial_sums(m, at, rows, row, stream, a, b);
  });
  update_stream(m, at, op, op.width);
}
