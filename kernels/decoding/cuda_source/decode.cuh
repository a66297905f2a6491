// Decodes `steps` tokens of each stream in one launch. A cluster of CLUSTER blocks has STREAMS streams.

extern "C" __global__ void __cluster_dims__(CLUSTER, 1, 1) __launch_bounds__(THREADS, 1) decode(Arguments a) {
  extern __shared__ __align__(16) char memory[];
  Shared& m = *(Shared*)memory;
  Place at = {};
  at.thread = threadIdx.x;
  at.lane = at.thread % 32;
  at.warp = at.thread / 32;
  at.rank = cluster_rank();
  at.row = (i64)(blockIdx.x / CLUSTER) * STREAMS;
  for (int word = at.thread; word < (int)sizeof(m.operations) / 4; word += THREADS)
    ((u32*)m.operations)[word] = ((const u32*)a.operations)[word];
  if (at.thread == 0) {
    for (int i = 0; i < BARRIERS; i++) barrier_init(m.barriers + i);
    barriers_are_ready();
  }
  load_drawing(m, at, a);
  cluster_barrier();

  draw(m, at, a, 0);
  for (int step = 0; step < a.steps; step++) {
    at.tick = (u32)((a.position + step) % a.slowest_period);
    embed(m, at, a, m.operations[0].width);
    for (int i = 0; i < OPERATIONS; i++) {
      const Operation& op = m.operations[i];
      if ((at.tick + 1) % op.period) break;  // what comes later is of slower clocks
      if (op.kind == BLOCK) {
        run_block(m, op, at, a.epsilon);
      } else if (op.kind == COMPRESS) {
        compress(m, op, at);
      } else if (op.kind == EXPAND) {
        expand(m, op, at);
      } else {
        run_head(m, op, at, a, a.position + step + 1);
        if (step + 1 < a.steps) draw(m, at, a, step + 1);
        else if (at.rank == 0) store_logits(m, at, a);
      }
    }
    __syncthreads();
  }
  cluster_barrier();  // no block may leave while others send to it
}
