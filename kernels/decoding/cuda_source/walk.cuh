// How the threads of a block share out the mixer's channels and the streams.

// The mixer's channels: how many this rank has, how many there are, and the first of this rank's. Here and below, what a
// phase uses of an operation again and again is in registers, for the reason that Weights has.
struct Channels {
  int own, all, first;
};
__device__ Channels channels_of(const Operation& op, const Place& at) {
  return {op.own_channels, op.own_channels * CLUSTER, op.own_channels * at.rank};
}
// How the threads share out the channels, `lanes` threads a channel: a thread has every `channels_apart`-th channel from
// `own` on, and of each every `apart`-th stream from `stream` on.
struct Walk {
  int own, lane, stream, apart, channels_apart;
};
__device__ Walk walk_of(const Channels& c, const Place& at, int lanes) {
  int width = c.own * lanes, index = at.thread % width, stream = at.thread / width;
  int apart = max(THREADS / width, 1);
  bool is_idle = stream >= min(apart, at.active);
  return {is_idle ? c.own : index / lanes, index % lanes, stream, apart, THREADS / lanes};
}
// What a thread does at once: a channel, and GROUP streams of it. Its loads come first, while the group before is in
// work, and no choice parts its streams, so that their arithmetic overlaps.
struct Group {
  int own, stream;
};
__device__ Group first_group(const Walk& walk) { return {walk.own, walk.stream}; }
__device__ Group next_group(Group group, const Walk& walk, int active) {
  group.stream += GROUP * walk.apart;
  if (group.stream >= active) group = {group.own + walk.channels_apart, walk.stream};
  return group;
}
