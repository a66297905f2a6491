// Partition of channels and streams over the threads of a block.

// Channels of the mixer: the number of this rank, the total, and the first of this rank. A phase copies the fields of
// an operation that it reads repeatedly into registers, for the reason given at Weights.
struct Channels {
  int own, all, first;
};
__device__ Channels channels_of(const Operation& op, const Place& at) {
  return {op.own_channels, op.own_channels * CLUSTER, op.own_channels * at.rank};
}
// Partition with `lanes` threads per channel: a thread visits every `channels_apart`-th channel from `own`, and for
// each of them every `apart`-th stream from `stream`.
struct Walk {
  int own, lane, stream, apart, channels_apart;
};
__device__ Walk walk_of(const Channels& c, const Place& at, int lanes) {
  int width = c.own * lanes, index = at.thread % width, stream = at.thread / width;
  int apart = max(THREADS / width, 1);
  bool is_idle = stream >= min(apart, at.active);
  return {is_idle ? c.own : index / lanes, index % lanes, stream, apart, THREADS / lanes};
}
// Unit of work of a thread: GROUP streams of one channel. A thread loads a group while it computes the previous one.
// There are no branches between the streams of a group, so that their arithmetic overlaps.
struct Group {
  int own, stream;
};
__device__ Group first_group(const Walk& walk) { return {walk.own, walk.stream}; }
__device__ Group next_group(Group group, const Walk& walk, int active) {
  group.stream += GROUP * walk.apart;
  if (group.stream >= active) group = {group.own + walk.channels_apart, walk.stream};
  return group;
}
