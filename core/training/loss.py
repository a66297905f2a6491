"""Cross entropy, summed over real targets: whoever adds up the parts of a batch divides by their number."""

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

IGNORED = -100


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Sum of -log p(target), in nats, over the targets that are not IGNORED; a scalar.

    logits: (..., vocabulary) of any float dtype; targets: (...) of any integer dtype. The result is fp32
    (fp64 for fp64 logits). Without a real target it is 0, and so are its gradients.
    """
    with torch.autocast(logits.device.type, enabled=False):  # it would copy the logits to fp32 beforehand
        precision = torch.promote_types(logits.dtype, torch.float32)
        log_probabilities = torch.log_softmax(logits.flatten(0, -2), dim=-1, dtype=precision)
        # summed here: on a GPU nll_loss's own sum runs in a single block
        losses = nll_loss(log_probabilities, targets.flatten().long(), ignore_index=IGNORED, reduction="none")
        return losses.sum()


def count_targets(targets: Tensor) -> Tensor:
    """The number of real targets, a scalar int64 on their device."""
    return (targets != IGNORED).sum()
