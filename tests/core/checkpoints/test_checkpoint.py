"""Checkpoints restore every bit; unusable ones are rejected with a reason."""

import json
import os
import resource
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from core.checkpoints.checkpoint import (
    CheckpointError,
    latest_checkpoint,
    load_checkpoint,
    load_weights,
    model_tensors,
    read_header,
    require_same_model,
    resolve_checkpoint,
    run_folder_of,
    save_checkpoint,
    step_checkpoints,
    step_path,
)
from core.storage.tensors import read_metadata, write_tensors

CONFIG = {"model": {"width": 4, "mixer": {"name": "gru"}}, "train": {"betas": (0.9, 0.95)}}


class Tied(nn.Module):
    """Model with a tied weight, a persistent and another buffer, and an unused parameter."""

    def __init__(self, width: int = 4):
        super().__init__()
        self.embedding = nn.Embedding(5, width)
        self.head = nn.Linear(width, 5)
        self.head.weight = self.embedding.weight
        self.unused = nn.Parameter(torch.zeros(3))
        self.register_buffer("kept", torch.rand(2).double())
        self.register_buffer("rebuilt", torch.rand(2), persistent=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


def trained(seed: int, steps: int = 3) -> tuple[Tied, torch.optim.AdamW]:
    torch.manual_seed(seed)
    model = Tied()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    for _ in range(steps):
        model(torch.arange(5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def copied(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model, optimizer = trained(seed=0)
    path = step_path(tmp_path, 3)
    save_checkpoint(path, model, CONFIG, {"step": 3}, optimizer)
    return path


def test_loaded_model_and_optimizer_continue_exactly(saved: Path) -> None:
    model, optimizer = trained(seed=0)
    other, other_optimizer = trained(seed=1, steps=1)
    header = load_checkpoint(saved, other, other_optimizer)
    assert header.step == 3
    assert header.config == json.loads(json.dumps(CONFIG))
    for each, its_optimizer in ((model, optimizer), (other, other_optimizer)):
        each(torch.arange(5)).square().sum().backward()
        its_optimizer.step()
    assert equal(model_tensors(model), model_tensors(other))
    assert other.head.weight is other.embedding.weight


def test_average_is_restored_and_preferred(tmp_path: Path) -> None:
    model, _ = trained(seed=0)
    average = {name: torch.full_like(parameter, 7.0) for name, parameter in model.named_parameters()}
    save_checkpoint(tmp_path / "a.safetensors", model, CONFIG, {"step": 3}, average=average)

    resumed = Tied()
    restored = {name: torch.zeros_like(parameter) for name, parameter in resumed.named_parameters()}
    load_checkpoint(tmp_path / "a.safetensors", resumed, average=restored)
    assert equal(restored, average)
    assert equal(model_tensors(resumed), model_tensors(model))

    used = Tied()
    load_weights(tmp_path / "a.safetensors", used)
    assert (used.head.weight == 7.0).all()
    assert torch.equal(used.kept, model.kept)


def test_missing_average_starts_at_the_weights(saved: Path) -> None:
    model = Tied()
    average = {name: torch.zeros_like(parameter) for name, parameter in model.named_parameters()}
    load_checkpoint(saved, model, average=average)
    assert equal(average, dict(model.named_parameters()))


@pytest.mark.parametrize("kept", [0, 5, 300, -1])
def test_truncated_file_is_named_and_changes_nothing(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    model = Tied()
    before = copied(model_tensors(model))
    with pytest.raises(CheckpointError, match=f"{saved.name} is truncated or damaged"):
        load_checkpoint(saved, model)
    assert equal(model_tensors(model), before)


def test_other_model_is_rejected_by_names_and_shapes(saved: Path) -> None:
    wider = Tied(width=6)
    before = copied(model_tensors(wider))
    with pytest.raises(CheckpointError, match=r"embedding.weight is \(5, 4\) there and \(5, 6\) here"):
        load_checkpoint(saved, wider)
    assert equal(model_tensors(wider), before)

    other = Tied()
    other.extra = nn.Parameter(torch.zeros(1))
    del other.unused
    with pytest.raises(CheckpointError, match="extra is missing there; unused is not in this model"):
        load_weights(saved, other)


def test_other_configuration_is_rejected_by_keys(saved: Path) -> None:
    header = read_header(saved)
    require_same_model(header, {"model": CONFIG["model"], "train": {"other": 1}})
    changed: dict[str, Any] = {"model": {"width": 5, "mixer": {"name": "gru", "size": 2}}}
    with pytest.raises(CheckpointError) as caught:
        require_same_model(header, changed)
    assert "model.width is 4 there and 5 here" in str(caught.value)
    assert "model.mixer.size is absent there and 2 here" in str(caught.value)
    assert "mixer.name" not in str(caught.value)


def test_newer_format_and_foreign_file_are_rejected(saved: Path) -> None:
    metadata = read_metadata(saved)
    save_file({"x": torch.zeros(1)}, saved, metadata | {"format_version": "2"})
    with pytest.raises(CheckpointError, match="format version 2"):
        read_header(saved)
    save_file({"x": torch.zeros(1)}, saved)
    with pytest.raises(CheckpointError, match="not a checkpoint of Helixwave"):
        read_header(saved)
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_header(saved.with_name("absent.safetensors"))


def test_resolve_checkpoint_prefers_the_best_then_the_highest_step(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        resolve_checkpoint(tmp_path)
    for name in ("step-00000009", "step-123456789", "step-00000010", "best", "step-x"):
        (folder / f"{name}.safetensors").touch()
    (folder / "step-999999999.safetensors.tmp").touch()
    latest, best = folder / "step-123456789.safetensors", folder / "best.safetensors"
    assert resolve_checkpoint(tmp_path) == resolve_checkpoint(folder) == resolve_checkpoint(best) == best
    assert latest_checkpoint(tmp_path) == latest_checkpoint(folder) == resolve_checkpoint(latest) == latest
    best.unlink()
    assert resolve_checkpoint(tmp_path) == latest
    assert [path.stem for path in step_checkpoints(folder)][:2] == ["step-00000009", "step-00000010"]


def test_run_folder_of_any_path(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for named in (tmp_path, folder, folder / "best.safetensors", tmp_path / "copied.safetensors"):
        assert run_folder_of(named) == tmp_path


def test_full_disk_keeps_the_earlier_file_only(saved: Path) -> None:
    model, optimizer = trained(seed=5)
    before = saved.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, limits[1]))
    try:
        with pytest.raises(CheckpointError, match="could not be written"):
            save_checkpoint(saved, model, CONFIG, {"step": 3}, optimizer)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_flipped_bit_names_file_and_tensor_and_changes_nothing(saved: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[-1] ^= 64
    saved.write_bytes(content)
    model = Tied()
    before = copied(model_tensors(model))
    for load in (load_checkpoint, load_weights):
        with pytest.raises(
            CheckpointError, match=r"step-00000003.safetensors .*tensor \S+\.head.bias"
        ) as caught:
            load(saved, model)
        assert "elete" not in str(caught.value)
    assert equal(model_tensors(model), before)


def test_torch_file_is_called_so(tmp_path: Path) -> None:
    path = tmp_path / "pytorch_model.bin"
    for is_zip in (True, False):
        torch.save(Tied().state_dict(), path, _use_new_zipfile_serialization=is_zip)
        with pytest.raises(CheckpointError, match=r"model.bin is .*torch.save.*not a checkpoint") as e:
            read_header(path)
        assert "elete" not in str(e.value)
    path.write_text(">chr1\nACGT\n")
    with pytest.raises(CheckpointError, match=r"pytorch_model.bin is a FASTA file"):
        load_weights(path, Tied())


@pytest.mark.parametrize(
    "changes",
    [
        {"config": None},
        {"progress": None},
        {"config": "[]"},
        {"config": "{"},
        {"progress": "{}"},
        {"progress": '{"step": "x"}'},
        {"progress": "[" * 100_000},
        {"format_version": "one"},
    ],
)
def test_bad_header_is_named(saved: Path, changes: dict[str, str | None]) -> None:
    metadata = {key: value for key, value in (read_metadata(saved) | changes).items() if value is not None}
    write_tensors(saved, {"model.x": torch.zeros(1)}, metadata)
    with pytest.raises(CheckpointError, match=r"step-00000003.safetensors is .*damaged \(bad header"):
        read_header(saved)


def test_checkpoints_of_one_state_have_equal_bytes_and_the_umask(saved: Path, tmp_path: Path) -> None:
    model, optimizer = trained(seed=0)
    previous = os.umask(0o022)
    try:
        save_checkpoint(tmp_path / "again", model, CONFIG, {"step": 3}, optimizer)
    finally:
        os.umask(previous)
    assert (tmp_path / "again").read_bytes() == saved.read_bytes()
    assert (tmp_path / "again").stat().st_mode & 0o777 == 0o644
