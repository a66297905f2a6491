"""The choice of the engine, and its import on a machine without GPU libraries."""

import subprocess
import sys

import pytest
import torch

from core.decoding.cpu import CpuEngine
from core.decoding.eager import EagerEngine
from core.decoding.engines import fastest_engine
from core.decoding.sampling import SamplingConfig
from core.decoding.state import Model
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.models.wavenet import WaveNet, WaveNetConfig

WITHOUT_GPU_LIBRARIES = """
import sys
sys.modules["triton"] = sys.modules["cuda"] = sys.modules["cuda.bindings"] = None
import core.decoding.decoder
"""


def test_the_decoder_imports_without_triton_and_cuda_bindings() -> None:
    subprocess.run([sys.executable, "-c", WITHOUT_GPU_LIBRARIES], check=True)


@pytest.mark.parametrize(
    ("model", "engine"),
    [
        (SequenceModel(SequenceModelConfig(8, 8, 1)), CpuEngine),
        (SequenceModel(SequenceModelConfig(8, 8, 1)).double(), EagerEngine),
        (MultiscaleModel(MultiscaleModelConfig(8, 8, 1)), CpuEngine),
        (MultiscaleModel(MultiscaleModelConfig(8, 8, 1, centre=MixerConfig("s4d_mlp"))), EagerEngine),
        (WaveNet(WaveNetConfig(8, 8, 8, 1, 2)), EagerEngine),
    ],
    ids=["sequence", "sequence in fp64", "multiscale", "multiscale with S4D", "wavenet"],
)
def test_the_engine_on_a_cpu_depends_on_blocks_and_dtype(model: Model, engine: type) -> None:
    allowed = torch.ones(8, dtype=torch.bool)
    assert type(fastest_engine(model, 1, SamplingConfig(), allowed)) is engine
