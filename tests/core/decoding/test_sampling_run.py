"""Sampling runs: segment lengths that adapt to the machine, and saved states."""

from pathlib import Path

import pytest
import torch

from core.decoding import sampling_run
from core.decoding.sampling_run import next_segment
from core.decoding.sampling_state import SavedState, load_state, require_same, save_state


def test_segment_lengths_converge_to_the_target_time() -> None:
    for seconds_per_token in (1e-6, 1e-4, 1e-3, 1e-2):
        segment = sampling_run.FIRST_SEGMENT
        for _ in range(10):
            segment = next_segment(segment, segment * seconds_per_token)
        assert sampling_run.SHORTEST_SEGMENT <= segment <= sampling_run.LONGEST_SEGMENT
        assert (
            sampling_run.SHORT <= segment * seconds_per_token <= sampling_run.LONG
            or segment == sampling_run.LONGEST_SEGMENT
        )
    assert next_segment(sampling_run.SHORTEST_SEGMENT, 60.0) == sampling_run.SHORTEST_SEGMENT


def test_saved_state_round_trip(tmp_path: Path) -> None:
    path, settings = tmp_path / "x.state.safetensors", {"seed": 1, "sampling": {"top_k": None}}
    assert load_state(path, settings) is None
    numbers = torch.tensor([-1.5, 0.0], dtype=torch.float64)
    state = SavedState(3, 20, 4, numbers, {"position": torch.tensor(21), "state.0": torch.randn(2, 5).T})
    save_state(path, settings, state)
    read = load_state(path, settings)
    assert read is not None
    assert read[:3] == state[:3]
    assert torch.equal(read.log_likelihood, numbers)
    assert read.decoder.keys() == state.decoder.keys()
    assert all(torch.equal(read.decoder[name], state.decoder[name]) for name in state.decoder)


def test_differing_settings_are_listed(tmp_path: Path) -> None:
    require_same({"seed": 1, "labels": ("a",)}, {"seed": 1, "labels": ["a"]}, tmp_path)
    message = r"seed is 1 there and 2 here; prompt is absent there and x here; old is 3 there and absent here"
    with pytest.raises(ValueError, match=message):
        require_same({"seed": 2, "prompt": "x"}, {"seed": 1, "old": 3}, tmp_path)
