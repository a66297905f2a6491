"""Decoding on a GPU by one kernel that runs whole steps, many of them a launch (kernels/decoding).

Weights are kept with 16 bits of mantissa, so that logits are those of float32 to about 1e-5, or in bf16 where
the engine is made under bf16 autocast. The state and all sums are float32. A sample has its sums made in one
order, whatever the count: a sample does not depend on its batch, bit by bit.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from core.block import Block
from core.decoding import Model, Situation, at_position
from core.mamba import Mamba, MambaState
from core.multiscale import Centre, MultiscaleModel, Stage, StageState
from core.sampling import SamplingConfig
from kernels.decoding import cuda
from kernels.decoding.arguments import Arguments, Sizes
from kernels.decoding.operations import BlockWeights, Program
from kernels.decoding.packing import operands

CLUSTERS = 16  # that an H200 runs at once
STREAMS = (8, 16, 24, 32)  # that a cluster may have
SHARED_MEMORY = 227 * 1024
WIDEST, SYMBOLS = 768, 1024  # channels between blocks, and a vocabulary, for which shared memory has room


class PersistentEngine:
    """Runs a model on clusters of blocks that hold the whole step; see cuda_source/types.cuh."""

    def __init__(
        self, model: Model, count: int, config: SamplingConfig, allowed: Tensor, streams: int | None = None
    ) -> None:
        self.config, self.count, self.position = config, count, 0
        self._program = _program(model, planes=1 if torch.is_autocast_enabled(allowed.device.type) else 2)
        self._sizes = _sizes(self._program, model, streams or _streams(count))
        self._padded = -(-count // self._sizes.STREAMS) * self._sizes.STREAMS
        self._state = model.initial_state(self._padded)
        self._operations = self._program.bound(_tensors(self._state)).to(allowed.device)
        self._keys = torch.zeros(self._padded, dtype=torch.int64, device=allowed.device)
        self._logits = torch.zeros(self._padded, len(allowed), device=allowed.device)
        self._embedding = model.embedding.weight.detach().float().contiguous()
        self._operands = operands(self._embedding)
        self._allowed = allowed.to(torch.uint8)
        self._period = math.prod(getattr(model.config, "pools", [1]))
        self._epsilon = model.norm_f.eps

    def begin(self, situation: Situation, keys: Tensor) -> None:
        self.position = situation.position
        self._keys[: self.count] = keys
        self._logits[: self.count] = situation.logits
        for mine, theirs in zip(_tensors(self._state), _tensors(situation.state), strict=True):
            mine[: self.count] = theirs

    def advance(self, steps: int) -> tuple[Tensor, Tensor]:
        tokens = torch.empty(self._padded, steps, dtype=torch.int64, device=self._keys.device)
        log_probabilities = torch.empty(self._padded, steps, device=self._keys.device)
        arguments = Arguments(
            position=self.position,
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
        cuda.launch(self._sizes, arguments, self._padded // self._sizes.STREAMS, self._keys.device)
        self.position += steps
        return tokens[: self.count], log_probabilities[: self.count]

    def situation(self) -> Situation:
        state = tree_map_only(Tensor, lambda part: part[: self.count], self._state)
        return Situation(self._logits[: self.count], at_position(state, self.position), self.position)


def takes(model: Model, device: torch.device) -> bool:
    """Whether the kernel runs on the device, and takes the sizes of the model."""
    return torch.cuda.get_device_capability(device) >= (9, 0) and _ranks(model) > 0


def _ranks(model: Model) -> int:
    """How many blocks share a stream; 0 for a model whose sizes the kernel does not take."""
    mixers = [module for module in model.modules() if isinstance(module, Mamba)]
    widths = [mixer.in_proj.in_features for mixer in mixers]
    states = _state_floats(mixers[0])
    too_large = states > 64 or max(widths) > WIDEST or model.config.padded_vocab_size > SYMBOLS
    if too_large or states % 8 or any(width % 16 for width in widths):
        return 0
    narrowest = min(mixer.d_inner for mixer in mixers)
    fit = (ranks for ranks in (8, 4, 2, 1) if narrowest % (16 * ranks) == min(widths) % (2 * ranks) == 0)
    return next(fit, 0)


def _state_floats(mixer: Mamba) -> int:
    return mixer.A_log.shape[1] * (2 if mixer.complex else 1)


def _streams(count: int) -> int:
    """How many streams each cluster should have, so that the clusters run at once, if they can."""
    return next((streams for streams in STREAMS if streams * CLUSTERS >= count), STREAMS[-1])


def _sizes(program: Program, model: Model, streams: int) -> Sizes:
    """The macros of the kernel, with as many of these streams as shared memory has room for."""
    mixer = next(module for module in model.modules() if isinstance(module, Mamba))
    sizes = Sizes(
        CLUSTER=program.ranks,
        STREAMS=streams,
        THREADS=cuda.THREADS,
        STATE=_state_floats(mixer),
        CONV=mixer.conv1d.kernel_size[0],
        PLANES=program.planes,
        VOCABULARY=model.config.padded_vocab_size,
        RESIDUAL_ROWS=program.residual_rows,
        SKIP_ROWS=max(1, program.skip_rows),
        OPERATIONS=len(program.operations),
        **program.largest(),
    )
    while sizes.shared_memory() > SHARED_MEMORY and STREAMS[0] < sizes.STREAMS:
        sizes = sizes._replace(STREAMS=sizes.STREAMS - STREAMS[0])
    return sizes


@torch.no_grad()
def _program(model: Model, planes: int) -> Program:
    """The operations of a step, on the state of one sample for now."""
    state: Any = model.initial_state(1)
    program = Program(_ranks(model), planes, _tensors(state))
    place = {"period": 1, "depth": 0, "residual": program.add_stage(model.config.d_model)}
    if isinstance(model, MultiscaleModel):
        head = partial(program.add_head, model.norm_f.weight, model.head.weight, model.head.bias)
        _add_stage(program, model.stage, state, place, head)
    else:
        _add_blocks(program, model.layers, state, place)
        head_weight = (model.embedding if model.config.tie_embeddings else model.lm_head).weight
        program.add_head(model.norm_f.weight, head_weight, None)
    return program


def _add_stage(
    program: Program, stage: Stage, state: StageState, place: dict[str, int], behind: Callable[[], None]
) -> None:
    """A stage, what comes behind it, and only then what is slower: that is needed from the next step on."""
    pooled, inner = stage.pooled, stage.pooled.inner
    frames = state.pooled.inputs, state.pooled.outputs
    skips = program.add_skips(pooled.d_model, len(stage.down.layers))
    _add_blocks(program, stage.down.layers, state.down, place, save=skips, frames=frames)
    _add_blocks(program, stage.up.layers, state.up, place, add=skips[::-1])
    behind()
    slower = {
        "period": place["period"] * pooled.pool,
        "depth": place["depth"] + 1,
        "residual": program.add_stage(2 * pooled.d_model),
    }
    program.add_compress(pooled.down.weight, pooled.down.bias, frames[0], **slower)
    expand = partial(program.add_expand, pooled.up.weight, pooled.up.bias, frames[1], period=slower["period"])
    if isinstance(inner, Stage):
        _add_stage(program, inner, state.pooled.inner, slower, expand)
    else:
        assert isinstance(inner, Centre)
        blocks, read = inner.chain.layers, program.add_skips(2 * pooled.d_model, 1)
        others = [-1] * (len(blocks) - 1)
        _add_blocks(program, blocks, state.pooled.inner, slower, save=read + others, add=others + read)
        expand()


def _add_blocks(
    program: Program,
    blocks: Any,
    states: Sequence[MambaState],
    place: dict[str, int],
    save: Sequence[int] | None = None,
    add: Sequence[int] | None = None,
    frames: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Blocks in a row; frames are read and written behind the last."""
    absent = [-1] * len(blocks)
    for block, state, saved, added in zip(blocks, states, save or absent, add or absent, strict=True):
        last_frames = frames if block is blocks[-1] else None
        weights = _weights(block)
        program.add_block(weights, state.conv, state.ssm, save=saved, add=added, frames=last_frames, **place)


def _weights(block: Block) -> BlockWeights:
    mixer = block.mixer
    A = -torch.exp(mixer.A_log.float())
    return BlockWeights(
        norm=block.norm.weight,
        in_proj=mixer.in_proj.weight,
        conv_weight=mixer.conv1d.weight.squeeze(1),
        conv_bias=mixer.conv1d.bias,
        x_proj=mixer.x_proj.weight if mixer.selected else None,
        dt_weight=mixer.dt_proj.weight if "dt" in mixer.selected else None,
        dt_bias=mixer.dt_proj.bias if "dt" in mixer.selected else mixer.dt_bias,
        A=torch.complex(A, mixer.A_imag.float()) if mixer.complex else A,
        B=mixer.B,
        C=mixer.C,
        D=mixer.D,
        out_proj=mixer.out_proj.weight,
    )


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
