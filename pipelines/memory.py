"""How much GPU memory training a SequenceModel will take, before it is tried."""

from core.model import SequenceModelConfig

KEPT = {"none": 12, "cheap": 8, "block": 0}
"""Bytes that a mixer keeps for the backward pass, a position and inner channel, in bf16 (core.recompute)."""
IN_BACKWARD = 14
"""Bytes of the gradients that one mixer holds at once, a position and inner channel."""
OF_A_PARAMETER = 16
"""Bytes: itself, its gradient and AdamW's two moments, in fp32."""


def training_gib(model: SequenceModelConfig, parameters: int, tokens: int) -> float:
    """An estimate for `tokens` that one GPU runs at once under bf16 autocast, in GiB.

    What is kept is counted: the residual stream of each block (4 bytes a channel), the input of its mixer or
    the block's own (2), and what KEPT says. The backward pass needs, besides, what one block takes.
    """
    d_inner, kept = model.expand * model.d_model, KEPT[model.recompute]
    of_a_block = kept * d_inner + 6 * model.d_model
    working = (KEPT["none"] - kept + IN_BACKWARD) * d_inner + 12 * (model.d_model + model.padded_vocab_size)
    return (tokens * (model.n_layer * of_a_block + working) + OF_A_PARAMETER * parameters) / 2**30
