"""Estimate of the GPU memory that training a SequenceModel needs."""

from core.layers.recompute import STORE_EVERY
from core.models.sequence import SequenceModelConfig

SAVED = {"none": 12, "cheap": 8, "block": 0}
"""Bytes per position and inner channel that a mixer saves for the backward pass, by recompute level."""
GRADIENT_BYTES = 14
"""Bytes per position and inner channel of the gradients of one mixer."""
PARAMETER_BYTES = 16
"""Bytes per parameter: value, gradient and the two moments of AdamW, in fp32."""


def training_gib(model: SequenceModelConfig, parameters: int, tokens: int) -> float:
    """Estimate the memory (GiB) for `tokens` per pass on one GPU under bf16 autocast.

    Each block saves its input or the input of its mixer (2 bytes per channel) and SAVED; the residual stream
    (4 bytes) is saved for every block without recomputation, else for one in STORE_EVERY. The backward pass
    also needs the working memory of one block.
    """
    d_inner, saved = model.expand * model.d_model, SAVED[model.recompute]
    streams = model.n_layer if model.recompute == "none" else (model.n_layer - 1) // STORE_EVERY
    blocks = model.n_layer * (saved * d_inner + 2 * model.d_model) + 4 * streams * model.d_model
    working = (SAVED["none"] - saved + GRADIENT_BYTES) * d_inner
    working += 12 * (model.d_model + model.padded_vocab_size)
    return (tokens * (blocks + working) + PARAMETER_BYTES * parameters) / 2**30
