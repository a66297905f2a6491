"""Outputs that are not finite are one error at every use of a model."""

import pytest
import torch

from bio.species.classifier import embed_windows, predict_probabilities
from core.decoding.decoder import Decoder
from core.decoding.sampling import SamplingConfig
from core.models.classifier import HeadConfig, SequenceClassifier
from core.models.finite import require_finite
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training.distributed import World

S4D = MixerConfig("s4d_mlp")


def test_the_first_bad_value_is_named() -> None:
    values = torch.zeros(3, 4, 2)
    require_finite(values, "logits")
    values[1, 2, 0] = torch.nan
    values[2, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=r"logits that are not finite at row 1, position 102\."):
        require_finite(values, "logits", first=100)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("centre", [MixerConfig(), S4D], ids=["compiled step", "eager"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoding_stops_before_a_token(bad: float, centre: MixerConfig, temperature: float) -> None:
    model = MultiscaleModel(MultiscaleModelConfig(8, 8, 1, pools=[2], outer=centre, centre=centre))
    model.norm_f.weight.data[0] = bad
    decoder = Decoder(model, 2, SamplingConfig(temperature), allowed=torch.arange(2, 6))
    with pytest.raises(ValueError, match=r"logits that are not finite at row 0, position \d"):
        decoder.advance(5)


def test_prediction_and_embedding_stop() -> None:
    backbone = SequenceModel(SequenceModelConfig(12, 8, 1))
    model = SequenceClassifier(backbone, 3, HeadConfig()).eval()
    windows = [torch.randint(12, (9,), dtype=torch.uint8) for _ in range(3)]
    backbone.norm_f.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="hidden vectors that are not finite at row 0"):
        embed_windows(backbone, windows, "mean", World(0, 1, torch.device("cpu")))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="logits that are not finite at row 0"):
        predict_probabilities(model, windows, 3, World(0, 1, torch.device("cpu")))  # type: ignore[arg-type]
