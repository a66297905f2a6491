"""Setting comparison: every differing leaf is named by its dotted key."""

from core.settings import setting_differences


def test_differing_leaves_are_named_with_both_values() -> None:
    stored = {"train": {"steps": 10, "betas": [0.9, 0.95]}, "seed": 0}
    given = {"train": {"steps": 20, "betas": (0.9, 0.95)}, "seed": 1}
    assert setting_differences(stored, stored) == []
    assert setting_differences(stored, given) == [
        "train.steps is 10 there and 20 here",
        "seed is 0 there and 1 here",
    ]
    assert setting_differences(stored, given, ignored=("seed", "train.steps")) == []
    assert setting_differences({"a": 1}, {"a": 2}, prefix="model") == ["model.a is 1 there and 2 here"]


def test_a_missing_key_equals_null_and_nothing_else() -> None:
    assert setting_differences({}, {"clip": None}) == []
    assert setting_differences({"clip": None}, {}) == []
    assert setting_differences({}, {"clip": 1.0}) == ["clip is absent there and 1.0 here"]
    assert setting_differences({"clip": 1.0}, {}) == ["clip is 1.0 there and absent here"]
