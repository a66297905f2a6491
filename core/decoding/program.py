"""A model's step as a list of operations, in the order in which a decoding kernel runs them.

`add_model` walks a model of Mamba blocks and calls a program once per operation. A program packs weights and
addresses for one kernel: core/decoding/cuda_program.py and core/decoding/cpu_program.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeGuard

import torch
from torch import Tensor

from core.decoding.state import Model
from core.layers.block import Block, RMSNorm
from core.layers.mamba import Mamba
from core.layers.plain import all_plain
from core.models.multiscale import Centre, Chain, MultiscaleModel, Stage, StageState
from core.models.sequence import SequenceModel

MambaModel = SequenceModel | MultiscaleModel
"""The models that a program can hold, if all their blocks are Mamba blocks."""


@dataclass(frozen=True)
class BlockWeights:
    """Parameters of a Mamba block, float32, with the names and shapes of core/layers/mamba.py.

    x_proj: (dt_rank + B + C, d_inner) without the rows of constants; None if dt, B and C are constant.
    dt_weight: (d_inner, dt_rank), None if dt is constant.
    A: (d_inner, N), float32 or complex64.
    B, C: (d_inner, N[, 2]), None if they depend on the input.
    """

    norm: Tensor
    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor | None
    dt_weight: Tensor | None
    dt_bias: Tensor
    A: Tensor
    B: Tensor | None
    C: Tensor | None
    D: Tensor
    out_proj: Tensor


class StagePlace(NamedTuple):
    """Place of a stage in a program.

    period: steps per position of the stage. depth: 0 for the fastest stage, one more for each slower one.
    residual: the stage's residual stream, from Program.add_stage.
    """

    period: int
    depth: int
    residual: int


class Program(Protocol):
    """Operations of one step, packed for a kernel. Weights and state tensors are referred to by address."""

    def add_stage(self, width: int) -> int:
        """Reserve the residual stream of a stage of `width` channels, and return its place."""

    def add_skips(self, width: int, count: int) -> list[int]:
        """Reserve `count` skip connections of `width` channels, and return their places."""

    def add_block(
        self,
        weights: BlockWeights,
        conv: Tensor,
        ssm: Tensor,
        place: StagePlace,
        *,
        save: int = -1,
        add: int = -1,
        frames: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Add a block whose state is conv and ssm.

        save: skip connection that stores the block's input. add: skip connection added to its output. -1 is
            neither.
        frames: for the last block before a slower stage, the frames that the stage reads and writes, (batch,
            pool, width) each.
        """

    def add_head(self, norm: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        """Add the last norm and the head: weight (vocabulary, width)."""

    def add_compress(self, weight: Tensor, bias: Tensor, frames: Tensor, place: StagePlace) -> None:
        """Add the projection of a frame to one position of the stage at `place`.

        weight: (2 * width, pool * width). frames: (batch, pool, width).
        """

    def add_expand(self, weight: Tensor, bias: Tensor, frames: Tensor, *, period: int, depth: int) -> None:
        """Add the projection of one position of the next stage to a frame of the stage at `depth`.

        weight: (pool * width, 2 * width). frames: (batch, pool, width). period: of the next stage.
        """


def mamba_mixers(model: Model) -> list[Mamba]:
    """Return the mixers of a model, or an empty list if any of its blocks is not a Mamba block."""
    if isinstance(model, SequenceModel):
        blocks: list[Any] = list(model.layers)
    elif isinstance(model, MultiscaleModel):
        blocks = [block for chain in model.modules() if isinstance(chain, Chain) for block in chain.layers]
    else:
        return []
    return [block.mixer for block in blocks] if all(isinstance(block, Block) for block in blocks) else []


def can_pack(model: Model) -> TypeGuard[MambaModel]:
    """Return whether a program reproduces the model: plain modules in float32, Mamba blocks alone.

    A program holds copies of the weights that the constructors create, so any other bias or epsilon counts.
    """
    mixers = mamba_mixers(model)
    if not mixers or not all_plain(model):
        return False
    has_usual_biases = all(
        mixer.in_proj.bias is None
        and mixer.out_proj.bias is None
        and mixer.conv1d.bias is not None
        and ("dt" not in mixer.selected or mixer.dt_proj.bias is not None)
        and (not mixer.selected or mixer.x_proj.bias is None)
        for mixer in mixers
    )
    epsilons = {module.eps for module in model.modules() if isinstance(module, RMSNorm)}
    is_float32 = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return has_usual_biases and len(epsilons) == 1 and is_float32


def frame_sizes(model: Model) -> list[tuple[int, int]]:
    """Return (positions, channels) of the frames between the stages of a model."""
    if not isinstance(model, MultiscaleModel):
        return []
    stages = [stage.pooled for stage in model.modules() if isinstance(stage, Stage)]
    return [(pooled.pool, pooled.d_model) for pooled in stages]


@torch.no_grad()
def add_model(program: Program, model: MambaModel, state: Any) -> None:
    """Add the operations of a step that advances `state` in place."""
    place = StagePlace(period=1, depth=0, residual=program.add_stage(model.config.d_model))
    if isinstance(model, MultiscaleModel):
        head = partial(program.add_head, model.norm_f.weight, model.head.weight, model.head.bias)
        _add_stage(program, model.stage, state, place, head)
    else:
        _add_blocks(program, model.layers, state, place)
        head_weight = (model.embedding if model.config.tie_embeddings else model.lm_head).weight
        program.add_head(model.norm_f.weight, head_weight, None)


def _add_stage(
    program: Program, stage: Stage, state: StageState, place: StagePlace, add_output: Callable[[], None]
) -> None:
    """Add a stage, then its output, then the slower stages, whose results only later steps read."""
    pooled, inner = stage.pooled, stage.pooled.inner
    frames = state.pooled.inputs, state.pooled.outputs
    skips = program.add_skips(pooled.d_model, len(stage.down.layers))
    _add_blocks(program, stage.down.layers, state.down, place, save=skips, frames=frames)
    _add_blocks(program, stage.up.layers, state.up, place, add=skips[::-1])
    add_output()
    residual = program.add_stage(2 * pooled.d_model)
    slower = StagePlace(place.period * pooled.pool, place.depth + 1, residual)
    program.add_compress(pooled.down.weight, pooled.down.bias, frames[0], slower)
    clock = {"period": slower.period, "depth": place.depth}
    add_expand = partial(program.add_expand, pooled.up.weight, pooled.up.bias, frames[1], **clock)
    if isinstance(inner, Stage):
        _add_stage(program, inner, state.pooled.inner, slower, add_expand)
    else:
        assert isinstance(inner, Centre)
        blocks, skip = inner.chain.layers, program.add_skips(2 * pooled.d_model, 1)
        absent = [-1] * (len(blocks) - 1)
        _add_blocks(program, blocks, state.pooled.inner, slower, save=skip + absent, add=absent + skip)
        add_expand()


def _add_blocks(
    program: Program,
    blocks: Any,
    states: Sequence[Any],
    place: StagePlace,
    save: Sequence[int] | None = None,
    add: Sequence[int] | None = None,
    frames: tuple[Tensor, Tensor] | None = None,
) -> None:
    """Add a chain of blocks; the last one reads and writes the frames."""
    absent = [-1] * len(blocks)
    for block, state, saved, added in zip(blocks, states, save or absent, add or absent, strict=True):
        last_frames = frames if block is blocks[-1] else None
        weights = _block_weights(block)
        program.add_block(weights, state.conv, state.ssm, place, save=saved, add=added, frames=last_frames)


def _block_weights(block: Block) -> BlockWeights:
    mixer = block.mixer
    assert mixer.conv1d.bias is not None
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
