"""The models that are named after their parameters have as many."""

import pytest
import torch

from core.models.sequence import SequenceModel
from pipelines.common.dna_sizes import SIZES, sized_model

UNITS = {"k": 1e3, "m": 1e6}


@pytest.mark.parametrize("size", SIZES)
def test_size_is_the_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = SequenceModel(sized_model(size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(float(size[:-1]) * UNITS[size[-1]], rel=0.06)


def test_another_name_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'2m': it must be one of 250k, 700k, 1\.4m"):
        sized_model("2m")
