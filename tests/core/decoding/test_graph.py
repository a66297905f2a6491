"""What is captured into CUDA graphs, run without them: the plain engine's tokens, for every model."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from core.decoding.eager import EagerEngine
from core.decoding.graph import GraphEngine
from core.decoding.sampling import SamplingConfig, sample_keys
from core.decoding.state import DecodeState, Model
from core.models.multiscale import MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNet, WaveNetConfig

VOCABULARY = 8


def models() -> list[Model]:
    torch.manual_seed(0)
    made: list[Model] = [
        SequenceModel(SequenceModelConfig(VOCABULARY, d_model=8, n_layer=2)),
        MultiscaleModel(MultiscaleModelConfig(VOCABULARY, d_model=8, n_layer=1, pools=[2, 4])),
        WaveNet(WaveNetConfig(VOCABULARY, d_model=8, d_skip=8, n_stack=1, n_layer=3)),
        SampleRnn(SampleRnnConfig(VOCABULARY, d_model=8, width=3, pools=[4, 2])),
    ]
    for model in made:
        for parameter in model.parameters():
            parameter.data *= 2
    return made


every_model = pytest.mark.parametrize("model", models(), ids=lambda model: type(model).__name__)


@every_model
@pytest.mark.parametrize("read", [0, 3])
@torch.no_grad()
def test_turns_and_single_steps_are_the_plain_steps(model: Model, read: int) -> None:
    allowed = torch.ones(VOCABULARY, dtype=torch.bool)
    plain = EagerEngine(model, SamplingConfig(), allowed)
    turning = GraphEngine(model, 2, SamplingConfig(), allowed)
    keys = sample_keys(0, 0, 2)
    plain.load(DecodeState(torch.zeros(2, VOCABULARY), model.initial_state(2), 0), keys)
    if read:
        plain.advance(read)
    turning.load(tree_map_only(Tensor, torch.clone, plain.state()), keys)

    drawn, period = [], turning.period
    for length in [*[1] * (-read % period), period, period, 1, 1]:
        turning._run(turning.position % period, length)
        turning.position += length
        drawn.append(turning._tokens[:, :length].clone())
    expected, _ = plain.advance(sum(tokens.shape[1] for tokens in drawn))
    assert torch.equal(torch.cat(drawn, dim=1), expected)
    for mine, theirs in zip(_tensors(turning.state()), _tensors(plain.state()), strict=True):
        torch.testing.assert_close(mine, theirs)


def _tensors(situation: DecodeState) -> list[Tensor]:
    found: list[Tensor] = []
    tree_map_only(Tensor, found.append, situation)
    return found
