"""The benchmark's net with other mixers plugged in is the same net; without a GPU it says so."""

from typing import Any

import pytest
import torch
from torch import nn

from core.layers.mamba import Mamba
from core.models.multiscale import MultiscaleModel, MultiscaleModelConfig
from pipelines.benchmarks import multiscale as benchmark_multiscale
from pipelines.benchmarks.multiscale import (
    CASES,
    TOLERANCE,
    OfficialMixer,
    disagreement,
    with_official_mixers,
)


def mamba_on(d_model: int, d_state: int, d_conv: int, expand: int, device: torch.device) -> nn.Module:
    """Ours, made as the official one is."""
    return Mamba(d_model, d_state, d_conv, expand).to(device)


def test_another_implementation_of_the_mixers_is_plugged_in_everywhere() -> None:
    config = MultiscaleModelConfig(d_model=8, n_layer=2, pools=[2, 2], vocab_size=16)
    torch.manual_seed(0)
    ours = MultiscaleModel(config)
    torch.manual_seed(0)
    theirs = with_official_mixers(MultiscaleModel(config), mamba_on)
    assert sum(isinstance(module, OfficialMixer) for module in theirs.modules()) == 10
    tokens = torch.randint(16, (2, 30))
    assert torch.equal(ours(tokens), theirs(tokens))


def test_equal_mixers_agree_and_others_do_not() -> None:
    def other(*arguments: Any, **keywords: Any) -> nn.Module:
        mixer = mamba_on(*arguments, **keywords)
        mixer.register_forward_hook(lambda module, inputs, y: 1.01 * y)
        return mixer

    cpu = torch.device("cpu")
    assert disagreement(mamba_on, cpu) == 0
    assert disagreement(other, cpu) > TOLERANCE


def test_cases_have_the_sizes_of_the_paper() -> None:
    sizes = {}
    for case in CASES:
        with torch.device("meta"):
            model = MultiscaleModel(case.config)
        sizes[case.model] = sum(parameter.numel() for parameter in model.parameters())
    assert sizes.pop("sc09_small, S6") == pytest.approx(6.1e6, rel=0.03)
    assert sizes.pop("sc09_small, S4D around S6") == pytest.approx(6.1e6, rel=0.03)
    assert all(size == pytest.approx(3.5e6, rel=0.03) for size in sizes.values())


def test_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("sys.argv", ["benchmark_multiscale"])
    with pytest.raises(SystemExit, match="no GPU"):
        benchmark_multiscale.main()
