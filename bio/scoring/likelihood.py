"""Likelihood of bases under a model: the loss of each base, and sums of losses.

Only A, C, G and T count. The other symbols are left out of the softmax, and N is never a target, so a uniform
guess costs 2 bits.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bio.genome.vocabulary import BASES, A
from bio.windows.dataset import NOT_A_TARGET
from core.models.sequence import SequenceModel, SequenceState


@dataclass(frozen=True)
class Score:
    """nats: sum of -ln p of bases, given the bases before them. bases: their number."""

    nats: float
    bases: int

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bases + other.bases)

    @property
    def loss(self) -> float:
        """Nats per base; nan without bases."""
        return self.nats / self.bases if self.bases else math.nan

    @property
    def bits_per_base(self) -> float:
        """Bits per base; nan without bases."""
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """Effective number of equally likely bases: 4 for a uniform guess."""
        # infinite for a diverged model, where math.exp raises
        return torch.tensor(self.loss, dtype=torch.float64).exp().item()


def base_losses(
    model: SequenceModel,
    inputs: Tensor,
    targets: Tensor,
    state: SequenceState,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, SequenceState]:
    """Return -ln p of each target given its input and all inputs before it, and the final state.

    inputs uint8 and targets int8, both (rows, length), are those of bio.windows.dataset; state and cu_seqlens
    are those of SequenceModel.forward. The losses (rows, length) are fp32, and 0 where there is no target.
    The head runs in fp32 under autocast too.
    """
    hidden, state = model.hidden(inputs, state, cu_seqlens)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = model.head(hidden.float())[..., BASES]
        log_probabilities = torch.log_softmax(logits, dim=-1)
    is_target = targets != NOT_A_TARGET
    index = torch.where(is_target, targets - A, 0).long()
    losses = -log_probabilities.gather(-1, index[..., None])[..., 0]
    return torch.where(is_target, losses, 0.0), state


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to a device, without waiting for pending work of the device."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
