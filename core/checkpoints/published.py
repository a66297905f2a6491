"""Conversion of published weights: the official Mamba layout and that of Hugging Face transformers.

Both layouts prefix the parameters of SequenceModel (layers.{i}.*, norm_f.weight) with "backbone.". The
embedding is backbone.embedding.weight in the official layout, also used by MambaByte, and
backbone.embeddings.weight in Hugging Face's. Official files contain lm_head.weight even if it is tied.
"""

import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from core.models.sequence import SequenceModel, SequenceModelConfig

StateDict = dict[str, Tensor]

EMBEDDING, HEAD = "embedding.weight", "lm_head.weight"
BLOCK_PARAMETERS = {"norm.weight"} | {
    f"mixer.{name}"
    for name in (
        "in_proj.weight",
        "conv1d.weight",
        "conv1d.bias",
        "x_proj.weight",
        "dt_proj.weight",
        "dt_proj.bias",
        "A_log",
        "D",
        "out_proj.weight",
    )
}


def from_published(published: StateDict) -> StateDict:
    """Convert an official or Hugging Face state dict to SequenceModel's; tensors are shared, not copied.

    A head equal to the embedding is tied and left out. Raises ValueError if the parameters are not those of a
    published Mamba.
    """
    ours = {
        name.removeprefix("backbone.").replace("embeddings.", "embedding."): value
        for name, value in published.items()
    }
    _check_names(ours)
    if HEAD in ours and torch.equal(ours[HEAD], ours[EMBEDDING]):
        del ours[HEAD]
    return ours


def to_official(ours: StateDict) -> StateDict:
    """Convert SequenceModel's state dict to the official layout. Raises ValueError for other mixers."""
    _check_names(ours)
    return _with_backbone(ours) | {HEAD: ours.get(HEAD, ours[EMBEDDING])}


def to_hugging_face(ours: StateDict) -> StateDict:
    """Convert SequenceModel's state dict to the Hugging Face layout. Raises ValueError for other mixers."""
    _check_names(ours)
    return {
        name.replace("backbone.embedding.", "backbone.embeddings."): value
        for name, value in _with_backbone(ours).items()
    }


def config_of(ours: StateDict) -> SequenceModelConfig:
    """Return the configuration of a SequenceModel with parameters of these shapes."""
    rows, d_model = ours[EMBEDDING].shape
    mixer = {
        name: ours[f"layers.0.mixer.{name}"].shape for name in ("A_log", "conv1d.weight", "dt_proj.weight")
    }
    return SequenceModelConfig(
        vocab_size=rows,
        d_model=d_model,
        n_layer=sum(name.endswith("mixer.A_log") for name in ours),
        d_state=mixer["A_log"][1],
        d_conv=mixer["conv1d.weight"][2],
        expand=mixer["A_log"][0] // d_model,
        dt_rank=mixer["dt_proj.weight"][1],
        tie_embeddings=HEAD not in ours,
    )


def load_published(path: str | Path) -> SequenceModel:
    """Load the SequenceModel of a published weights file: model.safetensors or pytorch_model.bin.

    Raises ValueError if the parameters are not those of a published Mamba.
    """
    path = Path(path)
    if path.suffix == ".safetensors":
        published = safetensors.torch.load_file(path)
    else:
        published = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    ours = from_published(published)
    model = SequenceModel(config_of(ours))
    model.load_state_dict(ours)
    return model


def _with_backbone(ours: StateDict) -> StateDict:
    return {name if name == HEAD else f"backbone.{name}": value for name, value in ours.items()}


def _check_names(ours: StateDict) -> None:
    n_layer = len({match[1] for name in ours if (match := re.match(r"layers\.(\d+)\.", name))})
    expected = {EMBEDDING, "norm_f.weight"} | {
        f"layers.{layer}.{name}" for layer in range(n_layer) for name in BLOCK_PARAMETERS
    }
    unknown, missing = ours.keys() - expected - {HEAD}, expected - ours.keys()
    if not n_layer or unknown or missing:
        raise ValueError(
            "These are not the parameters of a published Mamba model: "
            f"missing {sorted(missing)[:3]}, unknown {sorted(unknown)[:3]}."
        )
