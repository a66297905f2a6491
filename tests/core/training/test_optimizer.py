"""Weight decay reaches matrices and nothing else."""

import pytest
import torch
from torch import nn

from core.training import TrainingConfig
from core.training.optimizer import adamw


class Mixer(nn.Module):
    """One parameter of every kind that the paper's models have."""

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
        self.B._no_weight_decay = True  # type: ignore[attr-defined]
        self.frozen = nn.Parameter(torch.ones(3, 3), requires_grad=False)


def test_the_groups() -> None:
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


def test_without_a_gradient_only_the_decayed_shrink() -> None:
    model = Mixer()
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    adamw(model, TrainingConfig(weight_decay=0.5, learning_rate=0.1)).step()
    for name, parameter in model.named_parameters():
        factor = 0.95 if name in ("embedding.weight", "in_proj.weight", "conv1d.weight") else 1.0
        torch.testing.assert_close(parameter, before[name] * factor)


@pytest.mark.parametrize(("epsilon", "moved"), [(1e-8, 1e-3), (1e-14, 1.0)])
def test_a_tiny_gradient_moves_as_epsilon_lets_it(epsilon: float, moved: float) -> None:
    model = Mixer()
    before = model.D.detach().clone()
    model.D.grad = torch.full_like(model.D, 1e-11)
    adamw(model, TrainingConfig(epsilon=epsilon, learning_rate=0.1)).step()
    torch.testing.assert_close(before - model.D, torch.full_like(before, moved * 0.1), rtol=2e-3, atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_is_fused_on_a_gpu() -> None:
    assert adamw(Mixer().cuda(), TrainingConfig()).defaults["fused"]
