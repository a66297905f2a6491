// Decode `steps` tokens of each stream in one launch. A cluster of CLUSTER blocks has up to STREAMS streams.

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) decode(Arguments a) {
  extern __shared__ __align__(16) char memory[];
  Shared& m = *(Shared*)memory;
  Place at = {};
  at.thread = threadIdx.x;
  at.lane = at.thread % 32;
  at.warp = at.thread / 32;
  at.rank = cluster_rank();
  at.row = (i64)(blockIdx.x / CLUSTER) * a.share;
  at.active = (int)min((i64)a.share, a.count - at.row);
  for (int word = at.thread; word < (int)sizeof(m.operations) / 4; word += THREADS)
    ((u32*)m.operations)[word] = ((const u32*)a.operations)[word];
  load_logits(m, at, a);
  compute_noise(m, at, a, a.position);
  cluster_arrive();  // a block may send only after the others have started
  cluster_wait();

  sample_tokens(m, at, a, 0);
#pragma unroll 1
  for (int step = 0; step < a.steps; step++) {
    at.tick = (u32)((a.position + step) % a.slowest_period);
    embed(m, at, a, m.operations[0].width);
#pragma unroll 1
    for (int i = 0; i < OPERATIONS; i++) {
      const Operation& op = m.operations[i];
      if ((at.tick + 1) % op.period) break;  // later operations have slower clocks
      if (op.kind == BLOCK) {
        run_block(m, op, at, a.epsilon);
      } else if (op.kind == COMPRESS) {
        compress(m, op, at);
      } else if (op.kind == EXPAND) {
        expand(m, op, at);
      } else {
        run_head(m, op, at, a, a.position + step + 1);
        if (step + 1 < a.steps) sample_tokens(m, at, a, step + 1);
        else store_logits(m, at, a);
      }
    }
    __syncthreads();
  }
  cluster_arrive();  // a block may exit only after the others have stopped sending
  cluster_wait();
}
