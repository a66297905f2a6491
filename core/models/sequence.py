"""The sequence model: embedding, blocks, norm, head."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.layers.block import Block, RMSNorm
from core.layers.embedding import look_up
from core.layers.mamba import Mamba, MambaState
from core.layers.recompute import check_level
from core.layers.residual import RecomputedBlocks

SequenceState = tuple[MambaState, ...]


@dataclass
class SequenceModelConfig:
    """The shape of a SequenceModel. Raises ValueError for a size below 1."""

    vocab_size: int = field(
        metadata={"help": "number of symbols; the embedding has as many rows, rounded up to a multiple of 8"}
    )
    d_model: int = field(default=256, metadata={"help": "channels between the blocks"})
    n_layer: int = field(default=8, metadata={"help": "number of blocks"})
    d_state: int = field(default=16, metadata={"help": "states of each channel of a mixer"})
    d_conv: int = field(default=4, metadata={"help": "width of a mixer's convolution"})
    expand: int = field(default=2, metadata={"help": "channels inside a mixer, as a multiple of d_model"})
    dt_rank: int | None = field(
        default=None, metadata={"help": "rank of the projection to dt; null: ceil(d_model / 16)"}
    )
    complex: bool = field(
        default=False, metadata={"help": "d_state / 2 conjugate pairs in place of d_state real states"}
    )
    selective: Any = field(
        default=True,
        metadata={"help": "which of dt, B and C depend on the input: true: all; false: none; or their names"},
    )
    tie_embeddings: bool = field(default=True, metadata={"help": "the head uses the embedding's weight"})
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
        check_level(self.recompute)

    @property
    def padded_vocab_size(self) -> int:
        return padded(self.vocab_size)

    def mixer(self) -> Mamba:
        """A new mixer of this shape."""
        return Mamba(
            self.d_model,
            self.d_state,
            self.d_conv,
            self.expand,
            self.dt_rank,
            self.complex,
            self.selective,
        )


def padded(vocab_size: int) -> int:
    """The rows of an embedding of so many symbols: the next multiple of 8, which matrix units want."""
    return math.ceil(vocab_size / 8) * 8


def embedded(tokens: Tensor, embedding: nn.Embedding, axes: str) -> Tensor:
    """tokens of any integer dtype and the axes so named -> (*axes, d_model); ValueError for any others."""
    if tokens.dim() != len(axes.split(", ")):
        raise ValueError(f"tokens have the shape {tuple(tokens.shape)}; it must be ({axes}).")
    if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
        raise ValueError(f"tokens are {tokens.dtype}; they must be integers.")
    return look_up(tokens.int(), embedding.weight)


class SequenceModel(nn.Module):
    """A causal model of token sequences: at every position, logits of the next token.

    Initialised as the published models: embedding N(0, 0.02), and each out_proj divided by sqrt(n_layer),
    because that many of them add up in the residual stream.
    """

    def __init__(self, config: SequenceModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        blocks = [Block(config.d_model, config.mixer()) for _ in range(config.n_layer)]
        self.layers = nn.ModuleList(blocks)
        self.norm_f = RMSNorm(config.d_model)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in blocks:
            block.mixer.out_proj.weight.data /= math.sqrt(config.n_layer)

    def initial_state(self, batch_size: int) -> SequenceState:
        """The state before the first token: zeros, one MambaState a block."""
        return tuple(block.mixer.initial_state(batch_size) for block in self._blocks())

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, SequenceState]:
        """Logits of the token after each one.

        tokens: (batch, length), any integer dtype.
        cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to the length, when tokens (1, length) pack
            sequences end to end, each with its own row of state.
        Returns logits (batch, length, padded vocabulary), or (logits, the state after the tokens) when a
        state is given. Gradients flow through both states.
        Raises ValueError for tokens that are not integers of two axes, or a state of another depth.
        """
        hidden, final_state = self._run(tokens, state, cu_seqlens)
        return self.head(hidden) if state is None else (self.head(hidden), final_state)

    def hidden(
        self, tokens: Tensor, state: SequenceState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, SequenceState]:
        """As forward, but what the head would read, (batch, length, d_model): embeddings of each position."""
        hidden, final_state = self._run(tokens, state, cu_seqlens)
        return hidden if state is None else (hidden, final_state)

    def head(self, hidden: Tensor) -> Tensor:
        """hidden (..., d_model) -> logits (..., padded vocabulary)."""
        return linear(hidden, self.embedding.weight if self.config.tie_embeddings else self.lm_head.weight)

    @torch.no_grad()
    def step(self, token: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState]:
        """One position of forward: token (batch,) -> (logits (batch, padded vocabulary), state).

        The given state is overwritten, and returned. No gradients.
        """
        hidden, residual = embedded(token, self.embedding, "batch"), None
        new_state = []
        for block, block_state in zip(self._blocks(), state, strict=True):
            hidden, residual, block_state = block.step(hidden, residual, block_state)
            new_state.append(block_state)
        return self.head(self.norm_f(hidden, residual)[0]), tuple(new_state)

    def _run(
        self, tokens: Tensor, state: SequenceState | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, SequenceState]:
        """The hidden sequence and the state after it, which is empty when none is given."""
        if state is not None and len(state) != len(self.layers):
            raise ValueError(f"The state is of {len(state)} blocks; the model has {len(self.layers)}.")
        hidden, residual = embedded(tokens, self.embedding, "batch, length"), None
        final_state: list[MambaState] = []
        run = RecomputedBlocks(self.config.recompute)
        for block, block_state in zip(self.layers, state or [None] * len(self.layers), strict=True):
            hidden, residual, *block_final_state = run(block, hidden, residual, block_state, cu_seqlens)
            final_state += block_final_state
        return self.norm_f(hidden, residual)[0], tuple(final_state)

    def _blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]
