"""The steps that GraphEngine captures, run without graphs: the tokens of EagerEngine, for every model."""

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from core.decoding.eager import EagerEngine
from core.decoding.graph import GraphEngine
from core.decoding.sampling import SamplingConfig, sample_keys
from core.decoding.state import DecodeState, Model
from core.models.multiscale import MultiscaleModel, MultiscaleModelConfig
from core.models.samplernn import SampleRnn, SampleRnnConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNet, WaveNetConfig

VOCABULARY = 8


def random_models() -> list[Model]:
    torch.manual_seed(0)
    models: list[Model] = [
        SequenceModel(SequenceModelConfig(VOCABULARY, d_model=8, n_layer=2)),
        MultiscaleModel(MultiscaleModelConfig(VOCABULARY, d_model=8, n_layer=1, pools=[2, 4])),
        WaveNet(WaveNetConfig(VOCABULARY, d_model=8, d_skip=8, n_stack=1, n_layer=3)),
        SampleRnn(SampleRnnConfig(VOCABULARY, d_model=8, width=3, pools=[4, 2])),
    ]
    for model in models:
        for parameter in model.parameters():
            parameter.data *= 2
    return models


every_model = pytest.mark.parametrize("model", random_models(), ids=lambda model: type(model).__name__)


@every_model
@pytest.mark.parametrize("start", [0, 3])
@torch.no_grad()
def test_whole_periods_and_single_steps_equal_eager_steps(model: Model, start: int) -> None:
    allowed = torch.ones(VOCABULARY, dtype=torch.bool)
    eager = EagerEngine(model, SamplingConfig(), allowed)
    graph = GraphEngine(model, 2, SamplingConfig(), allowed)
    keys = sample_keys(0, 0, 2)
    eager.load(DecodeState(torch.zeros(2, VOCABULARY), model.initial_state(2), 0), keys)
    if start:
        eager.advance(start)
    graph.load(tree_map_only(Tensor, torch.clone, eager.state()), keys)

    tokens, period = [], graph.period
    for length in [*[1] * (-start % period), period, period, 1, 1]:
        graph._run(graph.position % period, length)
        graph.position += length
        tokens.append(graph._tokens[:, :length].clone())
    expected, _ = eager.advance(sum(part.shape[1] for part in tokens))
    assert torch.equal(torch.cat(tokens, dim=1), expected)
    for ours, expected_part in zip(_tensors(graph.state()), _tensors(eager.state()), strict=True):
        torch.testing.assert_close(ours, expected_part)


def _tensors(state: DecodeState) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, Tensor)]
