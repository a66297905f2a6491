"""Decoding: many steps of a model in one launch (cuda_source/), or a step in one call on a CPU (cpu.py).

How the launch works. A model's step is a list of operations (operations.py): blocks, the head, and the two
projections between a stage and the next, slower one. A cluster of two blocks of threads, on two
multiprocessors, runs them for 1 to 32 streams, and so many steps as it is told; a model too wide for two
has eight. Each rank has a share of a mixer's channels: of in_proj its rows, of x_proj and out_proj its
columns, whose sums the ranks write into each other's shared memory, with a barrier of the cluster behind. A
block of the model so has three barriers: after x_proj (none where dt, B and C are constant), after
out_proj, and after the residual stream was told to all. The matrix products are tensor-core products of 16
rows, 16 columns and 8 streams. Weights are bf16, or two bf16 numbers, high and low; operands are always
high and low, which is float32 to 16 bits. Weights come from the second cache in the order of their use, and
those of the next product are fetched while a barrier is awaited; so are the states. Logits meet at the rank
that draws for a stream, with noise that was made beforehand.

Why a sample does not depend on its batch: a stream is a column of every product, and no sum goes over
columns. Every sum over rows has one order, that of the tiles, lanes and ranks, and the number of ranks is
the model's.

What was estimated: a phase between two barriers is about 0.3 us, so that a block takes about 1 us and a
step of the small U-Net, 20.5 blocks on average, 20 to 30 us; its weights, 2.3 MB a step, are read by two
multiprocessors in about 11 us of that. A large batch is bound by its states: 416 KB a step and stream of
the small U-Net are read and written.

What was measured on an H200 (results/sampling.json): 127 us a step of the small U-Net, 6 us a block, which is
real time by half; 369 us for 1,024 streams of 8 blocks of 256 channels, where reading and writing the states
alone would take 125. ncu, on the version before this (168 and 604 us), showed what is waited for. A single
stream waits 40 % of its time at the barriers of block and cluster, whose release waits for what was sent, and
then for one instruction after another: a warp issues every eighth cycle. Many streams wait for states and for
spilled values, and spent 41 % of their instructions on the scan, most of them on addresses. What helped:
addresses as a base and a 32-bit place; fields of an operation in registers, for a store to shared memory,
where operations are, has them read again; as many streams at once as there are. Twice the threads with half
the registers are slower by a tenth to a fifth. Sixteen blocks instead of eight take 0.56 ms for a step of
24 blocks of 768 channels where eight take 0.74, but not every GPU has clusters of so many.
"""
