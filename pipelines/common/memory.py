"""How much GPU memory training a SequenceModel will take, before it is tried."""

from core.layers.recompute import STORE_EVERY
from core.models.sequence import SequenceModelConfig

KEPT = {"none": 12, "cheap": 8, "block": 0}
"""Bytes that a mixer keeps for the backward pass, a position and inner channel, in bf16
(core.layers.recompute)."""
IN_BACKWARD = 14
"""Bytes of the gradients that one mixer holds at once, a position and inner channel."""
OF_A_PARAMETER = 16
"""Bytes: itself, its gradient and AdamW's two moments, in fp32."""


def training_gib(model: SequenceModelConfig, parameters: int, tokens: int) -> float:
    """An estimate for `tokens` that one GPU runs at once under bf16 autocast, in GiB.

    What is kept is counted: of each block the input of its mixer or its own (2 bytes a channel), and what
    KEPT says; the residual stream (4) of each at none, else of one in STORE_EVERY. The backward pass needs,
    besides, what one block takes.
    """
    d_inner, kept = model.expand * model.d_model, KEPT[model.recompute]
    streams = model.n_layer if model.recompute == "none" else (model.n_layer - 1) // STORE_EVERY
    of_blocks = model.n_layer * (kept * d_inner + 2 * model.d_model) + 4 * streams * model.d_model
    working = (KEPT["none"] - kept + IN_BACKWARD) * d_inner + 12 * (model.d_model + model.padded_vocab_size)
    return (tokens * (of_blocks + working) + OF_A_PARAMETER * parameters) / 2**30
