"""AdamW decays matrices only; the learning rate rises, falls and is continuous."""

import copy
import pickle
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize

from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.training import TrainingConfig
from core.training.optimizer import adamw, has_weight_decay, learning_rate

fractions = st.floats(0.0, 1.0)


class Mixer(nn.Module):
    """Module with one parameter of every kind in the paper's models."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(4, 3)
        self.in_proj = nn.Linear(3, 3)
        self.conv1d = nn.Conv1d(3, 3, 4, groups=3)
        self.norm = nn.LayerNorm(3)
        self.A_log = nn.Parameter(torch.ones(3, 2))
        self.A_imag = nn.Parameter(torch.ones(3, 2))
        self.D = nn.Parameter(torch.ones(3))
        self.B = nn.Parameter(torch.ones(3, 2))
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_parameter_groups() -> None:
    model = Mixer()
    optimizer = adamw(model, TrainingConfig(weight_decay=0.1, betas=(0.8, 0.9)))
    names = {parameter: name for name, parameter in model.named_parameters()}
    by_decay = {
        group["weight_decay"]: {names[parameter] for parameter in group["params"]}
        for group in optimizer.param_groups
    }
    assert by_decay[0.1] == {"embedding.weight", "in_proj.weight", "conv1d.weight"}
    others = {"in_proj.bias", "conv1d.bias", "norm.weight", "norm.bias", "A_log", "A_imag", "D", "B"}
    assert by_decay[0.0] == others
    assert all(group["betas"] == (0.8, 0.9) for group in optimizer.param_groups)


def groups_of(model: nn.Module) -> set[str]:
    """Return the names of the parameters without weight decay."""
    return {name for name, parameter in model.named_parameters() if not has_weight_decay(name, parameter)}


@pytest.mark.parametrize("block", ["mamba", "s4d_mlp"])
def test_copies_and_assigned_tensors_decay_alike(block: Any) -> None:
    mixers = MixerConfig(block, complex=True, selective=False)
    config = MultiscaleModelConfig(8, 8, 1, pools=[2], outer=mixers, centre=mixers)
    model = MultiscaleModel(config)
    expected = groups_of(model)
    constants = {"A_log", "A_imag", "B", "C", "D", "dt_bias"}
    assert {name.rpartition(".")[2] for name in expected} == constants | {"weight", "bias"}
    assert all("norm" in name for name in expected if name.endswith(".weight"))
    with torch.device("meta"):
        on_meta = MultiscaleModel(config)
    assert groups_of(on_meta) == expected
    on_meta.load_state_dict(model.state_dict(), assign=True)
    for other in (on_meta, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert groups_of(other) == expected


def test_parametrized_constants_do_not_decay() -> None:
    model = Mixer()
    parametrize.register_parametrization(model, "A_log", nn.Identity())
    parametrize.register_parametrization(model.in_proj, "weight", nn.Identity())
    assert "parametrizations.A_log.original" in groups_of(model)
    assert "in_proj.parametrizations.weight.original" not in groups_of(model)


def test_weight_decay_shrinks_matrices_only() -> None:
    model = Mixer()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw(model, TrainingConfig(weight_decay=0.5, learning_rate=0.1)).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in ("embedding.weight", "in_proj.weight", "conv1d.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize(("epsilon", "moved"), [(1e-8, 1e-3), (1e-14, 1.0)])
def test_epsilon_sets_the_effect_of_tiny_gradients(epsilon: float, moved: float) -> None:
    model = Mixer()
    before = model.D.detach().clone()
    model.D.grad = torch.full_like(model.D, 1e-11)
    adamw(model, TrainingConfig(epsilon=epsilon, learning_rate=0.1)).step()
    torch.testing.assert_close(before - model.D, torch.full_like(before, moved * 0.1), rtol=2e-3, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_optimizer_is_fused_on_a_gpu() -> None:
    assert adamw(Mixer().cuda(), TrainingConfig()).defaults["fused"]


def test_the_schedule_of_the_paper() -> None:
    config = TrainingConfig(learning_rate=8e-3, minimum_learning_rate=1e-5, warmup=0.1)
    assert learning_rate(0.0, config) == 0.0
    assert learning_rate(0.05, config) == pytest.approx(4e-3)
    assert learning_rate(0.1, config) == pytest.approx(8e-3)
    assert learning_rate(0.55, config) == pytest.approx((8e-3 + 1e-5) / 2)
    assert learning_rate(1.0, config) == pytest.approx(1e-5)


@given(warmup=fractions, first=fractions, second=fractions)
def test_learning_rate_rises_and_falls_within_bounds(warmup: float, first: float, second: float) -> None:
    config = TrainingConfig(learning_rate=1.0, minimum_learning_rate=0.25, warmup=warmup)
    early, late = sorted((first, second))
    rates = learning_rate(early, config), learning_rate(late, config)
    assert all(0.0 <= rate <= 1.0 for rate in rates)
    if late < warmup:
        assert rates[0] <= rates[1]
    if early >= warmup:
        assert rates[0] >= rates[1] >= 0.25 - 1e-12


@pytest.mark.parametrize("warmup", [0.0, 0.5, 1.0])
def test_learning_rate_peaks_at_the_end_of_warm_up(warmup: float) -> None:
    config = TrainingConfig(learning_rate=1.0, minimum_learning_rate=0.0, warmup=warmup)
    assert learning_rate(warmup, config) == pytest.approx(1.0)
