"""The choice of the engine, and its import on a machine without GPU libraries."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.decoding import persistent
from core.decoding.cpu import CpuEngine
from core.decoding.decoder import Decoder
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


def hook(module: nn.Module) -> None:
    """Change the first output of a module by a hook, each element in the same way."""

    def change(_: nn.Module, inputs: object, output: Any) -> Any:
        first, *rest = output if isinstance(output, tuple) else (output,)
        changed = 1.5 * first + 0.5
        return (changed, *rest) if rest else changed

    module.register_forward_hook(change)


def logits_of(model: Model, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the last logits of forward, and those of a decoder that samples the same tokens."""
    decoder = Decoder(model, 1, SamplingConfig(temperature=0))
    decoder.prefill(tokens[0, :3])
    sampled, _ = decoder.advance(5)
    with torch.no_grad():
        expected = model(torch.cat([tokens[:, :3], sampled], dim=1))
    return expected[:, -1], decoder.state_dict()["logits"]


@pytest.mark.parametrize(
    "name",
    [
        "layers.1",
        "layers.1.norm",
        "layers.1.mixer",
        "layers.1.mixer.in_proj",
        "layers.1.mixer.conv1d",
        "layers.1.mixer.x_proj",
        "layers.1.mixer.dt_proj",
        "layers.1.mixer.out_proj",
        "embedding",
        "norm_f",
        "lm_head",
    ],
)
def test_hooks_act_in_decoding(name: str) -> None:
    torch.manual_seed(0)
    config = SequenceModelConfig(8, 16, 2, tie_embeddings=False)
    model, tokens = SequenceModel(config), torch.tensor([[1, 5, 2]])
    model.embedding.weight.data *= 10
    plain, _ = logits_of(model, tokens)
    hook(model.get_submodule(name))
    expected, logits = logits_of(model, tokens)
    assert (plain - expected).abs().max() > 5e-5
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("name", ["stage", "stage.pooled", "stage.pooled.down", "stage.pooled.inner", "head"])
def test_hooks_act_in_decoding_with_clocks(name: str) -> None:
    torch.manual_seed(0)
    model = MultiscaleModel(MultiscaleModelConfig(8, 16, 1, pools=[2, 2]))
    model.embedding.weight.data *= 10
    hook(model.get_submodule(name))
    expected, logits = logits_of(model, torch.tensor([[1, 5, 2]]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("part", "layer"),
    [
        ("in_proj", nn.Linear(8, 32)),
        ("x_proj", nn.Linear(16, 33)),
        ("dt_proj", nn.Linear(1, 16, bias=False)),
        ("out_proj", nn.Linear(16, 8)),
        ("in_proj", nn.Sequential(nn.Linear(8, 32))),
    ],
)
def test_layers_that_a_program_cannot_hold_run_eagerly(part: str, layer: nn.Module) -> None:
    torch.manual_seed(0)
    model = SequenceModel(SequenceModelConfig(8, 8, 1))
    setattr(model.layers[0].mixer, part, layer)
    allowed = torch.ones(8, dtype=torch.bool)
    assert type(fastest_engine(model, 1, SamplingConfig(), allowed)) is EagerEngine
    expected, logits = logits_of(model, torch.tensor([[1, 5, 2]]))
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_persistent_kernel_is_not_for_rocm_or_other_dtypes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:  # of an AMD GPU: no shared_memory_per_block_optin
        major = 9

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: Properties())
    model = SequenceModel(SequenceModelConfig(16, 64, 1))
    assert not persistent.supports(model, torch.device("cuda"))
    assert not persistent.supports(model.bfloat16(), torch.device("cuda"))
