"""Every option has a help text; values out of range raise an error with its name."""

import dataclasses
from typing import Any

import pytest

from core.training import TrainingConfig


def test_every_option_has_a_help_text() -> None:
    assert all(field.metadata["help"] for field in dataclasses.fields(TrainingConfig))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0),
        ("batch_size", 0),
        ("micro_tokens", 0),
        ("backpropagation_length", 0),
        ("learning_rate", 0.0),
        ("minimum_learning_rate", 1.0),
        ("warmup", 1.1),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("epsilon", 0.0),
        ("clip", 0.0),
        ("precision", "fp16"),
        ("ema", 1.0),
        ("keep", 0),
        ("max_skipped", 0),
        ("learning_rate", float("nan")),
    ],
)
def test_out_of_range_value_names_its_option(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"option {name} is .*; it must be"):
        TrainingConfig(**{name: value})
