"""Sources of an evaluation: clips of a split or of a folder, and the classifier's predictions for them."""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from audio.data.clips import audio_files
from audio.data.labelled import LabelledClips
from audio.data.mel import CLIP, one_second
from audio.data.pack import PackedAudio
from audio.data.sample_index import Row, read_index
from audio.data.waveform import RATE, length_and_rate, read_waveform, write_waveform
from audio.evaluation.trained_classifier import TrainedClassifier, predict
from audio.metrics.predictions import Predictions
from core.storage.atomic import replaced_atomically, write_json

Kind = Literal["train", "test", "model", "folder"]
CLIP_TABLE = "clips.tsv"
COLUMNS = ("file", "label", "class", "confidence", "log_likelihood", "bits_per_sample")
FEATURES, LOG_PROBABILITIES, PREDICTIONS_KEY = "features.npy", "log_probabilities.npy", "judged.json"
SOUNDS, INDEX = "wav", "samples.json"
BATCH = 512
SOUNDS_PER_CLASS = 5
"""Number of clips of each class of a split that are written as WAV files."""


@dataclass(frozen=True)
class Source:
    """Clips to evaluate, with their metadata.

    name: name in tables, and name of the source's folder in the run folder. identity: plain values that
    change with the clips. batches: starts a pass over the clips, (rows, CLIP) at a time. files: WAV files
    relative to the run folder; "" for a clip without one. labels: known or requested classes; "" for a clip
    without one. log_likelihood: (clips,), nats; None if unknown. bits_per_sample: (clips,), over the samples
    after a prompt; empty if unknown. facts: further entries of the report. notes: sentences about changes
    made to the clips.
    """

    name: str
    kind: Kind
    identity: dict[str, Any]
    batches: Callable[[], Iterator[Tensor]]
    files: Sequence[str]
    labels: Sequence[str]
    log_likelihood: Tensor | None = None
    bits_per_sample: Sequence[float] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def split_source(packed: PackedAudio, split: Literal["train", "test"], run: Path) -> Source:
    """Return the clips of a split, and write SOUNDS_PER_CLASS of each class as WAV files.

    Raises ValueError for fewer than two clips.
    """
    clips = LabelledClips(packed, split)
    _require_two(len(clips), f"{packed.name} for {split}")
    folder = run / split / SOUNDS
    folder.mkdir(parents=True, exist_ok=True)
    labels = clips.labels.tolist()
    files = [""] * len(clips)
    for number in _first_of_each(labels, SOUNDS_PER_CLASS):
        path = folder / f"clip_{number:05d}.wav"
        write_waveform(path, clips.waveform(number))  # replaces the file of another data set
        files[number] = path.relative_to(run).as_posix()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(clips), BATCH):
            yield clips.seconds(range(start, min(start + BATCH, len(clips))))

    return Source(
        split,
        split,
        {"data": packed.name, "sha256": packed.sha256, "quantizer": packed.quantizer, "split": split},
        batches,
        files,
        [packed.classes[label] for label in labels],
        notes=_length_notes([clip.length for clip in clips.clips]),
    )


def folder_source(name: str, kind: Kind, folder: Path, run: Path, facts: dict[str, Any]) -> Source:
    """Return the audio files of a folder, in natural order, with likelihoods from its samples.json if any.

    Raises FileNotFoundError for a missing folder, and ValueError for fewer than two files, an unreadable
    file, or an index of other files.
    """
    names = audio_files(folder)
    _require_two(len(names), str(folder))
    paths = [folder / file for file in names]
    rows = _index_rows(folder, names)
    log_likelihood = [row.get("log_likelihood") for row in rows]
    bits_per_sample: list[Any] = [row.get("bits_per_sample") for row in rows]
    lengths, rates = zip(*map(length_and_rate, paths), strict=True)
    converted = sum(rate != RATE for rate in rates)
    notes = _length_notes(lengths)
    if converted:
        note = (
            f"{converted:,} of the {len(names):,} clips had another rate and were converted to {RATE:,} Hz."
        )
        notes.insert(0, note)

    def batches() -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), BATCH):
                yield torch.stack(list(pool.map(_read_second, paths[start : start + BATCH])))

    return Source(
        name,
        kind,
        {"sha256": _content_sha256(folder, names)},
        batches,
        [Path(os.path.relpath(path, run)).as_posix() for path in paths],
        [row.get("label") or "" for row in rows],
        None if None in log_likelihood else torch.tensor(log_likelihood, dtype=torch.float64),
        () if None in bits_per_sample else bits_per_sample,
        facts,
        notes,
    )


def classify_source(source: Source, classifier: TrainedClassifier, run: Path) -> Predictions:
    """Classify the clips of a source, or read their predictions if the source's folder holds them.

    Raises ValueError for clips that cannot be read, and for features that are not finite.
    """
    folder = run / source.name
    folder.mkdir(parents=True, exist_ok=True)
    key = {"classifier": classifier.sha256, "device": classifier.model.head.weight.device.type}
    key |= source.identity
    predictions = read_predictions(folder, key)
    if predictions is None:
        (folder / PREDICTIONS_KEY).unlink(missing_ok=True)
        with tqdm(
            total=len(source.files), desc=f"classifying {source.name}", unit=" clips", disable=None
        ) as bar:
            predictions = predict(classifier.model, _with_progress(source.batches(), bar))
        for file, tensor in zip((FEATURES, LOG_PROBABILITIES), predictions, strict=True):
            with replaced_atomically(folder / file) as temporary, temporary.open("wb") as content:
                np.save(content, tensor.numpy())
        write_json(folder / PREDICTIONS_KEY, key)
    # the paths and the index may change while the sounds stay the same
    write_clip_table(source, predictions, classifier.training.classes, folder / CLIP_TABLE)
    return predictions


def read_predictions(folder: Path, key: Mapping[str, Any]) -> Predictions | None:
    """Return the predictions stored in a folder; None if they are missing, damaged, or of another key."""
    try:
        if json.loads((folder / PREDICTIONS_KEY).read_text(encoding="utf-8")) != key:
            return None
        files = (FEATURES, LOG_PROBABILITIES)
        return Predictions(*(torch.from_numpy(np.load(folder / file)) for file in files))
    except (OSError, EOFError, ValueError):
        return None


def write_clip_table(source: Source, predictions: Predictions, classes: Sequence[str], path: Path) -> None:
    """Write one row per clip, in order.

    The columns are file, label, class, confidence in [0, 1], log-likelihood in nats, and bits per sample.
    """
    log_likelihood = bits_per_sample = [""] * len(source.files)
    if source.log_likelihood is not None:
        log_likelihood = [f"{value:.3f}" for value in source.log_likelihood.tolist()]
    if source.bits_per_sample:
        bits_per_sample = [f"{value:.6f}" for value in source.bits_per_sample]
    predicted = [classes[number] for number in predictions.classes.tolist()]
    confidence = [f"{value:.6f}" for value in predictions.confidence.tolist()]
    columns = (source.files, source.labels, predicted, confidence, log_likelihood, bits_per_sample)
    with replaced_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(zip(*columns, strict=True))


def read_clip_table(path: Path) -> list[dict[str, str]]:
    """Return the rows of a clip table, each by column name."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _require_two(clips: int, source: str) -> None:
    """Raise ValueError for fewer than two clips: the features of one clip have no covariance."""
    if clips < 2:
        raise ValueError(f"{source} has {clips} clip(s); a Frechet distance needs at least 2.")


def _read_second(path: Path) -> Tensor:
    """Read a file as input of the classifier, (CLIP,)."""
    return one_second(torch.from_numpy(read_waveform(path)))


def _index_rows(folder: Path, names: Sequence[str]) -> list[Row]:
    """Return the index row of each file, in the order of the files; empty rows without an index."""
    path = folder / INDEX
    if not path.is_file():
        return [{}] * len(names)
    rows = {row["file"]: row for row in read_index(path)}
    if rows.keys() != set(names):
        odd = sorted(rows.keys() ^ set(names))[0]
        raise ValueError(
            f"{path} lists {len(rows):,} files, but the folder holds {len(names):,}; {odd} is in only one of "
            "them. Sample again, or remove the index to evaluate without likelihoods."
        )
    return [rows[name] for name in names]


def _content_sha256(folder: Path, names: Sequence[str]) -> str:
    """Return a checksum of the names and the contents of files."""
    content = hashlib.sha256()
    for name in names:
        content.update(f"{name}\n".encode())
        content.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return content.hexdigest()


def _length_notes(lengths: Sequence[int]) -> list[str]:
    """Return sentences about clips that were cut or padded."""
    clips = f"of the {len(lengths):,} clips were"
    cut, padded = sum(length > CLIP for length in lengths), sum(length < CLIP for length in lengths)
    notes = [f"{cut:,} {clips} longer than a second and were cut."] if cut else []
    if padded:
        notes.append(f"{padded:,} {clips} shorter than a second and were padded with silence.")
    return notes


def _first_of_each(labels: Sequence[int], count: int) -> list[int]:
    """Return the sorted indices of the first `count` clips of each label."""
    indices: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        indices.setdefault(label, []).append(index)
    return sorted(index for group in indices.values() for index in group[:count])


def _with_progress(batches: Iterator[Tensor], bar: tqdm) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        bar.update(len(batch))
