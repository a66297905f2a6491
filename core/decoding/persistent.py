"""Decoding on a GPU by one kernel that runs whole steps, many of them a launch (kernels/decoding).

Weights are kept with 16 bits of mantissa, so that logits are those of float32 to about 1e-5, or in bf16 where
the engine is made under bf16 autocast. The state and all sums are float32. A sample has its sums made in one
order, whatever the count: a sample does not depend on its batch, bit by bit.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor

from core.decoding.engines import Model, StaticEngine, clock_period, tensors
from core.decoding.program import Covered, add_model, frames_of, mixers_of
from core.decoding.sampling import SamplingConfig
from core.layers.mamba import Mamba
from kernels.decoding import cuda
from kernels.decoding.arguments import Arguments, Sizes
from kernels.decoding.operations import Program
from kernels.decoding.packing import TILE, operands

STREAMS = (8, 16, 24, 32)  # that a cluster may have
THREADS = 256  # of a block: more hide no more of what a step waits for than they cost in registers
RINGS = (2, 8)  # chunks of weights in a ring: what there must be, and what is of use
WIDEST, SYMBOLS = 768, 1024  # channels between blocks, and a vocabulary, for which shared memory has room
FEWEST = 64  # channels of a mixer that more than two blocks must each have to be worth their barriers
WIDE = 512  # channels from which on the weights are too many for a few multiprocessors to read in time
FEW = 8  # streams of a cluster, above which twice as many clusters of half as many blocks are better


class PersistentEngine(StaticEngine):
    """Runs a model on clusters of blocks that hold the whole step; see cuda_source/types.cuh."""

    def __init__(self, model: Covered, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.config, self.count = config, count
        planes = _planes(allowed.device)
        self._program = _program(model, _ranks(model, planes, count, allowed.device), planes)
        self._sizes, self._share = _plan(self._program, model, count, allowed.device)
        self._operations = self._program.bound(tensors(self._state)).to(allowed.device)
        self._embedding = model.embedding.weight.detach().float().contiguous()
        self._operands = operands(self._embedding)
        self._allowed = allowed.to(torch.uint8)
        self._period = clock_period(model)
        self._epsilon = model.norm_f.eps

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        tokens = torch.empty(self.count, steps, dtype=torch.int64, device=self._keys.device)
        log_probabilities = torch.empty(self.count, steps, device=self._keys.device)
        arguments = Arguments(
            position=self.position,
            count=self.count,
            share=self._share,
            steps=steps,
            slowest_period=self._period,
            top_k=self.config.top_k or 0,
            temperature=self.config.temperature,
            top_p=self.config.top_p,
            min_p=self.config.min_p,
            epsilon=self._epsilon,
        )
        for name, tensor in (
            *(("operations", self._operations), ("embedding_operand", self._operands)),
            *(("embedding", self._embedding), ("keys", self._keys), ("allowed", self._allowed)),
            *(("logits", self._logits), ("tokens", tokens), ("log_probabilities", log_probabilities)),
        ):
            setattr(arguments, name, tensor.data_ptr())
        cuda.launch(self._sizes, arguments, -(-self.count // self._share), self._keys.device)
        self.position += steps
        return tokens, log_probabilities


def takes(model: Model, device: torch.device) -> TypeGuard[Covered]:
    """Whether the kernel runs on the device, and has room for the model."""
    properties: Any = torch.cuda.get_device_properties(device)
    is_able = properties.major >= 9 and properties.shared_memory_per_block_optin >= cuda.SHARED_MEMORY
    return is_able and any(_able_ranks(model, _planes(device), device))


def _planes(device: torch.device) -> int:
    """Of the weights: bf16 under autocast, else 16 bits of mantissa."""
    return 1 if torch.is_autocast_enabled(device.type) else 2


def _parts(model: Model) -> int:
    """Of a sum over channels, and the most blocks of a stream; 0 for a model that the kernel does not take.

    They are the model's, whatever the count, so that sums are made in one order.
    """
    mixers = mixers_of(model)
    if not mixers:
        return 0
    widths = [mixer.in_proj.in_features for mixer in mixers]
    states = _state_floats(mixers[0])
    too_large = states > 64 or max(widths) > WIDEST or model.config.padded_vocab_size > SYMBOLS
    if too_large or states % 8 or any(width % 16 for width in widths):
        return 0
    narrowest = min(mixer.d_inner for mixer in mixers)

    def divides(parts: int) -> bool:
        framed = [(width // parts, pool * width // parts) for pool, width in frames_of(model)]
        return narrowest % (32 * parts) == 0 and all(c % 2 == 0 and n % TILE == 0 for c, n in framed)

    most = 16 if _is_wide(model) else max(2, min(8, narrowest // FEWEST))
    return next((parts for parts in (16, 8, 4, 2, 1) if parts <= most and divides(parts)), 0)


def _ranks(model: Covered, planes: int, count: int, device: torch.device) -> int:
    """How many blocks have each stream: the more, the sooner a step is done, but the fewer the clusters."""
    fewest = 8 if _is_wide(model) else 2
    for ranks in _able_ranks(model, planes, device):
        if ranks <= fewest or count <= FEW * cuda.clusters(ranks, device):
            break
    return ranks  # the fewest that are able, where there are too many streams for any of them


def _able_ranks(model: Model, planes: int, device: torch.device) -> Iterator[int]:
    """How many blocks may have a stream, the most first: the device has such clusters, and they have room."""
    parts = _parts(model)
    if parts == 0:
        return
    with torch.device("meta"):
        bare: Covered = type(model)(model.config)  # type: ignore[assignment, arg-type]
    for ranks in (parts >> power for power in range(parts.bit_length())):
        if cuda.clusters(ranks, device) > 0 and _fitting(_program(bare, ranks, planes), bare):
            yield ranks


def _state_floats(mixer: Mamba) -> int:
    return mixer.A_log.shape[1] * (2 if mixer.complex else 1)


def _is_wide(model: Model) -> bool:
    return max(mixer.in_proj.in_features for mixer in mixers_of(model)) >= WIDE


def _plan(program: Program, model: Covered, count: int, device: torch.device) -> tuple[Sizes, int]:
    """The macros of the kernel, and how many streams each cluster has.

    All clusters should run at once, each with as few streams as will do; if shared memory has no room for so
    many, they run one after the other. What room is left is the ring's.
    """
    share = -(-count // cuda.clusters(program.ranks, device))
    fitting = _fitting(program, model)
    sizes = next((sizes for sizes in fitting if share <= sizes.STREAMS), fitting[-1])
    share = min(share, sizes.STREAMS)
    more = (cuda.SHARED_MEMORY - sizes.shared_memory()) // sizes.chunk_bytes()
    group = share if share < 3 else 4 if share <= 8 else 8
    return sizes._replace(GROUP=group, RING=min(sizes.RING + more, RINGS[1])), share


def _fitting(program: Program, model: Covered) -> list[Sizes]:
    """The macros, by streams, with the shortest ring, for which shared memory has room; there may be none.

    Where it is short, chunks of weights are, and then there are fewer threads, which have a ring a warp.
    """
    pieces = program.parts // program.ranks
    ahead = (6 if _is_wide(model) else 4) // program.planes
    best = pieces * -(-ahead // pieces)
    for threads, steps in ((THREADS, best), (THREADS, pieces), (THREADS // 2, pieces)):
        found = [_sizes(program, model, streams, threads, steps) for streams in STREAMS]
        if fitting := [sizes for sizes in found if sizes.shared_memory() <= cuda.SHARED_MEMORY]:
            return fitting
    return []


def _sizes(program: Program, model: Covered, streams: int, threads: int, ahead: int) -> Sizes:
    """The macros for so many streams of a cluster, with the shortest ring.

    THREADS, GROUP, AHEAD and RING, what a thread has at once and fetches ahead, change no sum; they are as
    measured best.
    """
    mixer = mixers_of(model)[0]
    return Sizes(
        CLUSTER=program.ranks,
        PARTS=program.parts,
        STREAMS=streams,
        THREADS=threads,
        GROUP=1,
        AHEAD=ahead,
        RING=RINGS[0],
        STATE=_state_floats(mixer),
        CONV=mixer.conv1d.kernel_size[0],
        PLANES=program.planes,
        VOCABULARY=model.config.padded_vocab_size,
        RESIDUAL_ROWS=program.residual_rows,
        SKIP_ROWS=max(1, program.skip_rows),
        OPERATIONS=len(program.operations),
        **program.largest(),
    )


def _program(model: Covered, ranks: int, planes: int) -> Program:
    """The operations of a step, on the state of one sample for now."""
    state = model.initial_state(1)
    program = Program(ranks, _parts(model), planes, tensors(state))
    add_model(program, model, state)
    return program
