"""The multi-scale model of long signals: a U-Net of Mamba blocks, each stage on a slower clock."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor, nn

from core.layers.block import Block, RMSNorm
from core.layers.embedding import TokenEmbedding, embed, pad_vocabulary
from core.layers.mamba import Mamba, MambaState
from core.layers.pooling import Pooled, PooledState
from core.layers.recompute import RECOMPUTE_HELP, BlockRunner, check_level
from core.layers.s4d import S4DBlock
from core.models.sizes import check_pools, check_sizes

ChainState = tuple[MambaState | Tensor, ...]
"""One state per block: a MambaState, or the tensor of an S4D."""


@dataclass(frozen=True)
class MixerConfig:
    """Mixers of one part of a MultiscaleModel."""

    block: Literal["mamba", "s4d_mlp"] = field(
        default="mamba",
        metadata={
            "help": "mamba, or s4d_mlp: the block of SaShiMi, S4D and an MLP, which ignores `complex` and "
            "`selective`"
        },
    )
    complex: bool = field(
        default=False, metadata={"help": "d_state / 2 conjugate pairs instead of d_state real states"}
    )
    selective: Any = field(
        default=True,
        metadata={
            "help": "which of dt, B and C depend on the input: true (all, S6), false (none, S4D) or names"
        },
    )


@dataclass(frozen=True)
class MultiscaleModelConfig:
    """The shape of a MultiscaleModel. Raises ValueError for no pools, or a size below 1."""

    vocab_size: int = field(
        default=256,
        metadata={"help": "number of symbols; padded to a multiple of 8 in the embedding"},
    )
    d_model: int = field(
        default=64,
        metadata={"help": "channels between the blocks of the outer stage, doubled by each pool"},
    )
    n_layer: int = field(
        default=8,
        metadata={"help": "number of blocks in each chain: down and up of each stage, and the centre"},
    )
    pools: list[int] = field(
        default_factory=lambda: [4, 4],
        metadata={"help": "positions of each stage per position of the next, outer stage first"},
    )
    d_state: int = field(default=16, metadata={"help": "states of each channel of a mixer"})
    d_conv: int = field(default=4, metadata={"help": "width of a mixer's convolution (positions)"})
    expand: int = field(
        default=2, metadata={"help": "channels inside a mixer, as a multiple of those of its stage"}
    )
    outer: MixerConfig = field(default_factory=MixerConfig)
    middle: MixerConfig = field(default_factory=MixerConfig)
    centre: MixerConfig = field(default_factory=MixerConfig)
    recompute: str = field(default="none", metadata={"help": RECOMPUTE_HELP})

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "d_model", "n_layer")
        check_pools(self.pools)
        check_level(self.recompute)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, and logits per position."""
        return pad_vocabulary(self.vocab_size)

    def chain(self, kind: MixerConfig, d_model: int) -> "Chain":
        """Return a new chain of n_layer blocks."""
        return Chain([self._block(kind, d_model) for _ in range(self.n_layer)], self.recompute)

    def _block(self, kind: MixerConfig, d_model: int) -> Block | S4DBlock:
        if kind.block == "s4d_mlp":
            return S4DBlock(d_model, self.d_state)
        sizes = d_model, self.d_state, self.d_conv, self.expand
        return Block(d_model, Mamba(*sizes, complex=kind.complex, selective=kind.selective))

    def stage(self, depth: int = 0) -> "Stage":
        """Return a new stage, the outer one by default, with the slower stages and the centre inside it."""
        d_model, kind = self.d_model * 2**depth, self.middle if depth else self.outer
        if depth + 1 < len(self.pools):
            inner: Stage | Centre = self.stage(depth + 1)
        else:
            inner = Centre(self.chain(self.centre, 2 * d_model))
        pooled = Pooled(inner, d_model, self.pools[depth])
        return Stage(self.chain(kind, d_model), pooled, self.chain(kind, d_model))


class StageState(NamedTuple):
    """State of a stage: one per block of the chains down and up, and that of the pool."""

    down: ChainState
    pooled: PooledState
    up: ChainState


class MultiscaleModel(nn.Module):
    """A causal model of token sequences at several time scales.

    The U-Net of SaShiMi (Goel et al. 2022) with Mamba blocks, as in Gu and Dao 2023, appendix E.4. A stage is
    n_layer blocks, a pool around the next stage, which has twice the channels, and n_layer blocks. The
    innermost part is the centre: n_layer blocks. Config `outer` sets the mixers of the first stage, `middle`
    those of the other stages, `centre` those of the centre. A sequence may have any length: an unfinished
    last frame affects only later positions.

    Initialised like SequenceModel, not like SaShiMi: SaShiMi's embedding N(0, 1) hides the outputs of the
    blocks.

    A class label is one more symbol: add one to vocab_size, and start each sequence with the token of its
    label.
    """

    def __init__(self, config: MultiscaleModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        self.stage = config.stage()
        self.norm_f = RMSNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.padded_vocab_size)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def initial_state(self, batch_size: int) -> StageState:
        """Return the state before the first token: zeros, on the model's device, all clocks at phase 0."""
        return self.stage.initial_state(batch_size)

    @overload
    def forward(self, tokens: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, state: StageState, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, StageState]: ...

    def forward(
        self, tokens: Tensor, state: StageState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, StageState]:
        """Return the logits of the next token at each position.

        tokens: (batch, length), any integer dtype, any length.
        state: may be at any phase of the clocks.
        cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to the length in multiples of `frame`, if
            tokens (1, length) pack sequences end to end. Each sequence starts from the initial state; the
            padding of its last frame affects no other sequence.
        Returns logits (batch, length, padded vocabulary), or (logits, final state) if a state is given.
        Gradients flow through both states.
        Raises ValueError for tokens that are not integers of two axes, for packed sequences with a state,
        and, on a CPU, for packed sequences that begin within a frame.
        """
        if cu_seqlens is not None:
            self._check_packing(state, cu_seqlens)
        x = embed(self.embedding, tokens, "batch, length")
        hidden, final_state = self.stage(x, state, cu_seqlens)
        logits = self.head(self.norm_f(hidden)[0])
        return logits if final_state is None else (logits, final_state)

    @property
    def frame(self) -> int:
        """Tokens in one turn of the slowest clock; packed sequences begin at multiples of it."""
        return math.prod(self.config.pools)

    @torch.no_grad()
    def step(self, token: Tensor, state: StageState) -> tuple[Tensor, StageState]:
        """Run one position of forward: token (batch,) -> (logits (batch, padded vocabulary), state).

        The tensors of the given state are overwritten and returned. No gradients.
        """
        hidden, state = self.stage.step(embed(self.embedding, token, "batch"), state)
        return self.head(self.norm_f(hidden)[0]), state

    def _check_packing(self, state: StageState | None, cu_seqlens: Tensor) -> None:
        if state is not None:
            raise ValueError("Packed sequences start without a state. Give cu_seqlens or a state, not both.")
        if cu_seqlens.is_cpu and (cu_seqlens % self.frame).any():  # on a GPU the check would synchronise
            raise ValueError(
                f"cu_seqlens holds {cu_seqlens.tolist()}; each must be a multiple of {self.frame}, the "
                "product of the pools."
            )


class Stage(nn.Module):
    """Blocks down, a pool around the next stage, and as many blocks up, with skip connections between them.

    It maps (batch, length, d_model) to the same shape in float32, causally.
    """

    def __init__(self, down: "Chain", pooled: Pooled, up: "Chain") -> None:
        super().__init__()
        self.down, self.pooled, self.up = down, pooled, up

    def initial_state(self, batch_size: int) -> StageState:
        """Return the state before the first position."""
        down, up = self.down.initial_state(batch_size), self.up.initial_state(batch_size)
        return StageState(down, self.pooled.initial_state(batch_size), up)

    def forward(
        self, x: Tensor, state: StageState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, StageState | None]:
        """Return (y, final state) of x (batch, length, d_model); the state is None if no state is given."""
        down, pooled, up = state or (None, None, None)
        x, streams, down = self.down(x, down, cu_seqlens)
        y, pooled = self.pooled(x, pooled, cu_seqlens)
        y, _, up = self.up(y, up, cu_seqlens, residual=x, skips=streams[::-1])
        return y, None if state is None else StageState(down, pooled, up)

    def step(self, x: Tensor, state: StageState) -> tuple[Tensor, StageState]:
        """Run one position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        x, streams, down = self.down.step(x, state.down)
        y, pooled = self.pooled.step(x, state.pooled)
        y, _, up = self.up.step(y, state.up, residual=x, skips=streams[::-1])
        return y, StageState(down, pooled, up)


class Centre(nn.Module):
    """Blocks with one skip connection from their input to their output.

    They map (batch, length, d_model) to the same shape in float32, causally.
    """

    def __init__(self, chain: "Chain") -> None:
        super().__init__()
        self.chain = chain

    def initial_state(self, batch_size: int) -> ChainState:
        """Return the state before the first position."""
        return self.chain.initial_state(batch_size)

    def forward(
        self, x: Tensor, state: ChainState | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, ChainState | None]:
        """Return (y, final state) of x (batch, length, d_model); the state is None if no state is given."""
        y, _, state = self.chain(x, state, cu_seqlens)
        return y + x, state

    def step(self, x: Tensor, state: ChainState) -> tuple[Tensor, ChainState]:
        """Run one position of forward: x (batch, d_model) -> (y, state). The given state is overwritten."""
        y, _, state = self.chain.step(x, state)
        return y + x, state


class Chain(nn.Module):
    """A sequence of blocks; its output is the sum in the residual stream.

    Each out_proj is divided by the root of the number of blocks, because their outputs add up in the stream.
    """

    def __init__(self, blocks: Sequence[Block | S4DBlock], recompute: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(blocks)
        self.recompute = recompute
        for name, parameter in self.named_parameters():
            if name.endswith("out_proj.weight"):
                parameter.data /= math.sqrt(len(blocks))

    def initial_state(self, batch_size: int) -> ChainState:
        """Return the state before the first position, one per block."""
        return tuple(block.mixer.initial_state(batch_size) for block in self._blocks())

    def forward(
        self,
        x: Tensor,
        state: ChainState | None = None,
        cu_seqlens: Tensor | None = None,
        residual: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor], ChainState | None]:
        """Return (y, input of each block, final state); the final state is None if no state is given.

        x: (batch, length, d_model).
        residual: shaped like x, added to x at the start of the residual stream.
        skips: one tensor shaped like x per block, added to the stream after the block.
        y and the inputs of the blocks are float32.
        """
        runner = BlockRunner(self.recompute, store_every=1)

        def run(block: Any, hidden: Tensor, residual: Tensor | None, state: Any) -> Any:
            return runner(block, hidden, residual, state, cu_seqlens)

        y, streams, final_state = self._run(run, x, state, residual, skips)
        return y, streams, None if state is None else final_state

    def step(
        self,
        x: Tensor,
        state: ChainState,
        residual: Tensor | None = None,
        skips: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, list[Tensor], ChainState]:
        """Run one position of forward: x (batch, d_model). The given state is overwritten."""
        return self._run(_step, x, state, residual, skips)

    def _run(
        self,
        run: Callable[..., Any],
        hidden: Tensor,
        state: ChainState | None,
        residual: Any,
        skips: Sequence[Tensor] | None,
    ) -> tuple[Tensor, list[Tensor], ChainState]:
        """Call run(block, hidden, residual, state) per block; the final state is empty without a state."""
        absent = [None] * len(self.layers)
        streams: list[Tensor] = []
        final_state: list[Any] = []
        for block, block_state, skip in zip(self.layers, state or absent, skips or absent, strict=True):
            hidden, residual, *block_final_state = run(block, hidden, residual, block_state)
            streams.append(residual)
            final_state += block_final_state
            if skip is not None:
                residual = residual + skip
        return hidden + residual, streams, tuple(final_state)

    def _blocks(self) -> list[Block | S4DBlock]:
        return list(self.layers)  # type: ignore[arg-type]


def _step(block: Block | S4DBlock, *inputs: Any) -> tuple[Tensor, Tensor, Any]:
    return block.step(*inputs)
