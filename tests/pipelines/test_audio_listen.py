"""Listening pages from folders: every clip with the entries of its index, or one clear error."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from audio.data.waveform import RATE
from audio.metrics.bootstrap import Estimate
from pipelines.audio_listen import ClipFile, Config, estimate_text, evenly_spaced, listen, main, model_names

INTERVAL = {"value": 1.5, "low": 1.25, "high": 1.75}


def write_sounds(folder: Path, *names: str, rate: int = RATE) -> Path:
    for seed, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(seed).integers(-1000, 1000, 400, dtype=np.int16)
        soundfile.write(path, samples, rate)
    return folder


def write_evaluation(folder: Path, metrics: Mapping[str, Any]) -> Path:
    """A run of audio_evaluate with one source, with a WAV file for one of its two clips."""
    write_sounds(folder / "mamba", "wav/00000.wav")
    (folder / "mamba" / "clips.tsv").write_text(
        "file\tlabel\tclass\tconfidence\tlog_likelihood\tbits_per_sample\n"
        "\t\tsix\t0.500000\t-100.0\t2.500000\n"
        "mamba/wav/00000.wav\t\tseven\t0.750000\t-100.0\t1.250000\n"
    )
    source = {"name": "mamba", "folder": "mamba", "nll_bits": 2.125, "selections": {"all": metrics}}
    facts = {"classifier": {"test_accuracy": 0.975}, "data": {"name": "fsdd"}}
    (folder / "evaluation.json").write_text(json.dumps(facts | {"sources": [source]}))
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main([*arguments, "output=page.html"]) == 1
    assert not Path("page.html").exists()
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def test_sound_alone_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    write_sounds(Path("sounds"), "clip10.wav", "clip2.flac")
    assert main(["folders=[sounds]", "output=page.html"]) == 0
    assert "Wrote 2 clip(s) of 1 model(s) to page.html" in capsys.readouterr().out
    page = Path("page.html").read_text()
    assert 0 < page.index('data-name="clip2"') < page.index('data-name="clip10"')


def test_index_of_audio_sample_gives_likelihoods() -> None:
    folder = write_sounds(Path("run/samples"), "sample_00000.wav", "sample_00001.wav")
    row = {"file": "sample_00001.wav", "label": "seven", "bits_per_sample": 2.5}
    (folder / "samples.json").write_text(json.dumps({"samples": [row]}))
    unknown, known = listen(Config([str(folder)]))
    assert (unknown.bits, unknown.label) == (None, None)
    assert (known.bits, known.label) == (2.5, "seven")


def test_evaluation_gives_classes_and_metrics() -> None:
    endless = {"value": "inf", "low": None, "high": None}
    metrics = {"clips": 2048, "fid": INTERVAL, "is": endless | {"value": 1.5}, "am": endless}
    folder = write_evaluation(Path("evaluation"), metrics)
    (clip,) = listen(Config([str(folder)]))
    assert clip[3:] == ("seven", 0.75, None, 1.25)
    page = Path("listening.html").read_text()
    assert '<td class="number">2,048</td>' in page
    assert '<td class="number">2.125</td><td class="number">1.50 \N{PLUS-MINUS SIGN} 0.25</td>' in page
    assert "right on 97.5% of the test clips of fsdd" in page
    assert '<td class="number">1.500</td><td class="number">inf</td>' in page
    assert "modified IS" not in page


def test_models_keep_the_given_order() -> None:
    write_sounds(Path("runs/b/samples"), "x.wav", "y.wav", "z.wav")
    write_sounds(Path("runs/a/samples"), "x.wav")
    clips = listen(Config(["runs/b/samples", "runs/a/samples"], count=2))
    assert [(clip.model, clip.name) for clip in clips] == [("b", "x"), ("b", "z"), ("a", "x")]


@pytest.mark.parametrize(("clips", "count"), [(100, 50), (1000, 50), (2048, 50), (60, 25), (30, 15)])
def test_clips_of_alternating_classes_include_every_class(clips: int, count: int) -> None:
    files = [ClipFile("model", Path(f"{number}.wav"), {"label": number % 10}) for number in range(clips)]
    selection = evenly_spaced(files, count)
    assert len(selection) <= count
    assert len({clip.path for clip in selection}) == len(selection)
    assert {clip.fields["label"] for clip in selection} == set(range(10))


def test_few_clips_are_spread_from_the_first_to_the_last() -> None:
    files = [ClipFile("model", Path(f"{number}.wav"), {}) for number in range(9)]
    assert evenly_spaced([], 3) == []
    assert evenly_spaced(files, 1) == files[:1]
    assert evenly_spaced(files, 3) == [files[0], files[4], files[8]]
    assert evenly_spaced(files, 9) == evenly_spaced(files, 50) == files


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["runs/a/samples"], ["runs/a/samples"]),
        (["runs/a/samples", "runs/b/samples"], ["a", "b"]),
        (["runs/a", "runs/a/old"], ["a", "a/old"]),
        (["a/x/s", "a/y/z/s"], ["x", "y/z"]),
    ],
)
def test_models_are_named_by_the_distinct_part_of_their_path(folders: list[str], names: list[str]) -> None:
    assert model_names(folders) == names


@pytest.mark.parametrize(
    ("value", "half", "text"),
    [
        (587.4, 61.7, "587 ± 62"),
        (4698.0, 1456.8, "4,698 ± 1,457"),
        (7.919, 0.106, "7.92 ± 0.11"),
        (0.0, 0.0, "0.000 ± 0.000"),
    ],
)
def test_intervals_have_two_significant_digits(value: float, half: float, text: str) -> None:
    assert estimate_text(Estimate(value, value - half, value + half)) == text


def test_bad_input_is_named_and_nothing_is_written(capsys: pytest.CaptureFixture[str]) -> None:
    good = write_sounds(Path("good"), "a.wav")
    Path("empty").mkdir()
    assert "empty holds no audio" in fails(capsys, "folders=[empty]")
    assert "There is no folder absent" in fails(capsys, f"folders=[{good},absent]")
    assert "twice" in fails(capsys, f"folders=[{good},./{good}]")
    assert "folders is empty" in fails(capsys, "folders=[]")
    assert "count is 0" in fails(capsys, "folders=[good]", "count=0")
    write_sounds(Path("slow"), "b.wav", rate=8000)
    error = fails(capsys, f"folders=[{good},slow]")
    assert "slow/b.wav has 8,000 samples per second, but good/a.wav has 16,000" in error
    (write_sounds(Path("broken"), "a.wav") / "b.wav").write_bytes(b"no sound at all")
    assert "broken/b.wav cannot be read as audio" in fails(capsys, "folders=[broken]")
    (good / "samples.json").write_text('{"samples": [')
    assert "good/samples.json is not the index" in fails(capsys, "folders=[good]")


def test_the_folder_of_a_page_is_created_and_a_page_cannot_be_a_folder(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_sounds(Path("good"), "a.wav")
    assert main(["folders=[good]", "output=pages/new/page.html"]) == 0
    assert Path("pages/new/page.html").is_file()
    assert main(["folders=[good]", "output=pages"]) == 1
    assert "output=pages is a folder. Give the name of the page" in capsys.readouterr().err


def test_an_existing_page_survives_a_failure() -> None:
    Path("listening.html").write_text("before")
    Path("empty").mkdir()
    assert main(["folders=[empty]"]) == 1
    assert Path("listening.html").read_text() == "before"
