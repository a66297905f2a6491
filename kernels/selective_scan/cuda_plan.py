"""Shapes, tuning and work division of the CUDA scan: arithmetic on the shapes, never a trial run.

A block of 4 warps owns 32 * `per` channels, `per` of them for each four lanes. Time is cut into segments that
run in parallel where rows alone do not fill the GPU. "Floats" count a complex number as two.
"""

import functools
from typing import NamedTuple

import torch

from kernels.selective_scan.arguments import ScanArguments

# The first three are also in cuda_source/types.cuh.
CHUNK = 32  # positions between checkpoints
THREADS = 128  # of a block
GROUP_FLOATS = 16  # floats of a state that a block scans together; larger states take several groups
MAX_FLOATS = 64  # floats of a state: with more groups, staging costs more than it saves
MAX_CLUSTER = 8  # blocks: the largest cluster that every GPU with clusters supports
MAX_PARTIAL_ROWS = (
    2048  # rows of partial sums of dA, D and dt_bias: beyond it a block takes several sequences
)
RESERVED_MEMORY = 1024  # bytes of shared memory that CUDA reserves for each block


class Gpu(NamedTuple):
    """Limits of a GPU that a plan depends on."""

    multiprocessors: int
    shared_memory: int  # bytes of a multiprocessor
    block_shared_memory: int  # bytes that a block may use
    capability: tuple[int, int]


class Cost(NamedTuple):
    """Cost of a pass. The unit of time is one chunk of 64 channels on a full multiprocessor."""

    per: int  # channels of a lane
    places: float  # 64-channel blocks that run together on a multiprocessor of the measured GPU
    latency: float  # time of a chunk for a block that runs alone
    work: float  # additional time of a chunk for each block on the multiprocessor
    first_phase: float  # time of a chunk in the phase that finds segment ends, over that of the main phase
    overhead: float  # time of starting a segment, in chunks


# Fitted to the times of the shapes of `python -m kernels.benchmarks` on one NVIDIA H200, `MEASURED`. A plan
# for another GPU uses its multiprocessors, and fewer places where its shared memory holds fewer blocks.
MEASURED = Gpu(multiprocessors=132, shared_memory=228 << 10, block_shared_memory=227 << 10, capability=(9, 0))
FORWARD = (
    Cost(per=1, places=2.5, latency=0.35, work=1.45, first_phase=1.2, overhead=0.5),
    Cost(per=2, places=4, latency=1.3, work=1, first_phase=1.2, overhead=0.5),
)
BACKWARD = (  # places: 3 blocks, less the slots that clusters leave empty
    Cost(per=2, places=2.8, latency=3.5, work=1, first_phase=0.16, overhead=0.5),
)


class Sizes(NamedTuple):
    """Sizes of a scan."""

    batch: int
    length: int
    channels: int
    group_channels: int  # channels that share B and C
    floats: int  # floats of a state

    @property
    def groups(self) -> int:
        """Return the groups of GROUP_FLOATS floats that cover a state."""
        return -(-self.floats // GROUP_FLOATS)

    @property
    def padded_floats(self) -> int:
        """Return the floats of a padded state."""
        return self.groups * GROUP_FLOATS

    @property
    def chunks(self) -> int:
        """Return the chunks of a row."""
        return max(1, -(-self.length // CHUNK))


class Plan(NamedTuple):
    """Launch of a pass."""

    per: int  # channels of a lane
    groups: int  # of floats
    segments: int
    chunks_per_segment: int
    blocks_across: int  # blocks that cover the channels
    block_memory: int  # bytes of shared memory
    batch_per_block: int = 1  # sequences that a block of the backward takes in turn
    partial_rows: int = 1  # rows of partial sums of dA, dD and ddt_bias
    cluster: int = 1  # blocks that sum dB and dC on chip
    partial_sums: int = 1  # partial sums of dB and dC for each group of channels


def sizes_of(arguments: ScanArguments) -> Sizes:
    """Return the sizes of a scan whose B and C vary over time."""
    batch, length, channels = arguments.x.shape
    floats = arguments.A.shape[1] * arguments.parts
    return Sizes(batch, length, channels, channels // arguments.B.shape[2], floats)


@functools.cache
def gpu_of(device: torch.device) -> Gpu:
    """Return the limits of a CUDA device."""
    properties = torch.cuda.get_device_properties(device)
    return Gpu(
        properties.multi_processor_count,
        properties.shared_memory_per_multiprocessor,
        properties.shared_memory_per_block_optin,  # type: ignore[attr-defined]
        (properties.major, properties.minor),
    )


def fits(gpu: Gpu, floats: int) -> bool:
    """Return whether the kernels run on a GPU, for states of `floats` floats."""
    needed = block_memory(-(-floats // GROUP_FLOATS), per=2, backward=True)
    return gpu.capability >= (8, 0) and gpu.block_shared_memory >= needed


def plan_forward(sizes: Sizes, gpu: Gpu) -> Plan:
    """Return the plan of the forward."""
    per, segments = choose(sizes, gpu, backward=False)
    return _plan(sizes, per, segments, backward=False)


def plan_backward(sizes: Sizes, gpu: Gpu) -> Plan:
    """Return the plan of the backward."""
    per, segments = choose(sizes, gpu, backward=True)
    plan = _plan(sizes, per, segments, backward=True)
    batch_per_block = 1
    if plan.segments == 1:
        batch_per_block = max(1, sizes.batch * plan.blocks_across // MAX_PARTIAL_ROWS)
    blocks = -(-sizes.group_channels // channels_per_block(per))
    cluster = 1
    if gpu.capability >= (9, 0):
        cluster = max(size for size in range(1, MAX_CLUSTER + 1) if blocks % size == 0)
    return plan._replace(
        batch_per_block=batch_per_block,
        partial_rows=-(-sizes.batch // batch_per_block) * plan.segments,
        cluster=cluster,
        partial_sums=plan.blocks_across // (sizes.channels // sizes.group_channels) // cluster,
    )


def _plan(sizes: Sizes, per: int, segments: int, backward: bool) -> Plan:
    chunks_per_segment = -(-sizes.chunks // segments)
    return Plan(
        per=per,
        groups=sizes.groups,
        segments=-(-sizes.chunks // chunks_per_segment),
        chunks_per_segment=chunks_per_segment,
        blocks_across=-(-sizes.channels // channels_per_block(per)),
        block_memory=block_memory(sizes.groups, per, backward),
    )


def channels_per_block(per: int) -> int:
    """Return the channels of a block: four lanes share `per` of them."""
    return THREADS // 4 * per


def block_memory(groups: int, per: int, backward: bool) -> int:
    """Return the shared memory of a block in bytes: ForwardShared for each warp, or BackwardShared."""
    steps, values = CHUNK * (8 * per + 2) * 8, CHUNK * (8 * per + 4) * 4
    if not backward:
        return 4 * (steps + CHUNK * 36 * 4 + (values if groups > 1 else 0))
    runs = 8 * 32 * 4 * per * 4
    return 4 * ((steps + values) * (2 if groups > 1 else 1) + runs) + CHUNK * 64 * 4


def resident_blocks(gpu: Gpu, groups: int, per: int, backward: bool) -> int:
    """Return the blocks that a multiprocessor should hold together, which limits their registers.

    More blocks than the first limit would spill registers (found on `MEASURED`).
    """
    limits = {"forward": 5 if per == 1 else 4, "backward": 2 if groups > 1 else 3}
    limit = limits["backward" if backward else "forward"]
    memory = block_memory(groups, per, backward) + RESERVED_MEMORY
    return max(1, min(limit, gpu.shared_memory // memory))


@functools.cache
def choose(sizes: Sizes, gpu: Gpu, backward: bool) -> tuple[int, int]:
    """Return the channels of a lane and the number of segments with the least estimated time.

    One segment needs no first phase; more segments fill the multiprocessors where rows alone do not.
    """
    rows = sizes.batch * -(-sizes.channels // 64)

    def time(cost: Cost, segments: int) -> float:
        here, measured = (resident_blocks(g, sizes.groups, cost.per, backward) for g in (gpu, MEASURED))
        places = cost.places * (here / measured)
        full, rest = divmod(rows * segments, max(1, int(gpu.multiprocessors * places)))
        waves = full * (cost.latency + cost.work * places)
        if rest:
            waves += cost.latency + cost.work * -(-rest // gpu.multiprocessors)
        first_phase = cost.first_phase * (segments - 1) / segments
        return waves * (1 + first_phase) * (-(-sizes.chunks // segments) + cost.overhead)

    most = min(sizes.chunks, -(-64 * gpu.multiprocessors // rows))
    counts = sorted({*range(1, min(most, 16) + 1), *(max(1, most * k // 32) for k in range(1, 33))})
    options = [(cost, count) for cost in (BACKWARD if backward else FORWARD) for count in counts]
    cost, segments = min(options, key=lambda option: time(*option))
    return cost.per, segments
