"""The multi-scale model of long signals: a U-Net of Mamba blocks over slower and slower clocks."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from core.layers.block import Block, RMSNorm
from core.layers.mamba import Mamba, MambaState
from core.layers.pooling import Pooled, PooledState
from core.layers.recompute import check_level, recomputed
from core.layers.s4d import S4DBlock
from core.models.sequence import embedded, padded

ChainState = tuple[MambaState | Tensor, ...]
"""A state a block: Mamba's, or the tensor of S4D's."""


@dataclass
class MixerConfig:
    """The kind of the mixers in one part of a MultiscaleModel."""

    block: Literal["mamba", "s4d_mlp"] = field(
        default="mamba",
        metadata={
            "help": "mamba; or s4d_mlp: SaShiMi's, S4D and then an MLP, to which the two keys beside mean "
            "nothing"
        },
    )
    complex: bool = field(
        default=False, metadata={"help": "d_state / 2 conjugate pairs in place of d_state real states"}
    )
    selective: Any = field(
        default=True,
        metadata={
            "help": "which of dt, B and C depend on the input: true: all (S6); false: none (S4D); or "
            "their names"
        },
    )


@dataclass
class MultiscaleModelConfig:
    """The shape of a MultiscaleModel. Raises ValueError for no pools, or a size below 1."""

    vocab_size: int = field(
        default=256,
        metadata={"help": "number of symbols; the embedding has as many rows, rounded up to a multiple of 8"},
    )
    d_model: int = field(
        default=64,
        metadata={"help": "channels between the blocks of the outer stage; each pool doubles them"},
    )
    n_layer: int = field(
        default=8,
        metadata={"help": "blocks on the way down and on the way up of each stage, and in the centre"},
    )
    pools: list[int] = field(
        default_factory=lambda: [4, 4],
        metadata={"help": "positions of each stage that are one position of the next, outer stage first"},
    )
    d_state: int = field(default=16, metadata={"help": "states of each channel of a mixer"})
    d_conv: int = field(default=4, metadata={"help": "width of a mixer's convolution"})
    expand: int = field(default=2, metadata={"help": "channels inside a mixer, as a multiple of its stage's"})
    outer: MixerConfig = field(default_factory=MixerConfig)
    middle: MixerConfig = field(default_factory=MixerConfig)
    centre: MixerConfig = field(default_factory=MixerConfig)
    recompute: str = field(
        default="none",
        metadata={
            "help": "what the backward pass computes again instead of keeping: none, cheap (the convolution "
            "and dt) or block (all of a block)"
        },
    )

    def __post_init__(self) -> None:
        for name in ("vocab_size", "d_model", "n_layer"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1.")
        if not self.pools or min(self.pools) < 1:
            raise ValueError(f"pools is {self.pools}; it must hold at least one number, each at least 1.")
        check_level(self.recompute)

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)

    def chain(self, kind: MixerConfig, d_model: int) -> "Chain":
        """A new chain of n_layer blocks."""
        return Chain([self._block(kind, d_model) for _ in range(self.n_layer)], self.recompute)

    def _block(self, kind: MixerConfig, d_model: int) -> Block | S4DBlock:
        if kind.block == "s4d_mlp":
            return S4DBlock(d_model, self.d_state)
        sizes = d_model, self.d_state, self.d_conv, self.expand
        return Block(d_model, Mamba(*sizes, complex=kind.complex, selective=kind.selective))

    def stage(self) -> "Stage":
        """The new outer stage, with the others and the centre inside it."""
        d_model = self.d_model * 2 ** len(self.pools)
        inner: Stage | Centre = Centre(self.chain(self.centre, d_model))
        for depth in reversed(range(len(self.pools))):
            d_model, kind = d_model // 2, self.middle if depth else self.outer
            pooled = Pooled(inner, d_model, self.pools[depth])
            inner = Stage(self.chain(kind, d_model), pooled, self.chain(kind, d_model))
        assert isinstance(inner, Stage)
        return inner


class StageState(NamedTuple):
    """What a stage remembers: a state a block on the way down and up, and the state of the pool."""

    down: ChainState
    pooled: PooledState
    up: ChainState


class MultiscaleModel(nn.Module):
    """A causal model of token sequences at several time scales: at every position, logits of the next token.

    The U-Net of SaShiMi (Goel et al. 2022) with Mamba blocks, as in Gu and Dao 2023, appendix E.4. A stage is
    n_layer blocks, a pool of the next stage, which has twice the channels, and n_layer blocks; in the middle
    are n_layer blocks, the centre. Config `outer` is the kind of mixer of the first stage, `middle` that of
    the other stages, `centre` that of the centre. Any length will do: what the last unfinished frames would
    give lies in the future.

    Initialised as SequenceModel, not as SaShiMi, whose embedding N(0, 1) drowns what the blocks add.

    A class label is one more symbol: enlarge vocab_size, and begin a sequence with its label's token.
    """

    def __init__(self, config: MultiscaleModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.stage = config.stage()
        self.norm_f = RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.padded_vocab_size)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def initial_state(self, batch_size: int) -> StageState:
        """The state before the first token: zeros, on the model's device, all clocks at phase 0."""
        return self.stage.initial_state(batch_size)

    def forward(
        self, tokens: Tensor, state: StageState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, StageState]:
        """Logits of the token after each one.

        tokens: (batch, length), any integer dtype, any length.
        cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to the length in multiples of `frame`, when
            tokens (1, length) pack sequences end to end. Each begins anew, without a state; what fills up its
            last frame is not looked at by the others.
        Returns logits (batch, length, padded vocabulary), or (logits, the state after the tokens) when a
        state is given, which may be at any phase of the clocks. Gradients flow through both states.
        Raises ValueError for tokens that are not integers of two axes, and for packed sequences that come
        with a state or, on a CPU, that begin within a frame.
        """
        if cu_seqlens is not None:
            self._check_packing(state, cu_seqlens)
        x = embedded(tokens, self.embedding, "batch, length")
        hidden, final_state = self.stage(x, state, cu_seqlens)
        logits = self.head(self.norm_f(hidden)[0])
        return logits if final_state is None else (logits, final_state)

    @property
    def frame(self) -> int:
        """Tokens in a turn of the slowest clock: packed sequences begin at multiples of it."""
        return math.prod(self.config.pools)

    @torch.no_grad()
    def step(self, token: Tensor, state: StageState) -> tuple[Tensor, StageState]:
        """One position of forward: token (batch,) -> (logits (batch, padded vocabulary), state).

        The tensors of the given state are overwritten, and returned. No gradients.
        """
        hidden, state = self.stage.step(embedded(token, self.embedding, "batch"), state)
        return self.head(self.norm_f(hidden)[0]), state

    def _check_packing(self, state: StageState | None, cu_seqlens: Tensor) -> None:
        if state is not None:
            raise ValueError("Packed sequences begin anew: give cu_seqlens or a state, not both.")
        if cu_seqlens.is_cpu and (cu_seqlens % self.frame).any():  # on a GPU looking would wait for it
            raise ValueError(
                f"cu_seqlens holds {cu_seqlens.tolist()}; each must be a multiple of {self.frame}, the "
                "product of the pools."
            )


class Stage(nn.Module):
    """Blocks, a pool of the next stage, and as many blocks again; each of these adds what its mirror read.

    Maps (batch, length, d_model) to the same shape in float32, causally.
    """

    def __init__(self, down: "Chain", pooled: Pooled, up: "Chain") -> None:
        super().__init__()
        self.down, self.pooled, self.up = down, pooled, up

    def initial_state(self, batch_size: int) -> StageState:
        """The state before the first position."""
        down, up = self.down.initial_state(batch_size), self.up.initial_state(batch_size)
        return StageState(down, self.pooled.initial_state(batch_size), up)

    def forward(
        self, x: Tensor, state: StageState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, StageState | None]:
        """x (batch, length, d_model) -> (y, the state after x, or None where none is given)."""
        down, pooled, up = state or (None, None, None)
        x, streams, down = self.down(x, down, cu_seqlens)
        y, pooled = self.pooled(x, pooled, cu_seqlens)
        y, _, up = self.up(y, up, cu_seqlens, residual=x, skips=streams[::-1])
        return y, None if state is None else StageState(down, pooled, up)

    def step(self, x: Tensor, state: StageState) -> tuple[Tensor, StageState]:
        """One position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        x, streams, down = self.down.step(x, state.down)
        y, pooled = self.pooled.step(x, state.pooled)
        y, _, up = self.up.step(y, state.up, residual=x, skips=streams[::-1])
        return y, StageState(down, pooled, up)


class Centre(nn.Module):
    """Blocks, and what the first of them read once more.

    Maps (batch, length, d_model) to the same shape in float32, causally.
    """

    def __init__(self, chain: "Chain") -> None:
        super().__init__()
        self.chain = chain

    def initial_state(self, batch_size: int) -> ChainState:
        """The state before the first position."""
        return self.chain.initial_state(batch_size)

    def forward(
        self, x: Tensor, state: ChainState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, ChainState | None]:
        """x (batch, length, d_model) -> (y, the state after x, or None where none is given)."""
        y, _, state = self.chain(x, state, cu_seqlens)
        return y + x, state

    def step(self, x: Tensor, state: ChainState) -> tuple[Tensor, ChainState]:
        """One position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        y, _, state = self.chain.step(x, state)
        return y + x, state


class Chain(nn.Module):
    """Blocks in a row, and the sum that they leave in the residual stream.

    Each out_proj is divided by the root of their number, because that many of them add up in the stream.
    """

    def __init__(self, blocks: Sequence[Block | S4DBlock], recompute: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.recompute = recompute
        for name, parameter in self.named_parameters():
            if name.endswith("out_proj.weight"):
                parameter.data /= math.sqrt(len(blocks))

    def initial_state(self, batch_size: int) -> ChainState:
        """The state before the first position, one a block."""
        return tuple(block.mixer.initial_state(batch_size) for block in self._blocks())

    def forward(
        self,
        x: Tensor,
        state: ChainState | None = None,
        cu_seqlens: Tensor | None = None,
        residual: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor], ChainState | None]:
        """x (batch, length, d_model) -> (y, what each block read, the state after x or None).

        residual: shaped as x, what the stream begins with besides x.
        skips: one tensor shaped as x for each block, added to the stream behind it.
        y and what the blocks read are in float32; a state is returned where one is given.
        """

        def run(block: Any, hidden: Tensor, residual: Tensor | None, state: Any) -> Any:
            return recomputed(self.recompute, block, hidden, residual, state, cu_seqlens)

        return self._run(run, x, state, residual, skips)

    def step(
        self,
        x: Tensor,
        state: ChainState,
        residual: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor], ChainState]:
        """One position of forward: x (batch, d_model). The given state is overwritten."""
        y, streams, final_state = self._run(_step, x, state, residual, skips)
        assert final_state is not None
        return y, streams, final_state

    def _run(
        self,
        run: Callable[..., Any],
        hidden: Tensor,
        state: ChainState | None,
        residual: Tensor | None,
        skips: Sequence[Tensor] | None,
    ) -> tuple[Tensor, list[Tensor], ChainState | None]:
        absent = [None] * len(self.layers)
        streams: list[Tensor] = []
        final_state: list[Any] = []
        for block, block_state, skip in zip(self.layers, state or absent, skips or absent, strict=True):
            hidden, residual, *block_final_state = run(block, hidden, residual, block_state)
            streams.append(residual)
            final_state += block_final_state
            if skip is not None:
                residual = residual + skip
        assert residual is not None
        return hidden + residual, streams, None if state is None else tuple(final_state)

    def _blocks(self) -> list[Block | S4DBlock]:
        return list(self.layers)  # type: ignore[arg-type]


def _step(block: Block | S4DBlock, *inputs: Any) -> tuple[Tensor, Tensor, Any]:
    return block.step(*inputs)
