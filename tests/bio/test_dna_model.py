"""Sizes have the number of parameters in their names."""

import pytest
import torch

from bio.dna_model import SIZES, size_config
from core.models.sequence import SequenceModel

UNITS = {"k": 1e3, "m": 1e6}


@pytest.mark.parametrize("size", SIZES)
def test_size_is_the_number_of_parameters(size: str) -> None:
    with torch.device("meta"):
        model = SequenceModel(size_config(size))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters == pytest.approx(float(size[:-1]) * UNITS[size[-1]], rel=0.06)


def test_unknown_size_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"'2m'; it must be one of 250k, 700k, 1\.4m"):
        size_config("2m")
