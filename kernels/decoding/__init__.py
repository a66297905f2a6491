"""Decoding: many steps of a model in one CUDA launch (cuda_source/), or one step in one CPU call (cpu.py).

The CUDA kernel. A step of a model is a list of operations: blocks, the head, and the two projections
between a stage of a U-Net and the next, slower one. core/decoding builds the list. A cluster of blocks of
threads, one block per multiprocessor, runs the list for 1 to 32 streams and a given number of steps. Each
rank of the cluster owns some channels of a mixer: rows of in_proj, and columns of x_proj and out_proj.
Ranks write the partial sums over channels into the shared memory of each other, followed by a cluster
barrier. A block of the model has three barriers: after x_proj (not if dt, B and C are constant), after
out_proj, and after the residual stream is broadcast. Matrix products run on the tensor cores, in tiles of
16 rows, 16 columns and 8 streams. Weights are one bf16 number, or two (high and low). Operands always have
high and low parts, which is float32 to 16 bits. Weights stream from L2 in the order of use, through rings
in shared memory that refill during barriers. States are loaded one group ahead. Logits go to the rank that
samples the stream; it has computed the noise in advance.

Number of ranks. More ranks mean less work per rank and fewer clusters. A few streams get 8 ranks (16 in a
wide model, 2 in a narrow one, which is limited by barriers), and many streams get 2 (8 in a wide model).
core/decoding/persistent.py chooses the number and asks the driver how many clusters run concurrently. That
is fewer than the number of multiprocessors suggests: 15 clusters of 8 ranks on an H200, and 7 of 16.

Independence of the batch. A stream is a column of every product, and no sum runs over columns. A sum over
rows has a fixed order, the order of its tiles. A sum that is split over ranks has a fixed number of partial
sums, the largest number of ranks for the model, added up as a binary tree. A rank with several partial sums
computes them side by side, at the speed of one sum, because they do not depend on each other.

Measurements on an H200 (results/sampling.json): 123 us per step of the small U-Net, or 6 us per block,
which is half of real time; 64 us for one stream of 8 blocks of 256 channels; 310 us for 1,024 such streams,
of which reading and writing the states takes 125 us. A sweep over the macros on the same day gave 114 us
for the one stream on 2 ranks instead of 8. One stream of 24 blocks of 768 channels took 412 us on 16 ranks,
and 505 us for seven streams on 8 ranks.

Time of one block of the wide model, of 35,000 cycles: in_proj 10,200, out_proj 5,500, x_proj 3,800, the two
barriers around the residual stream 7,100, dt 2,300, the scan 1,700. Its products take 106 cycles per step
of 16 columns, which is the bandwidth of shared memory: weights in and out, and operands of eight streams
with one in use. Skipping the unused operands is the next idea. These did not help: prefetching weights into
L2 (412 us became 457 us), 12 warps instead of 8 (2 %), and smaller chunks for many streams.

If a model needs too much shared memory, chunks become shorter, then the number of threads is halved. No
such model has been timed.
"""
