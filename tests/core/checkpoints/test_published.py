"""Published layouts: exact round trips, configuration from shapes, and clear errors."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch

from core.checkpoints.published import (
    config_of,
    from_published,
    load_published,
    to_hugging_face,
    to_official,
    with_rows,
)
from core.models.sequence import SequenceModel, SequenceModelConfig

CONFIG = SequenceModelConfig(vocab_size=24, d_model=16, n_layer=2, d_state=4, d_conv=3, expand=3, dt_rank=2)
MIXER_SHAPES = {
    "in_proj.weight": (96, 16),
    "conv1d.weight": (48, 1, 3),
    "conv1d.bias": (48,),
    "x_proj.weight": (10, 48),
    "dt_proj.weight": (48, 2),
    "dt_proj.bias": (48,),
    "A_log": (48, 4),
    "D": (48,),
    "out_proj.weight": (16, 48),
}


def published(embedding: str, head: str | None) -> dict[str, torch.Tensor]:
    """Return random weights with published names; head is None, "tied" or "untied"."""
    shapes = {f"backbone.{embedding}.weight": (24, 16), "backbone.norm_f.weight": (16,)}
    for layer in range(2):
        shapes[f"backbone.layers.{layer}.norm.weight"] = (16,)
        for name, shape in MIXER_SHAPES.items():
            shapes[f"backbone.layers.{layer}.mixer.{name}"] = shape
    if head == "untied":
        shapes["lm_head.weight"] = (24, 16)
    generator = torch.Generator().manual_seed(0)
    weights = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    if head == "tied":
        weights["lm_head.weight"] = weights[f"backbone.{embedding}.weight"].clone()
    return weights


OFFICIAL = [published("embedding", "tied"), published("embedding", "untied")]
HUGGING_FACE = [published("embeddings", None), published("embeddings", "untied")]


@pytest.mark.parametrize(
    ("weights", "back"),
    [(weights, to_official) for weights in OFFICIAL]
    + [(weights, to_hugging_face) for weights in HUGGING_FACE],
)
def test_round_trip_is_exact(weights: dict, back: object) -> None:
    again = back(from_published(weights))
    assert again.keys() == weights.keys()
    assert all(torch.equal(again[name], weights[name]) for name in weights)


@pytest.mark.parametrize("weights", OFFICIAL + HUGGING_FACE)
def test_published_weights_load(weights: dict) -> None:
    ours = from_published(weights)
    config = config_of(ours)
    assert config.tie_embeddings == ("lm_head.weight" not in ours)
    assert replace(config, tie_embeddings=True) == CONFIG
    model = SequenceModel(config_of(ours))
    model.load_state_dict(ours)
    assert model(torch.arange(24)[None]).isfinite().all()


def test_both_layouts_hold_the_same_model() -> None:
    ours = SequenceModel(CONFIG).state_dict()
    official, hugging_face = from_published(to_official(ours)), from_published(to_hugging_face(ours))
    assert official.keys() == hugging_face.keys() == ours.keys()
    assert all(torch.equal(official[name], ours[name]) for name in ours)


def test_files_of_both_kinds_load(tmp_path: Path) -> None:
    model = SequenceModel(CONFIG)
    torch.save(to_official(model.state_dict()), tmp_path / "pytorch_model.bin")
    safetensors.torch.save_file(to_hugging_face(model.state_dict()), tmp_path / "model.safetensors")
    tokens = torch.arange(24)[None]
    for name in ("pytorch_model.bin", "model.safetensors"):
        assert torch.equal(load_published(tmp_path / name)(tokens), model(tokens))


def test_other_parameters_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"missing \['norm_f\.weight'\]"):
        from_published({k: v for k, v in OFFICIAL[0].items() if "norm_f" not in k})
    with pytest.raises(ValueError, match=r"mixer\.b_rms\.weight"):
        from_published(OFFICIAL[0] | {"backbone.layers.1.mixer.b_rms.weight": torch.ones(4)})
    with pytest.raises(ValueError, match="not the parameters of a published Mamba"):
        from_published({"weight": torch.ones(2)})
    complex_model = SequenceModel(SequenceModelConfig(8, 8, 1, complex=True))
    with pytest.raises(ValueError, match="A_imag"):
        to_official(complex_model.state_dict())


def with_vocabulary(rows: int, head: bool) -> dict[str, torch.Tensor]:
    weights = published("embeddings", "untied" if head else None)
    return {name: value[:rows].clone() if len(value) == 24 else value for name, value in weights.items()}


@pytest.mark.parametrize("head", [False, True], ids=["tied", "untied"])
def test_any_number_of_rows_loads(tmp_path: Path, head: bool) -> None:
    weights = with_vocabulary(21, head)
    safetensors.torch.save_file(weights, tmp_path / "model.safetensors")
    model = load_published(tmp_path / "model.safetensors")
    assert model.config.vocab_size == 21
    whole = SequenceModel(replace(CONFIG, tie_embeddings=not head))
    whole.load_state_dict(from_published(published("embeddings", "untied" if head else None)))
    tokens = torch.arange(21)[None]
    torch.testing.assert_close(model(tokens)[..., :21], whole(tokens)[..., :21], rtol=1e-6, atol=1e-6)
    with pytest.raises(ValueError, match=r"21 rows; the model has 16.*vocab_size 21"):
        with_rows(from_published(weights), 16)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_hugging_face_folder_loads(tmp_path: Path, name: str, is_sharded: bool) -> None:
    model = SequenceModel(CONFIG)
    weights = to_hugging_face(model.state_dict())
    save = safetensors.torch.save_file if name.endswith("safetensors") else torch.save
    if is_sharded:
        halves = [dict(list(weights.items())[::2]), dict(list(weights.items())[1::2])]
        names = [name.replace(".", f"-{index}-of-2.") for index in (1, 2)]
        for half, shard in zip(halves, names, strict=True):
            save(half, tmp_path / shard)
        where = {key: shard for half, shard in zip(halves, names, strict=True) for key in half}
        (tmp_path / f"{name}.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        save(weights, tmp_path / name)
    tokens = torch.arange(24)[None]
    assert torch.equal(load_published(tmp_path)(tokens), model(tokens))
    (tmp_path / "config.json").write_text(json.dumps({"layer_norm_epsilon": 1e-2}))
    loaded = load_published(tmp_path)
    assert loaded.norm_f.eps == loaded.layers[0].norm.eps == 1e-2
    if is_sharded:
        (tmp_path / names[0]).unlink()
        with pytest.raises(ValueError, match=r"lacks .*1-of-2.*index\.json"):
            load_published(tmp_path)


def test_files_that_are_no_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no published weights"):
        load_published(tmp_path)
    for name in ("model.safetensors", "pytorch_model.bin"):
        file = tmp_path / name
        with pytest.raises(ValueError, match=f"There is no weights file .*{name}"):
            load_published(file)
        file.write_bytes(b"garbage" * 10)
        with pytest.raises(ValueError, match=f"{name} cannot be read"):
            load_published(file)
    torch.save([torch.ones(2)], tmp_path / "list.bin")
    with pytest.raises(ValueError, match=r"list\.bin is a torch file"):
        load_published(tmp_path / "list.bin")
