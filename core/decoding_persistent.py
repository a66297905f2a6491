"""Decoding on a GPU by one kernel that runs whole steps, many of them a launch (kernels/decoding).

Weights are kept with 16 bits of mantissa, so that logits are those of float32 to about 1e-5, or in bf16 where
the engine is made under bf16 autocast. The state and all sums are float32. A sample has its sums made in one
order, whatever the count: a sample does not depend on its batch, bit by bit.
"""

from typing import TypeGuard

import torch
from torch import Tensor

from core.decoding import Model, StaticEngine, clock_period, tensors
from core.decoding_program import Covered, add_model, mixers_of
from core.mamba import Mamba
from core.sampling import SamplingConfig
from kernels.decoding import cuda
from kernels.decoding.arguments import Arguments, Sizes
from kernels.decoding.operations import Program
from kernels.decoding.packing import operands
from kernels.layout import multiprocessors

STREAMS = (8, 16, 24, 32)  # that a cluster may have
THREADS = 256  # of a block: more hide no more of what a step waits for than they cost in registers
SHARED_MEMORY = 227 * 1024
RINGS = (2, 8)  # chunks of weights in a ring: what there must be, and what is of use
WIDEST, SYMBOLS = 768, 1024  # channels between blocks, and a vocabulary, for which shared memory has room
WIDE = 512  # channels from which on the weights are too many for two multiprocessors to read in time
SECOND_CACHE = 32 * 2**20  # bytes of weights that stay there from step to step


class PersistentEngine(StaticEngine):
    """Runs a model on clusters of blocks that hold the whole step; see cuda_source/types.cuh."""

    def __init__(self, model: Covered, count: int, config: SamplingConfig, allowed: Tensor) -> None:
        super().__init__(model, count, allowed)
        self.config, self.count = config, count
        planes = 1 if torch.is_autocast_enabled(allowed.device.type) else 2
        self._program, self._sizes, self._share = _planned(model, planes, count, allowed.device)
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
    """Whether the kernel runs on the device, and takes the sizes of the model."""
    properties = torch.cuda.get_device_properties(device)
    is_able = (properties.major, properties.minor) >= (9, 0)
    return is_able and properties.shared_memory_per_block_optin >= SHARED_MEMORY and bool(_ranks(model))


def _ranks(model: Model) -> list[int]:
    """How many blocks may share a stream, the best first; none for a model whose sizes the kernel does not take."""
    mixers = mixers_of(model)
    if not mixers:
        return []
    widths = [mixer.in_proj.in_features for mixer in mixers]
    states = _state_floats(mixers[0])
    too_large = states > 64 or max(widths) > WIDEST or model.config.padded_vocab_size > SYMBOLS
    if too_large or states % 8 or any(width % 16 for width in widths):
        return []
    narrowest = min(mixer.d_inner for mixer in mixers)
    most = 16 if max(widths) >= WIDE else 2
    return [ranks for ranks in (16, 8, 4, 2, 1) if ranks <= most and narrowest % (32 * ranks) == 0]


def _state_floats(mixer: Mamba) -> int:
    return mixer.A_log.shape[1] * (2 if mixer.complex else 1)


def _planned(model: Covered, planes: int, count: int, device: torch.device) -> tuple[Program, Sizes, int]:
    """The operations of a step, the macros of the kernel, and how many streams each cluster has."""
    for ranks in _ranks(model):
        state = model.initial_state(1)
        program = Program(ranks, planes, tensors(state))
        add_model(program, model, state)
        sizes, share = _plan(program, model, count, device)
        if cuda.fits(sizes, device):
            return program, sizes, share
    raise ValueError(f"The GPU runs no cluster of blocks for a model of the sizes {model.config}.")


def _plan(program: Program, model: Covered, count: int, device: torch.device) -> tuple[Sizes, int]:
    """The macros of the kernel, and how many streams each cluster has.

    All clusters should run at once, each with as few streams as will do; if shared memory has no room for so
    many, they run one after the other. What room is left is the ring's.
    """
    clusters = max(1, multiprocessors(device) // program.ranks)
    share = -(-count // clusters)
    fitting = [
        streams for streams in STREAMS if _sizes(program, model, streams, 1).shared_memory() <= SHARED_MEMORY
    ]
    streams = next((streams for streams in fitting if streams >= share), fitting[-1])
    share = min(share, streams)
    sizes = _sizes(program, model, streams, share)
    more = (SHARED_MEMORY - sizes.shared_memory()) // sizes.chunk_bytes()
    return sizes._replace(RING=min(sizes.RING + more, RINGS[1])), share


def _sizes(program: Program, model: Covered, streams: int, share: int) -> Sizes:
    """The macros for a cluster of `share` streams, with the shortest ring.

    GROUP, AHEAD and RING, what a thread has at once and fetches ahead, change no sum; they are as measured
    best.
    """
    mixer = mixers_of(model)[0]
    return Sizes(
        CLUSTER=program.ranks,
        STREAMS=streams,
        THREADS=THREADS,
        GROUP=share if share < 3 else 4,
        AHEAD=4 // program.planes,
        RING=RINGS[0],
        STATE=_state_floats(mixer),
        CONV=mixer.conv1d.kernel_size[0],
        PLANES=program.planes,
        PREFETCH=int(program.weight_bytes() > SECOND_CACHE),
        VOCABULARY=model.config.padded_vocab_size,
        RESIDUAL_ROWS=program.residual_rows,
        SKIP_ROWS=max(1, program.skip_rows),
        OPERATIONS=len(program.operations),
        **program.largest(),
    )
