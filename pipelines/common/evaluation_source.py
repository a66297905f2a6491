"""What an evaluation judges: the clips of a split, or in a folder of audio files, sampled or brought."""

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
import torch
from torch import Tensor
from tqdm import tqdm

from audio.data.clips import audio_files
from audio.data.labelled import LabelledClips
from audio.data.pack import PackedAudio
from audio.data.waveform import RATE, read_waveform, write_waveform
from audio.evaluation.judgement import Judgement, TrainedClassifier, judge
from audio.evaluation.mel import CLIP, one_second
from core.storage.atomic import replaced_atomically
from pipelines.common.audio_index import read_index
from pipelines.common.sampling import progress_bar

Kind = Literal["train", "test", "model", "folder"]
TABLE, FEATURES, PROBABILITIES, KEY = "clips.tsv", "features.npy", "log_probabilities.npy", "judged.json"
SOUNDS, INDEX = "wav", "samples.json"
COLUMNS = ("file", "label", "class", "confidence", "log_likelihood", "bits_per_sample")
BATCH = 512
HEARD = 5
"""Clips of each class of a split that are written as sound, to be listened to."""


@dataclass(frozen=True)
class Source:
    """Clips to be judged, and what is known of them.

    name: the folder below the evaluation's that it owns, and what tables call it. identity: plain values that
    change with the clips. batches: gives them anew, (rows, CLIP) at a time. files: their sounds, seen from
    the evaluation's folder; "" for one that is not written. labels: the classes that they are known or were
    asked to be, "" where there is none. log_likelihood: (clips,), nats; None where it is not known. bits: of
    each clip, a sample that the likelihood is of, which a prompt's are not; empty where it is not known.
    facts: what else the report says of it. notes: whole sentences about what was done to the clips.
    """

    name: str
    kind: Kind
    identity: dict[str, Any]
    batches: Callable[[], Iterator[Tensor]]
    files: Sequence[str]
    labels: Sequence[str]
    log_likelihood: Tensor | None = None
    bits: Sequence[float] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


def split_source(packed: PackedAudio, split: Literal["train", "test"], run: Path) -> Source:
    """The clips of a split; a few of each class are written as sound. ValueError for fewer than two clips."""
    clips = LabelledClips(packed, split)
    _require_two(len(clips), f"{packed.name} for {split}")
    folder = run / split / SOUNDS
    folder.mkdir(parents=True, exist_ok=True)
    files = [""] * len(clips)
    for number in _first_of_each(clips.labels.tolist(), HEARD):
        path = folder / f"clip_{number:05d}.wav"
        write_waveform(path, clips.waveform(number))  # in place of another data set's, from the same folder
        files[number] = path.relative_to(run).as_posix()

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(clips), BATCH):
            yield clips.seconds(range(start, min(start + BATCH, len(clips))))

    identity = {"data": packed.name, "sha256": packed.sha256, "quantizer": packed.quantizer, "split": split}
    lengths = [clip.length for clip in clips.clips]
    return Source(
        split,
        split,
        identity,
        batches,
        files,
        [packed.classes[label] for label in clips.labels.tolist()],
        notes=_length_notes(lengths),
    )


def folder_source(name: str, kind: Kind, folder: Path, run: Path, facts: dict[str, Any]) -> Source:
    """The audio files of a folder, in natural order, with what samples.json in it knows of them.

    Raises FileNotFoundError for no folder; ValueError for one without audio, with one clip only, with a file
    that cannot be used, or with an index of other files.
    """
    names = audio_files(folder)
    _require_two(len(names), str(folder))
    paths = [folder / file for file in names]
    rows = _index_rows(folder, names)
    known = [row["log_likelihood"] for row in rows]
    bits = [row["bits_per_sample"] for row in rows]
    lengths, rates = zip(*map(_length_and_rate, paths), strict=True)
    others = sum(rate != RATE for rate in rates)
    converted = f"{others:,} of the {len(names):,} clips had another rate and were converted to {RATE:,} Hz."

    def batches() -> Iterator[Tensor]:
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(paths), BATCH):
                yield torch.stack(list(pool.map(_read_second, paths[start : start + BATCH])))

    return Source(
        name,
        kind,
        {"sha256": _contents(folder, names)},
        batches,
        [Path(os.path.relpath(path, run)).as_posix() for path in paths],
        [row["label"] or "" for row in rows],
        None if None in known else torch.tensor(known, dtype=torch.float64),
        () if None in bits else bits,
        facts,
        [*([converted] if others else []), *_length_notes(lengths)],
    )


def judged(source: Source, classifier: TrainedClassifier, run: Path) -> Judgement:
    """The classifier's judgement of a source, which is kept in its folder: the same clips are judged once.

    Raises ValueError for clips that cannot be read, and features that are not finite.
    """
    folder = run / source.name
    folder.mkdir(parents=True, exist_ok=True)
    key = {"classifier": classifier.sha256, "device": classifier.model.head.weight.device.type}
    key |= source.identity
    judgement = kept_judgement(folder, key)
    if judgement is None:
        (folder / KEY).unlink(missing_ok=True)
        with progress_bar(len(source.files), 0, "clip") as bar:
            bar.set_description(f"judging {source.name}")
            judgement = judge(classifier.model, _counted(source.batches(), bar))
        for file, tensor in zip((FEATURES, PROBABILITIES), judgement, strict=True):
            with replaced_atomically(folder / file) as temporary, temporary.open("wb") as content:
                np.save(content, tensor.numpy())
        with replaced_atomically(folder / KEY) as temporary:
            temporary.write_text(json.dumps(key, indent=1) + "\n", encoding="utf-8")
    # anew each time: where the clips lie and what their index says may change while their sound does not
    write_table(source, judgement, classifier.training.classes, folder / TABLE)
    return judgement


def kept_judgement(folder: Path, key: Mapping[str, Any]) -> Judgement | None:
    """What an evaluation has left in a folder; None where it is of another key, not whole or not there."""
    try:
        if json.loads((folder / KEY).read_text(encoding="utf-8")) != key:
            return None
        return Judgement(*(torch.from_numpy(np.load(folder / file)) for file in (FEATURES, PROBABILITIES)))
    except (OSError, EOFError, ValueError):
        return None


def write_table(source: Source, judgement: Judgement, classes: Sequence[str], path: Path) -> None:
    """A row a clip, in order: its file, label, class, confidence in [0, 1], log-likelihood in nats, bits a
    sample."""
    likelihoods = bits = [""] * len(source.files)
    if source.log_likelihood is not None:
        likelihoods = [f"{value:.3f}" for value in source.log_likelihood.tolist()]
    if source.bits:
        bits = [f"{value:.6f}" for value in source.bits]
    said = [classes[number] for number in judgement.classes.tolist()]
    sure = [f"{value:.6f}" for value in judgement.confidence.tolist()]
    with (
        replaced_atomically(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="") as file,
    ):
        table = csv.writer(file, delimiter="\t", lineterminator="\n")
        table.writerow(COLUMNS)
        table.writerows(zip(source.files, source.labels, said, sure, likelihoods, bits, strict=True))


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a table of clips, by column."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def _require_two(clips: int, whose: str) -> None:
    """Raise ValueError for a single clip: features of one have no covariance."""
    if clips < 2:
        raise ValueError(f"{whose} has {clips} clip(s), but a Frechet distance needs at least 2: give more.")


def _read_second(path: Path) -> Tensor:
    """A file as the classifier takes it, (CLIP,)."""
    return one_second(torch.from_numpy(read_waveform(path)))


def _index_rows(folder: Path, names: Sequence[str]) -> list[dict[str, Any]]:
    """What samples.json knows of each file; nothing where there is no index."""
    if not (folder / INDEX).is_file():
        return [{"label": None, "log_likelihood": None, "bits_per_sample": None}] * len(names)
    rows = {row["file"]: row for row in read_index(folder / INDEX)}
    if rows.keys() != set(names):
        odd = sorted(rows.keys() ^ set(names))[0]
        raise ValueError(
            f"{folder / INDEX} lists {len(rows):,} files, but the folder holds {len(names):,}; {odd} is only "
            "in one of them. Sample again, or remove the index to go without likelihoods."
        )
    return [rows[name] for name in names]


def _contents(folder: Path, names: Sequence[str]) -> str:
    """A checksum of the names and the contents of files."""
    content = hashlib.sha256()
    for name in names:
        content.update(f"{name}\n".encode())
        content.update(hashlib.sha256((folder / name).read_bytes()).digest())
    return content.hexdigest()


def _length_and_rate(path: Path) -> tuple[int, int]:
    """Samples at 16 kHz, and samples a second in the file. ValueError for what is not audio."""
    try:
        info = soundfile.info(path)
    except soundfile.LibsndfileError:
        return len(read_waveform(path)), RATE  # says what is wrong
    return math.ceil(info.frames * RATE / info.samplerate), info.samplerate


def _length_notes(lengths: Sequence[int]) -> list[str]:
    """Sentences about the clips that were cut or padded."""
    of = f"of the {len(lengths):,} clips were"
    cut, padded = (sum(odd) for odd in ((n > CLIP for n in lengths), (n < CLIP for n in lengths)))
    notes = [f"{cut:,} {of} longer than a second and were cut."] if cut else []
    return notes + (
        [f"{padded:,} {of} shorter than a second and were padded with silence."] if padded else []
    )


def _first_of_each(labels: Sequence[int], count: int) -> list[int]:
    """The places of the first `count` of each label, in order."""
    return sorted(
        place
        for label in set(labels)
        for place in [place for place, other in enumerate(labels) if other == label][:count]
    )


def _counted(batches: Iterator[Tensor], bar: tqdm) -> Iterator[Tensor]:
    for batch in batches:
        yield batch
        bar.update(len(batch))
