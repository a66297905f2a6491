"""Make one HTML page to listen to clips, models side by side: it holds the sound and needs no network.

    python -m pipelines.audio_listen folders=[runs/digits/samples]
    python -m pipelines.audio_listen folders=[runs/mamba/samples,runs/wavenet/samples] output=page.html
    python -m pipelines.audio_listen folders=[runs/audio_evaluation]

A folder of audio files is one model, with its likelihoods where audio_sample has left its samples.json; a
folder of audio_evaluate is all that it has written as sound, with classes, and its metrics above.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import soundfile

from audio.data.clips import audio_files
from audio.data.waveform import RATE, Waveform, read_waveform
from audio.evaluation.report import ALL, METRICS, REPORT, read_report
from audio.evaluation.sources import CLIP_TABLE, INDEX, read_clip_table
from audio.listening.page import ListeningClip, Summary, listening_page
from audio.metrics.bootstrap import Estimate
from core.storage.atomic import replaced_atomically
from pipelines.common.audio_index import read_index
from pipelines.common.cli import command
from pipelines.common.config import parse_config

ENDS = ("low", "high")
PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass
class Config:
    folders: list[str] = field(
        metadata={"help": "folders of audio files, one a model, or of audio_evaluate, as [a,b]"}
    )
    output: str = field(default="listening.html", metadata={"help": "the page to write"})
    title: str = field(default="Listening", metadata={"help": "of the page"})
    count: int = field(default=50, metadata={"help": "clips of each model at most, evenly spaced"})

    def __post_init__(self) -> None:
        if not self.folders:
            raise ValueError("folders is empty: give one or more, as folders=[a,b].")
        if self.count < 1:
            raise ValueError(f"count is {self.count}; it must be at least 1.")
        if Path(self.output).is_dir():
            raise ValueError(f"output={self.output} is a folder: name the page itself, as in page.html.")


class Listed(NamedTuple):
    """A clip that is yet to be read. known: what else a ListeningClip says of it."""

    model: str
    path: Path
    known: dict[str, Any]


class Contents(NamedTuple):
    """What a folder adds to a page: clips, cells of the table of metrics by model, sentences."""

    clips: list[Listed]
    metrics: dict[str, dict[str, str]]
    facts: str


@command
def main(arguments: Sequence[str]) -> None:
    config = parse_config(Config, arguments, "audio_listen", __doc__ or "")
    clips = listen(config)
    models = len({clip.model for clip in clips})
    size = Path(config.output).stat().st_size / 1e6
    print(f"{len(clips):,} clip(s) of {models} model(s) are in {config.output}, {size:.1f} MB.")


def listen(config: Config) -> list[ListeningClip]:
    """Write the page of a configuration and return its clips. The page is there whole or not at all."""
    found = [
        contents(Path(folder), name, config.count, alone=len(config.folders) == 1)
        for folder, name in zip(config.folders, model_names(config.folders), strict=True)
    ]
    listed = [clip for one in found for clip in one.clips]
    clips = [
        ListeningClip(clip.model, clip.path.stem, waveform, **clip.known)
        for clip, waveform in zip(listed, read_alike([clip.path for clip in listed]), strict=True)
    ]
    metrics = {model: cells for one in found for model, cells in one.metrics.items()}
    facts = [f"{len(clips):,} clips, {RATE:,} samples a second.", *(one.facts for one in found if one.facts)]
    page = listening_page(clips, config.title, " ".join(facts), summary(clips, metrics))
    Path(config.output).parent.mkdir(parents=True, exist_ok=True)
    with replaced_atomically(Path(config.output)) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return clips


def contents(folder: Path, name: str, count: int, alone: bool) -> Contents:
    """What a folder adds to the page: at most `count` clips of its model, or of each source of an evaluation.

    name: the model's; the sources of an evaluation have names of their own, with this one before them where
    the folder is not alone on the page.
    """
    if not (folder / REPORT).is_file():
        return Contents(evenly_spaced(folder_clips(folder, name), count), {}, "")
    evaluation = read_report(folder)
    prefix = "" if alone else f"{name}: "
    sources = {prefix + source["name"]: source for source in evaluation["sources"]}
    clips = [
        clip
        for model, source in sources.items()
        for clip in evenly_spaced(evaluated_clips(folder, source["folder"], model), count)
    ]
    metrics = {model: metric_cells(source) for model, source in sources.items()}
    return Contents(clips, metrics, prefix + evaluation_facts(evaluation))


def model_names(folders: Sequence[str]) -> list[str]:
    """What tells folders apart: of runs/a/samples and runs/b/samples a and b; of one folder, its path.

    Raises ValueError where a folder is given twice.
    """
    paths = [Path(folder).resolve().parts for folder in folders]
    if len(set(paths)) < len(paths):
        raise ValueError("folders names the same folder twice: give each once.")
    if len(paths) == 1:
        return [Path(folders[0]).as_posix()]
    while min(map(len, paths)) > 1 and len({path[0] for path in paths}) == 1:
        paths = [path[1:] for path in paths]
    while min(map(len, paths)) > 1 and len({path[-1] for path in paths}) == 1:
        paths = [path[:-1] for path in paths]
    return ["/".join(path) for path in paths]


def folder_clips(folder: Path, model: str) -> list[Listed]:
    """The clips of a folder of audio files, with what its index knows of them, if it has one.

    Raises FileNotFoundError for no folder, ValueError for one without audio or with a damaged index.
    """
    samples = read_index(folder / INDEX) if (folder / INDEX).is_file() else []
    known = {row["file"]: {"label": row["label"], "bits": row["bits_per_sample"]} for row in samples}
    return [Listed(model, folder / name, known.get(name, {})) for name in audio_files(folder)]


def evaluated_clips(run: Path, source: str, model: str) -> list[Listed]:
    """The clips of a source of audio_evaluate that there are as sound."""
    return [
        Listed(
            model,
            run / row["file"],
            {
                "predicted": row["class"],
                "confidence": float(row["confidence"]),
                "label": row["label"] or None,
                "bits": float(row["bits_per_sample"]) if row.get("bits_per_sample") else None,
            },
        )
        for row in read_clip_table(run / source / CLIP_TABLE)
        if row["file"]
    ]


def evenly_spaced(clips: list[Listed], count: int) -> list[Listed]:
    """At most `count` of the clips, from the first to the last.

    As many as a whole step would take, but not by that step: samples take their classes in turn, of which it
    would hear every second, or one alone.
    """
    if not clips:
        return []
    step = -(-len(clips) // count)
    places = np.linspace(0, len(clips) - 1, -(-len(clips) // step)).round().astype(int)
    return [clips[place] for place in places]


def read_alike(paths: Sequence[Path]) -> list[Waveform]:
    """The waveforms of files of one sample rate.

    Raises ValueError for a file that cannot be read, and where rates differ: that would be heard, and taken
    for a difference between models.
    """
    waveforms = [read_waveform(path) for path in paths]
    rates = {path: soundfile.info(path).samplerate for path in paths}
    for path, rate in rates.items():
        if rate != rates[paths[0]]:
            raise ValueError(
                f"{path} has {rate:,} samples a second, but {paths[0]} has {rates[paths[0]]:,}: convert them "
                "to one rate."
            )
    return waveforms


def summary(clips: Sequence[ListeningClip], metrics: Mapping[str, Mapping[str, str]]) -> Summary:
    """A row a model: what is on the page, then the metrics that an evaluation has found."""
    rows = {}
    for model in dict.fromkeys(clip.model for clip in clips):
        own = [clip for clip in clips if clip.model == model]
        bits = [clip.bits for clip in own if clip.bits is not None]
        cells = {"clips": f"{len(own):,}", "bits a sample": f"{fmean(bits):.3f}" if bits else ""}
        rows[model] = cells | dict(metrics.get(model, {}))
    return rows


def evaluation_facts(evaluation: Mapping[str, Any]) -> str:
    """What a listener must know of an evaluation, in sentences."""
    right = evaluation["classifier"]["test_accuracy"]
    return (
        f"Classes are those that a classifier hears, which is right on {right:.1%} of the test clips of "
        f"{evaluation['data']['name']}. Behind {PLUS_MINUS} stands half of a 95 % interval."
    )


def metric_cells(source: Mapping[str, Any]) -> dict[str, str]:
    """What an evaluation has found of all clips of a source; JSON has infinity as a text."""
    metrics = source["selections"][ALL]
    bits = source["nll_bits"]
    cells = {"measured": f"{metrics['clips']:,}", "test NLL": "" if bits is None else f"{bits:.3f}"}
    for key, name in METRICS.items():
        if key in metrics:
            low, high = (None if metrics[key][end] is None else float(metrics[key][end]) for end in ENDS)
            cells[name] = estimate_text(Estimate(float(metrics[key]["value"]), low, high))
    return cells


def estimate_text(estimate: Estimate) -> str:
    """A value with half its interval, to the second digit of that: 587 and 62, 7.92 and 0.11."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.3f}"
    reach = (estimate.high - estimate.low) / 2
    digits = min(3, max(0, 1 - math.floor(math.log10(reach)))) if reach > 0 else 3
    return f"{estimate.value:,.{digits}f} {PLUS_MINUS} {reach:,.{digits}f}"


if __name__ == "__main__":
    sys.exit(main())
