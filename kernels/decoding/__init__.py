"""Decoding: many steps of a model in one launch (cuda_source/), or a step in one call on a CPU (cpu.py).

How the launch works. A model's step is a list of operations (operations.py): blocks, the head, and the two
projections between a stage and the next, slower one. A cluster of blocks of threads, each on a multiprocessor
of its own, runs them for 1 to 32 streams, and so many steps as it is told. Each rank has a share of a mixer's
channels: of in_proj its rows, of x_proj and out_proj its columns, whose sums the ranks write into each
other's shared memory, with a barrier of the cluster behind. A block of the model so has three barriers: after
x_proj (none where dt, B and C are constant), after out_proj, and after the residual stream was told to all.
The matrix products are tensor-core products of 16 rows, 16 columns and 8 streams. Weights are bf16, or two
bf16 numbers, high and low; operands are always high and low, which is float32 to 16 bits. Weights come from
the second cache in the order of their use, through rings in shared memory that are filled again while a
barrier is awaited; states are fetched a group ahead. Logits meet at the rank that draws for a stream, with
noise that was made beforehand.

How many ranks. The more there are, the less each has to do, and the fewer clusters there are: a few streams
have 8 ranks (16 in a wide model, 2 in a narrow one, which waits for barriers rather than for work), many
streams 2 (8 in a wide model). core/decoding/persistent.py chooses, and asks the driver how many clusters run
at once, which is fewer than the multiprocessors suggest: 15 of 8 ranks on an H200, and 7 of 16.

Why a sample does not depend on its batch: a stream is a column of every product, and no sum goes over
columns. A sum over rows has one order, that of its tiles; where ranks share it out it has parts, as many as
the model allows ranks, that are added up as the leaves of a tree. A rank of few makes its parts side by side,
which is no slower than one sum: they do not wait for each other.

What was measured on an H200, in results/sampling.json: 123 us a step of the small U-Net, 6 us a block, which
is real time by half; 64 us for one stream of 8 blocks of 256 channels; 310 us for 1,024 such streams, where
reading and writing the states alone would take 125. By a sweep over the macros on the same day: 114 us for
the one stream on 2 ranks instead of 8; 412 us for one stream of 24 blocks of 768 channels on 16 ranks, 505
for seven on 8.

What a block of the wide model waits for, of 35,000 cycles: in_proj 10,200, out_proj 5,500, x_proj 3,800, the
two barriers about the residual stream 7,100, dt 2,300, the scan 1,700. Its products take 106 cycles a step of
16 columns, which is what shared memory can carry: weights in and out, and operands of eight streams of which
one is alive. Leaving out the others is the next thing to try. What did not help: weights asked for ahead into
the second cache (412 us become 457), 12 warps instead of 8 (2 %), for many streams fewer steps to a chunk.

Models for which shared memory is short get shorter chunks, then half the threads; no such one has been timed.
"""
