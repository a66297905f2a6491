"""The sequence model: embedding, blocks, norm, head."""

import math
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from core.layers.block import Block, RMSNorm
from core.layers.embedding import TokenEmbedding, embed, pad_vocabulary
from core.layers.mamba import Mamba, MambaState
from core.layers.recompute import RECOMPUTE_HELP, BlockRunner, check_level
from core.models.sizes import check_sizes

SequenceState = tuple[MambaState, ...]


@dataclass(frozen=True)
class SequenceModelConfig:
    """The shape of a SequenceModel. Raises ValueError for a size below 1."""

    vocab_size: int = field(
        metadata={"help": "number of symbols; padded to a multiple of 8 in the embedding"}
    )
    d_model: int = field(default=256, metadata={"help": "channels between the blocks"})
    n_layer: int = field(default=8, metadata={"help": "number of blocks"})
    d_state: int = field(default=16, metadata={"help": "states of each channel of a mixer"})
    d_conv: int = field(default=4, metadata={"help": "width of a mixer's convolution (positions)"})
    expand: int = field(default=2, metadata={"help": "channels inside a mixer, as a multiple of d_model"})
    dt_rank: int | None = field(
        default=None, metadata={"help": "rank of the projection to dt; null: ceil(d_model / 16)"}
    )
    complex: bool = field(
        default=False, metadata={"help": "d_state / 2 conjugate pairs instead of d_state real states"}
    )
    selective: Any = field(
        default=True,
        metadata={"help": "which of dt, B and C depend on the input: true (all), false (none) or names"},
    )
    tie_embeddings: bool = field(
        default=True, metadata={"help": "share one weight between embedding and head"}
    )
    recompute: str = field(default="none", metadata={"help": RECOMPUTE_HELP})

    def __post_init__(self) -> None:
        check_sizes(self, "vocab_size", "d_model", "n_layer")
        check_level(self.recompute)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding, and logits per position."""
        return pad_vocabulary(self.vocab_size)

    def mixer(self) -> Mamba:
        """Return a new mixer of this shape."""
        return Mamba(
            self.d_model,
            self.d_state,
            self.d_conv,
            self.expand,
            self.dt_rank,
            self.complex,
            self.selective,
        )


class SequenceModel(nn.Module):
    """A causal model of token sequences: embedding, Mamba blocks, norm, head.

    Initialised like the published models: embedding N(0, 0.02), and each out_proj divided by sqrt(n_layer),
    because n_layer of them add up in the residual stream.
    """

    def __init__(self, config: SequenceModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = TokenEmbedding(config.padded_vocab_size, config.d_model)
        blocks = [Block(config.d_model, config.mixer()) for _ in range(config.n_layer)]
        self.layers = nn.ModuleList(blocks)
        self.norm_f = RMSNorm(config.d_model)
        if not config.tie_embeddings:
            self.lm_head = nn.Linear(config.d_model, config.padded_vocab_size, bias=False)
        nn.init.normal_(self.embedding.weight, std=0.02)
        for block in blocks:
            block.mixer.out_proj.weight.data /= math.sqrt(config.n_layer)

    def initial_state(self, batch_size: int) -> SequenceState:
        """Return the state before the first token: zeros, one MambaState per block."""
        return tuple(block.mixer.initial_state(batch_size) for block in self._blocks())

    @overload
    def forward(self, tokens: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, state: SequenceState, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, SequenceState]: ...

    def forward(
        self, tokens: Tensor, state: SequenceState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, SequenceState]:
        """Return the logits of the next token at each position.

        tokens: (batch, length), any integer dtype.
        cu_seqlens: (sequences + 1,) int32 or int64, rising from 0 to the length, if tokens (1, length) pack
            sequences end to end, each with its own row of state.
        Returns logits (batch, length, padded vocabulary), or (logits, final state) if a state is given.
        Gradients flow through both states.
        Raises ValueError for tokens that are not integers of two axes, or a state of another depth.
        """
        hidden, final_state = self._run(tokens, state, cu_seqlens)
        return self.head(hidden) if state is None else (self.head(hidden), final_state)

    @overload
    def hidden(self, tokens: Tensor, state: None = None, cu_seqlens: Tensor | None = None) -> Tensor: ...

    @overload
    def hidden(
        self, tokens: Tensor, state: SequenceState, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, SequenceState]: ...

    def hidden(
        self, tokens: Tensor, state: SequenceState | None = None, cu_seqlens: Tensor | None = None
    ) -> Tensor | tuple[Tensor, SequenceState]:
        """Return the inputs of the head (batch, length, d_model); arguments and final state as in forward."""
        hidden, final_state = self._run(tokens, state, cu_seqlens)
        return hidden if state is None else (hidden, final_state)

    def head(self, hidden: Tensor) -> Tensor:
        """Return logits (..., padded vocabulary) of hidden (..., d_model)."""
        return linear(hidden, self.embedding.weight) if self.config.tie_embeddings else self.lm_head(hidden)

    @torch.no_grad()
    def step(self, token: Tensor, state: SequenceState) -> tuple[Tensor, SequenceState]:
        """Run one position of forward: token (batch,) -> (logits (batch, padded vocabulary), state).

        The given state is overwritten and returned. No gradients.
        """
        hidden, residual = embed(self.embedding, token, "batch"), None
        new_state = []
        for block, block_state in zip(self._blocks(), state, strict=True):
            hidden, residual, block_state = block.step(hidden, residual, block_state)
            new_state.append(block_state)
        return self.head(self.norm_f(hidden, residual)[0]), tuple(new_state)

    def _run(
        self, tokens: Tensor, state: SequenceState | None, cu_seqlens: Tensor | None
    ) -> tuple[Tensor, SequenceState]:
        """Return the hidden sequence and the final state, which is empty if no state is given."""
        if state is not None and len(state) != len(self.layers):
            raise ValueError(f"The state has {len(state)} blocks; the model has {len(self.layers)}.")
        hidden, residual = embed(self.embedding, tokens, "batch, length"), None
        final_state: list[MambaState] = []
        run = BlockRunner(self.config.recompute)
        for block, block_state in zip(self.layers, state or [None] * len(self.layers), strict=True):
            hidden, residual, *block_final_state = run(block, hidden, residual, block_state, cu_seqlens)
            final_state += block_final_state
        return self.norm_f(hidden, residual)[0], tuple(final_state)

    def _blocks(self) -> list[Block]:
        return list(self.layers)  # type: ignore[arg-type]
