"""The memory estimate matches the tensors that autograd saves, at every recompute level."""

import pytest
import torch

from core.layers.recompute import LEVELS
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training.memory import SAVED, training_gib

TOKENS = 4096


def kept_bytes(config: SequenceModelConfig) -> int:
    """Return the bytes saved for the backward pass of a bf16 model, without its parameters."""
    model = SequenceModel(config)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
    ):
        logits = model(torch.full((1, TOKENS), 7))
    assert logits.requires_grad
    return sum(kept.values())


@pytest.mark.parametrize("level", ["none", "block"])
def test_cost_per_block_equals_saved_tensors(level: str) -> None:
    shallow, deep = (SequenceModelConfig(12, 64, n_layer, recompute=level) for n_layer in (2, 6))
    estimated = (training_gib(deep, 0, TOKENS) - training_gib(shallow, 0, TOKENS)) * 2**30
    measured = kept_bytes(deep) - kept_bytes(shallow)
    assert estimated == pytest.approx(measured, rel=0.1)


def test_estimate_grows_with_size_and_shrinks_with_recomputation() -> None:
    models = [SequenceModelConfig(12, 128, 12, recompute=level) for level in LEVELS]
    assert set(SAVED) == set(LEVELS)
    sizes = [training_gib(model, 1_400_000, 2**20) for model in models]
    assert sizes == sorted(sizes, reverse=True)
    assert training_gib(models[0], 0, 2**21) == 2 * training_gib(models[0], 0, 2**20)
    assert training_gib(models[0], 2**26, 0) == 1.0
