"""Conversion of published weights: the official Mamba layout and that of Hugging Face transformers.

Both layouts prefix the parameters of SequenceModel (layers.{i}.*, norm_f.weight) with "backbone.". The
embedding is backbone.embedding.weight in the official layout, also used by MambaByte, and
backbone.embeddings.weight in Hugging Face's. Official files contain lm_head.weight even if it is tied.
"""

import json
import pickle
import re
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn.functional import pad

from core.layers.block import RMSNorm
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
    """Load the SequenceModel of published weights: a file (.safetensors or .bin) or a Hugging Face folder.

    A folder holds model.safetensors or pytorch_model.bin, or their shards with an index. If the vocabulary is
    no multiple of 8, the missing rows of the embedding are zeros, so these logits are 0.
    Raises ValueError, naming the file, if it is not readable or not a published Mamba.
    """
    path = Path(path)
    published: StateDict = {}
    for file in _weight_files(path) if path.is_dir() else [path]:
        published |= _read_weights(file)
    try:
        ours = from_published(published)
        config = config_of(ours)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    model = SequenceModel(config)
    model.load_state_dict(with_rows(ours, config.padded_vocab_size))
    epsilon = _stored_epsilon(path / "config.json") if path.is_dir() else None
    for module in model.modules():
        if epsilon is not None and isinstance(module, RMSNorm):
            module.eps = epsilon
    return model


def with_rows(ours: StateDict, rows: int) -> StateDict:
    """Return a state dict whose embedding and head have `rows` rows; the added ones are zeros.

    Raises ValueError if the state dict has more rows.
    """
    more = rows - len(ours[EMBEDDING])
    if more < 0:
        raise ValueError(
            f"The published embedding has {len(ours[EMBEDDING])} rows; the model has {rows}. Set "
            f"vocab_size {len(ours[EMBEDDING])}."
        )
    return {
        name: pad(value, (0, 0, 0, more)) if name in (EMBEDDING, HEAD) else value
        for name, value in ours.items()
    }


def _weight_files(folder: Path) -> list[Path]:
    """Return the weight files of a Hugging Face folder. Raises ValueError if there are none."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            try:
                names = set(json.loads(index.read_text())["weight_map"].values())
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{index} is not an index of weight files. Download it again.") from error
            missing = [str(each) for each in names if not (folder / Path(str(each)).name).is_file()]
            if missing:
                raise ValueError(f"{folder} lacks {sorted(missing)[0]}, which {index.name} names.")
            return sorted(folder / Path(str(each)).name for each in names)
    raise ValueError(
        f"{folder} holds no published weights: neither model.safetensors nor pytorch_model.bin nor an index "
        "of their shards. Give such a folder or a weights file."
    )


def _read_weights(file: Path) -> StateDict:
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        weights = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise ValueError(f"There is no weights file {file}.") from error
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} cannot be read as model weights ({reason}). Download it again.") from error
    if not isinstance(weights, dict) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError(f"{file} is a torch file, but holds no state dict of tensors.")
    return weights


def _stored_epsilon(config: Path) -> float | None:
    """Return the epsilon of the norms in a Hugging Face config.json, or None without one."""
    if not config.is_file():
        return None
    try:
        stored = json.loads(config.read_text())
        epsilon = stored.get("layer_norm_epsilon")
        return None if epsilon is None else float(epsilon)
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{config} is not a model configuration. Download it again.") from error


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
