"""Decoding on a GPU with one persistent kernel that runs many whole steps per launch (kernels/decoding).

Weights have 16 bits of mantissa, so logits agree with float32 to about 1e-5; an engine that is made under
bf16 autocast uses bf16 weights. The state and all sums are float32. The order of the sums of a sample does
not depend on the count, so a sample is bit-identical in any batch.
"""

from collections.abc import Iterator
from typing import Any, TypeGuard

import torch
from torch import Tensor

from core.decoding.cuda_program import CudaProgram
from core.decoding.program import MambaModel, add_model, can_pack, frame_sizes, mamba_mixers
from core.decoding.sampling import SamplingConfig
from core.decoding.state import Model, StaticEngine, clock_period, state_tensors
from core.layers.mamba import Mamba
from kernels.decoding import cuda
from kernels.decoding.arguments import Arguments, Sizes
from kernels.decoding.packing import TILE, operands

# A stream is one sample of the batch. A rank is one thread block of a cluster, which shares some streams.
STREAMS = (8, 16, 24, 32)  # possible streams per cluster
THREADS = 256  # threads per rank; with more, registers cost more than the latency that they hide
RINGS = (2, 8)  # chunks in a ring of weights: the minimum, and the most that is useful
MAX_CHANNELS, MAX_SYMBOLS = 768, 1024  # largest width between blocks and vocabulary for shared memory
CHANNELS_PER_RANK = 64  # smallest share of a mixer's channels for which more than two ranks pay
WIDE = 512  # channels from which a few multiprocessors cannot read the weights in time
FEW_STREAMS = 8  # streams per cluster above which twice as many clusters of half as many ranks are faster


class PersistentEngine(StaticEngine):
    """Run a model on clusters of thread blocks that hold the whole step; see cuda_source/types.cuh."""

    def __init__(self, model: MambaModel, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.config, self.count = config, count
        planes = _planes(allowed.device)
        self._program = _program(model, _ranks(model, planes, count, allowed.device), planes)
        self._sizes, self._share = _plan(self._program, model, count, allowed.device)
        self._operations = self._program.bind(state_tensors(self._model_state)).to(allowed.device)
        self._embedding = model.embedding.weight.detach().float().contiguous()
        self._operands = operands(self._embedding)
        self._allowed = allowed.to(torch.uint8)
        self._period = clock_period(model)
        self._epsilon = model.norm_f.eps

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        """Sample tokens (count, steps) int64 with log-probabilities (count, steps) float32."""
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


def supports(model: Model, device: torch.device) -> TypeGuard[MambaModel]:
    """Return whether the kernel runs on the device (not on ROCm) and the model can be packed and fits."""
    if torch.version.hip or not can_pack(model):
        return False
    properties: Any = torch.cuda.get_device_properties(device)
    memory = getattr(properties, "shared_memory_per_block_optin", 0)
    is_able = properties.major >= 9 and memory >= cuda.SHARED_MEMORY
    return is_able and any(_possible_ranks(model, _planes(device), device))


def _planes(device: torch.device) -> int:
    """Return the bf16 numbers per weight: 1 under autocast, else 2, which hold 16 bits of mantissa."""
    return 1 if torch.is_autocast_enabled(device.type) else 2


def _parts(model: Model) -> int:
    """Return the number of partial sums per reduction, also the limit on ranks; 0 for an unsupported model.

    It depends on the model alone, so the order of the sums does not depend on the count.
    """
    mixers = mamba_mixers(model)
    if not mixers:
        return 0
    widths = [mixer.in_proj.in_features for mixer in mixers]
    states = _state_floats(mixers[0])
    is_large = max(widths) > MAX_CHANNELS or model.config.padded_vocab_size > MAX_SYMBOLS
    if states > 64 or is_large or states % 8 or any(width % 16 for width in widths):
        return 0
    narrowest = min(mixer.d_inner for mixer in mixers)

    def divides(parts: int) -> bool:
        shares = [(width // parts, pool * width // parts) for pool, width in frame_sizes(model)]
        return narrowest % (32 * parts) == 0 and all(c % 2 == 0 and n % TILE == 0 for c, n in shares)

    most = 16 if _is_wide(model) else max(2, min(8, narrowest // CHANNELS_PER_RANK))
    return next((parts for parts in (16, 8, 4, 2, 1) if parts <= most and divides(parts)), 0)


def _ranks(model: MambaModel, planes: int, count: int, device: torch.device) -> int:
    """Return the ranks per cluster: with more ranks a step is faster, but fewer clusters run at once."""
    fewest = 8 if _is_wide(model) else 2
    for ranks in _possible_ranks(model, planes, device):
        if ranks <= fewest or count <= FEW_STREAMS * cuda.clusters(ranks, device):
            break
    return ranks  # the smallest possible number if there are too many streams


def _possible_ranks(model: Model, planes: int, device: torch.device) -> Iterator[int]:
    """Yield the ranks per cluster that the device can run and that fit the model, largest first."""
    parts = _parts(model)
    if parts == 0:
        return
    with torch.device("meta"):
        bare: MambaModel = type(model)(model.config)  # type: ignore[assignment, arg-type]
    for ranks in (parts >> power for power in range(parts.bit_length())):
        if cuda.clusters(ranks, device) > 0 and _fitting(_program(bare, ranks, planes), bare):
            yield ranks


def _state_floats(mixer: Mamba) -> int:
    return mixer.A_log.shape[1] * (2 if mixer.complex else 1)


def _is_wide(model: Model) -> bool:
    return max(mixer.in_proj.in_features for mixer in mamba_mixers(model)) >= WIDE


def _plan(program: CudaProgram, model: MambaModel, count: int, device: torch.device) -> tuple[Sizes, int]:
    """Return the macros of the kernel and the streams per cluster.

    All clusters should run at once, each with as few streams as possible. If these do not fit in shared
    memory, some clusters run after others. The rest of shared memory goes to the ring of weights.
    """
    share = -(-count // cuda.clusters(program.ranks, device))
    fitting = _fitting(program, model)
    sizes = next((sizes for sizes in fitting if share <= sizes.STREAMS), fitting[-1])
    share = min(share, sizes.STREAMS)
    more = (cuda.SHARED_MEMORY - sizes.shared_memory()) // sizes.chunk_bytes()
    group = share if share < 3 else 4 if share <= 8 else 8
    return sizes._replace(GROUP=group, RING=min(sizes.RING + more, RINGS[1])), share


def _fitting(program: CudaProgram, model: MambaModel) -> list[Sizes]:
    """Return the macros that fit in shared memory, by streams, with the shortest ring; possibly none.

    If shared memory is short, chunks of weights are shorter, then threads are fewer: each warp has a ring.
    """
    own_parts = program.parts // program.ranks
    ahead = (6 if _is_wide(model) else 4) // program.planes
    best = own_parts * -(-ahead // own_parts)
    for threads, steps in ((THREADS, best), (THREADS, own_parts), (THREADS // 2, own_parts)):
        candidates = [_sizes(program, model, streams, threads, steps) for streams in STREAMS]
        if fitting := [sizes for sizes in candidates if sizes.shared_memory() <= cuda.SHARED_MEMORY]:
            return fitting
    return []


def _sizes(program: CudaProgram, model: MambaModel, streams: int, threads: int, ahead: int) -> Sizes:
    """Return the macros for `streams` streams per cluster, with the shortest ring.

    THREADS, GROUP, AHEAD and RING affect prefetching but no sum; their values are the fastest measured.
    """
    mixer = mamba_mixers(model)[0]
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


def _program(model: MambaModel, ranks: int, planes: int) -> CudaProgram:
    """Return the operations of a step on the state of one sample; `bind` moves them to another state."""
    state = model.initial_state(1)
    program = CudaProgram(ranks, _parts(model), planes, state_tensors(state))
    add_model(program, model, state)
    return program
