"""How well a model predicts bases: what each costs, and sums of that.

Only A, C, G and T count. The other symbols are left out of the softmax, and N is never a target, so that a
uniform guess costs 2 bits.
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
    """nats: the sum of -ln p of bases, given those before them. bases: how many those are."""

    nats: float
    bases: int

    def __add__(self, other: "Score") -> "Score":
        return Score(self.nats + other.nats, self.bases + other.bases)

    @property
    def loss(self) -> float:
        """Nats a base; nan where there is no base."""
        return self.nats / self.bases if self.bases else math.nan

    @property
    def bits_per_base(self) -> float:
        return self.loss / math.log(2)

    @property
    def perplexity(self) -> float:
        """Among how many equally likely bases the model wavers: 4 for a uniform guess."""
        # a diverged model's is infinite, where math.exp would raise
        return torch.tensor(self.loss, dtype=torch.float64).exp().item()


def base_losses(
    model: SequenceModel,
    inputs: Tensor,
    targets: Tensor,
    state: SequenceState,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, SequenceState]:
    """-ln p of each target given the inputs up to its own, and the state after the inputs.

    inputs uint8 and targets int8, both (rows, length), as bio.windows.dataset makes them; state
    and cu_seqlens are
    those of SequenceModel.forward. The losses (rows, length) are fp32, and 0 where the target is none. The
    head is applied in fp32 under autocast too.
    """
    hidden, state = model.hidden(inputs, state, cu_seqlens)
    with torch.autocast(hidden.device.type, enabled=False):
        logits = model.head(hidden.float())[..., BASES]
        log_probabilities = torch.log_softmax(logits, dim=-1)
    is_target = targets != NOT_A_TARGET
    chosen = torch.where(is_target, targets - A, 0).long()
    losses = -log_probabilities.gather(-1, chosen[..., None])[..., 0]
    return torch.where(is_target, losses, 0.0), state


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what the device still computes."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor
