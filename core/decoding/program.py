"""A model's step as a list of operations in the order in which a decoding kernel runs them."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.decoding.engines import Model
from core.layers.block import Block
from core.layers.mamba import Mamba
from core.models.multiscale import Centre, Chain, MultiscaleModel, Stage, StageState
from core.models.sequence import SequenceModel
from kernels.decoding.cpu_operations import CpuProgram
from kernels.decoding.operations import BlockWeights, Program

Covered = SequenceModel | MultiscaleModel


def mixers_of(model: Model) -> list[Mamba]:
    """The mixers of a model, or none where it has anything but blocks of Mamba between its ends."""
    if isinstance(model, SequenceModel):
        blocks: list[Any] = list(model.layers)
    elif isinstance(model, MultiscaleModel):
        blocks = [block for chain in model.modules() if isinstance(chain, Chain) for block in chain.layers]
    else:
        return []
    return [block.mixer for block in blocks] if all(isinstance(block, Block) for block in blocks) else []


def frames_of(model: Model) -> list[tuple[int, int]]:
    """The frames between a model's clocks: how many positions of how many channels."""
    if not isinstance(model, MultiscaleModel):
        return []
    stages = [stage.pooled for stage in model.modules() if isinstance(stage, Stage)]
    return [(pooled.pool, pooled.d_model) for pooled in stages]


@torch.no_grad()
def add_model(program: Program | CpuProgram, model: Covered, state: Any) -> None:
    """Add the operations of a step that advances `state`."""
    place = {"period": 1, "depth": 0, "residual": program.add_stage(model.config.d_model)}
    if isinstance(model, MultiscaleModel):
        head = partial(program.add_head, model.norm_f.weight, model.head.weight, model.head.bias)
        _add_stage(program, model.stage, state, place, head)
    else:
        _add_blocks(program, model.layers, state, place)
        head_weight = (model.embedding if model.config.tie_embeddings else model.lm_head).weight
        program.add_head(model.norm_f.weight, head_weight, None)


def _add_stage(
    program: Program | CpuProgram,
    stage: Stage,
    state: StageState,
    place: dict[str, int],
    behind: Callable[[], None],
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
    clock = {"period": slower["period"], "depth": place["depth"]}
    expand = partial(program.add_expand, pooled.up.weight, pooled.up.bias, frames[1], **clock)
    if isinstance(inner, Stage):
        _add_stage(program, inner, state.pooled.inner, slower, expand)
    else:
        assert isinstance(inner, Centre)
        blocks, read = inner.chain.layers, program.add_skips(2 * pooled.d_model, 1)
        others = [-1] * (len(blocks) - 1)
        _add_blocks(program, blocks, state.pooled.inner, slower, save=read + others, add=others + read)
        expand()


def _add_blocks(
    program: Program | CpuProgram,
    blocks: Any,
    states: Sequence[Any],
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
