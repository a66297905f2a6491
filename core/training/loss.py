"""Cross entropy as a sum over targets; callers that split a batch divide by the number of targets."""

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

IGNORED = -100


def cross_entropy_sum(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the sum of -log p(target), in nats, over the targets that are not IGNORED; a scalar.

    logits: (..., vocabulary) of any float dtype; targets: (...) of any integer dtype. The result is fp32
    (fp64 for fp64 logits). Without targets the sum and its gradients are 0.
    """
    with torch.autocast(logits.device.type, enabled=False):  # it would first copy the logits to fp32
        precision = torch.promote_types(logits.dtype, torch.float32)
        log_probabilities = torch.log_softmax(logits.flatten(0, -2), dim=-1, dtype=precision)
        # a separate sum: the one of nll_loss runs in a single block of the GPU
        losses = nll_loss(log_probabilities, targets.flatten().long(), ignore_index=IGNORED, reduction="none")
        return losses.sum()


def count_targets(targets: Tensor) -> Tensor:
    """Return the number of targets that are not IGNORED, a scalar int64 on their device."""
    return (targets != IGNORED).sum()
