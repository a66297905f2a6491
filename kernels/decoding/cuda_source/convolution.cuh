// Convolution over the last CONV positions, and both SiLUs.

constexpr int BEFORE = CONV - 1;
struct Convolution {
  const float *weight, *bias;  // at the first channel of the rank
  float* state;                // at the first stream of the cluster
};
__device__ Convolution convolution_of(const Operation& op, const Channels& c, const Place& at) {
  return {op.conv_weight + c.first, op.conv_bias + c.first, op.conv + at.row * BEFORE * c.all + c.first};
}
struct Past {
  float input[GROUP][BEFORE > 0 ? BEFORE : 1], weight[CONV], bias;
};
__device__ void load_past(Past& past, const Convolution& conv, const Channels& c, const Group& group,
                          const Walk& walk, int active) {
  if (group.own >= c.own) return;
#pragma unroll
  for (int k = 0; k < CONV; k++) past.weight[k] = __ldg(conv.weight + k * c.all + group.own);
  past.bias = __ldg(conv.bias + group.own);
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    const float* from = conv.state + (stream * BEFORE * c.all + group.own);
#pragma unroll
    for (int k = 0; k < BEFORE; k++)
      if (stream < active) past.input[i][k] = load_state(from + k * c.all);
  }
}
__device__ void convolve(Shared& m, const Convolution& conv, const Channels& c, const Past& past, const Group& group,
                         const Walk& walk, int active) {
#pragma unroll
  for (int i = 0; i < GROUP; i++) {
    int stream = group.stream + i * walk.apart;
    bool is_active = stream < active;
    stream = is_active ? stream : group.stream;
    float scale = m.scale[stream], input = m.u[stream][group.own] * scale, z = m.z[stream][group.own] * scale;
    float u = past.bias;
#pragma unroll
    for (int k = 0; k < BEFORE; k++) u += past.weight[k] * past.input[i][k];
    u += past.weight[BEFORE] * input;
    u *= sigmoid(u);
    float neighbour = __shfl_xor_sync(~0u, u, 1);
    if (!is_active) continue;
    float* to = conv.state + (stream * BEFORE * c.all + group.own);
#pragma unroll
    for (int k = 0; k < BEFORE; k++) store_state(to + k * c.all, k + 1 < BEFORE ? past.input[i][k + 1] : input);
    m.u[stream][group.own] = u;
    m.z[stream][group.own] = z * sigmoid(z);
    if (group.own % 2 == 0) *(Pair*)&m.operand[stream][operand_word(group.own)] = split(u, neighbour);
  }
}
