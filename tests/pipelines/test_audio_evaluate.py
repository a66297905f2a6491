"""Evaluations of folders and models: their content, their resumption, and bad input."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from audio.data.quantizer import decode, encode
from audio.data.sample_index import read_index
from audio.data.waveform import RATE, read_waveform
from audio.evaluation import sources
from audio.evaluation.report import read_report
from audio.evaluation.sources import read_clip_table
from audio.evaluation.trained_classifier import FILE
from pipelines import audio_evaluate, audio_listen, audio_sample
from tests.pipelines.digits import write_digits


@pytest.fixture
def base(classifier: Path, digits: Path) -> list[str]:
    return [f"classifier={classifier}", "data.source=fsdd", f"data.folder={digits}", "run.dir=run"]


MODEL = ["names=[tiny]", "count=4", "seconds=0.01", "resamples=2"]


@pytest.fixture(scope="module")
def evaluated(
    classifier: Path, digits: Path, audio_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Return the run folder of an evaluation of a model; tests copy it before they change it."""
    folder = tmp_path_factory.mktemp("evaluated") / "run"
    data = ["data.source=fsdd", f"data.folder={digits}", f"models=[{audio_model}]"]
    assert audio_evaluate.main([f"classifier={classifier}", *data, *MODEL, f"run.dir={folder}"]) == 0
    return folder


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the only error message, and check that there is no report."""
    assert audio_evaluate.main([*arguments]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert not Path("run/evaluation.json").exists()
    return error


def folder_of_digits(folder: str, digits: Path, pattern: str = "*_1[0-9].wav") -> Path:
    """Copy some of the digits into a new folder."""
    Path(folder).mkdir()
    for path in digits.glob(pattern):
        shutil.copy(path, folder)
    return Path(folder)


class TestFolders:
    def test_the_report_is_complete(
        self, base: list[str], digits: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder_of_digits("mine", digits)
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=3"]) == 0
        printed = capsys.readouterr().out
        report = read_report(Path("run"))
        assert [source["name"] for source in report["sources"]] == ["train", "test", "mine"]
        assert report["data"]["counts"] == {"train": 50, "valid": 50, "test": 50}
        assert len(report["classifier"]["sha256"]) == 64
        assert report["mode"] == "correct"
        for source in report["sources"]:
            metrics = source["selections"]["all"]
            assert metrics["fid"]["low"] <= metrics["fid"]["value"] <= metrics["fid"]["high"]
            shares = [metric["value"] for name, metric in metrics.items() if name.startswith("share_")]
            assert (len(shares), sum(shares)) == (10, pytest.approx(1))
            assert source["name"] in printed
        train, _, mine = report["sources"]
        assert train["selections"]["all"]["fid"]["value"] == pytest.approx(0, abs=1e-6)
        assert train["accuracy"] == pytest.approx(report["classifier"]["training"]["accuracy"]["train"])
        assert mine["accuracy"] is None
        assert list(mine["selections"]) == ["all"]
        assert {path.name for path in Path("run").glob("*.png")} == {"metrics.png", "shares.png"}

    def test_the_tables_of_clips_agree_with_the_arrays(self, base: list[str], digits: Path) -> None:
        folder_of_digits("mine", digits)
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        for source in read_report(Path("run"))["sources"]:
            folder = Path("run") / source["folder"]
            rows = read_clip_table(folder / "clips.tsv")
            probabilities = np.exp(np.load(folder / "log_probabilities.npy"))
            assert np.load(folder / "features.npy").shape == (len(rows), 128)
            assert len(rows) == source["clips"]
            np.testing.assert_allclose(
                [float(row["confidence"]) for row in rows], probabilities.max(axis=1), atol=1e-6
            )
            sounds = [Path("run") / row["file"] for row in rows if row["file"]]
            assert sounds
            assert all(soundfile.info(path).samplerate == RATE for path in sounds)

    def test_clips_are_classified_once_until_they_change(
        self, base: list[str], digits: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        folder_of_digits("mine", digits)
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        before = read_report(Path("run"))["sources"]
        calls: list[str] = []
        predict = sources.predict
        monkeypatch.setattr(
            sources, "predict", lambda model, batches: calls.append("one") or predict(model, batches)
        )
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        assert calls == []
        assert read_report(Path("run"))["sources"] == before
        shutil.copy("mine/3_speaker0_11.wav", "mine/4_speaker0_11.wav")
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        assert calls == ["one"]

    def test_incomplete_predictions_are_recomputed(self, base: list[str]) -> None:
        assert audio_evaluate.main([*base, "resamples=0"]) == 0
        before = read_report(Path("run"))["sources"]
        train, test = Path("run/train/features.npy"), Path("run/test/judged.json")
        whole = train.read_bytes(), test.read_bytes()
        train.unlink()
        test.write_bytes(whole[1][:-10])
        assert audio_evaluate.main([*base, "resamples=0"]) == 0
        assert (train.read_bytes(), test.read_bytes()) == whole
        assert read_report(Path("run"))["sources"] == before

    def test_a_truncated_array_is_recomputed(self, base: list[str]) -> None:
        assert audio_evaluate.main([*base, "resamples=0"]) == 0
        array = Path("run/test/log_probabilities.npy")
        content = array.read_bytes()
        key = json.loads(Path("run/test/judged.json").read_text())
        for length in (0, 20, len(content) - 10):
            array.write_bytes(content[:length])
            assert sources.read_predictions(array.parent, key) is None
        assert audio_evaluate.main([*base, "resamples=0"]) == 0
        assert array.read_bytes() == content

    def test_the_table_follows_the_files_and_their_index(self, base: list[str], digits: Path) -> None:
        folder = folder_of_digits("mine", digits, "[0-2]_*_1[0-9].wav")
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        names = sorted(path.name for path in folder.glob("*.wav"))
        known = {"label": "zero", "log_likelihood": -5.0, "bits_per_sample": 2.5}
        (folder / "samples.json").write_text(json.dumps({"samples": [{"file": n} | known for n in names]}))
        Path("moved").mkdir()
        shutil.move("mine", "moved/mine")
        assert audio_evaluate.main([*base, "folders=[moved/mine]", "resamples=0"]) == 0
        rows = read_clip_table(Path("run/mine/clips.tsv"))
        assert all((Path("run") / row["file"]).is_file() for row in rows)
        assert {(row["label"], float(row["log_likelihood"])) for row in rows} == {("zero", -5.0)}

    def test_sounds_of_a_split_follow_the_data(self, base: list[str]) -> None:
        assert audio_evaluate.main([*base, "resamples=0"]) == 0
        assert audio_evaluate.main([*base, "resamples=0", "data.quantizer=linear"]) == 0
        sounds = [read_waveform(path) for path in Path("run/train/wav").glob("*.wav")]
        assert len(sounds) == 50
        for sound in sounds:
            assert np.array_equal(decode(encode(sound, "linear"), "linear"), sound)

    def test_bits_exclude_the_prompt(self, base: list[str], audio_model: Path, digits: Path) -> None:
        prompt = next(digits.glob("*.wav"))
        call = [f"checkpoint={audio_model}", f"prompt={prompt}", "seconds=0.01", "count=3", "output=mine"]
        assert audio_sample.main(call) == 0
        assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0"]) == 0
        expected = [row["bits_per_sample"] for row in read_index(Path("mine/samples.json"))]
        for page in (["mine"], ["run"]):
            shown = audio_listen.listen(audio_listen.Config(page))
            bits = [clip.bits for clip in shown if clip.bits is not None]
            assert sorted(bits) == sorted(expected)

    def test_changes_to_clips_are_noted(self, base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        Path("odd").mkdir()
        sound = np.random.default_rng(0).normal(size=3 * RATE) * 0.1
        soundfile.write("odd/slow.wav", sound[:8000], 8000)
        soundfile.write("odd/long.wav", sound, RATE)
        soundfile.write("odd/short.wav", sound[:5000], RATE)
        assert audio_evaluate.main([*base, "folders=[odd]", "resamples=0"]) == 0
        printed = capsys.readouterr().out
        assert "odd: 1 of the 3 clips had another rate and were converted to 16,000 Hz." in printed
        assert "odd: 1 of the 3 clips were longer than a second and were cut." in printed
        assert "odd: 1 of the 3 clips were shorter than a second and were padded with silence." in printed
        assert "odd: These 3 clips give a covariance of 128 features the rank 2 at most" in printed

    def test_a_classifier_of_another_split_is_noted(
        self, base: list[str], classifier: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = write_digits(Path("three"), takes=[0, 9, 10], speakers=(1, 2, 3))
        arguments = [*base, "data.source=fsdd_by_speaker", f"data.folder={folder}", "resamples=0"]
        assert audio_evaluate.main(arguments) == 0
        printed = capsys.readouterr().out
        assert "test: The classifier was trained on fsdd, but these clips are of fsdd-by-speaker" in printed

    def test_paper_mode_changes_the_inception_score(self, base: list[str], digits: Path) -> None:
        folder_of_digits("mine", digits, "[0-3]_*_1[0-9].wav")
        scores = []
        for mode in ("correct", "paper"):
            assert audio_evaluate.main([*base, "folders=[mine]", "resamples=0", f"mode={mode}"]) == 0
            scores.append(read_report(Path("run"))["sources"][2]["selections"]["all"])
        assert scores[0]["is"] != scores[1]["is"]
        assert scores[0]["am"] == scores[1]["am"]


class TestModels:
    def test_a_model_is_measured_on_both_selections(self, evaluated: Path) -> None:
        source = read_report(evaluated)["sources"][2]
        assert (source["name"], source["kind"], source["quantizer"]) == ("tiny", "model", "mulaw")
        assert 0 < source["nll_bits"] < 9
        assert source["selections"]["all"]["clips"] == 4
        assert source["selections"]["40/95"]["clips"] == 2
        assert len(source["checkpoint_sha256"]) == 64
        index = read_index(evaluated / "tiny/wav/samples.json")
        likelihoods = {row["file"]: row["log_likelihood"] for row in index}
        for row in read_clip_table(evaluated / "tiny/clips.tsv"):
            assert float(row["log_likelihood"]) == likelihoods[Path(row["file"]).name]

    def test_the_same_command_repeats_no_work(
        self, base: list[str], audio_model: Path, evaluated: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(evaluated, "run")
        monkeypatch.setattr(audio_evaluate, "likelihood", lambda *_, **__: pytest.fail("measured again"))
        assert audio_evaluate.main([*base, *MODEL, f"models=[{audio_model}]"]) == 0
        again, before = (read_report(folder)["sources"][2] for folder in (Path("run"), evaluated))
        assert again == before
        for wav in (evaluated / "tiny/wav").glob("*.wav"):
            assert (Path("run/tiny/wav") / wav.name).read_bytes() == wav.read_bytes()

    def test_damaged_likelihoods_and_other_windows_are_measured_again(
        self, base: list[str], audio_model: Path, evaluated: Path
    ) -> None:
        shutil.copytree(evaluated, "run")
        Path("run/tiny/likelihood.json").write_text('{"of": ')
        bits = []
        for options in ([], ["data.length=9000"], ["data.length=9000", "data.keep_rest=false"]):
            assert audio_evaluate.main([*base, *MODEL, f"models=[{audio_model}]", *options]) == 0
            bits.append(read_report(Path("run"))["sources"][2]["nll_bits"])
        assert bits[0] == read_report(evaluated)["sources"][2]["nll_bits"]
        assert len(set(bits)) == 3

    def test_samples_of_other_options_are_rejected(
        self, base: list[str], audio_model: Path, evaluated: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        shutil.copytree(evaluated, "run")
        Path("run/evaluation.json").unlink()
        assert "seed" in fails(capsys, *base, *MODEL, f"models=[{audio_model}]", "seed=1")

    def test_rows_of_a_table_are_updated_and_others_stay(
        self, base: list[str], audio_model: Path, evaluated: Path
    ) -> None:
        shutil.copytree(evaluated, "run")
        other = {"data": "fsdd", "model": "tiny", "run": "runs/other", "nll_bits": 1.9}
        known = {"data": "fsdd", "model": "Mamba", "run": str(audio_model), "nll_bits": 3.0, "fid": None}
        Path("audio.json").write_text(json.dumps({"command": "python -m x", "rows": [other, known]}))
        for _ in range(2):
            assert audio_evaluate.main([*base, *MODEL, f"models=[{audio_model}]", "results=audio.json"]) == 0
        content = json.loads(Path("audio.json").read_text())
        assert content["command"].startswith("python -m x; python -m pipelines.audio_evaluate ")
        assert content["command"].count("audio_evaluate") == 1
        assert content["rows"][0] == other
        assert [row["model"] for row in content["rows"]] == ["tiny", "Mamba", "train", "test"]
        filled = content["rows"][1]
        assert filled["nll_bits"] == 3.0
        assert filled["fid"] > 0
        assert {"parameters", "is", "mis", "am", "selected_fid", "fid_interval"} <= filled.keys()

    def test_a_model_of_another_split_is_noted(self, audio_model: Path) -> None:
        config = replace(audio_evaluate.Config("c").data, source="fsdd_by_speaker", sha256="0")
        file = audio_sample.Config(checkpoint=str(audio_model)).checkpoint_file
        (note,) = audio_evaluate.training_notes(file, config)
        assert "another split (fsdd), than the measured ones (fsdd_by_speaker)" in note


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["folders=[absent]"], "no folder absent"),
            (["models=[absent]"], "absent"),
            (["folders=[a/x,b/x]"], "'x' cannot name a source"),
            (["folders=[a/train]"], "'train' cannot name a source"),
            (["folders=[.]"], "'' cannot name a source"),
            (["folders=[..]"], "'..' cannot name a source"),
            (["folders=[a]", "names=[b,c]"], "names has 2 entries for 1 models and folders"),
            (["count=1"], "count is 1"),
            (["resamples=-1"], "resamples is -1"),
            (["mode=wrong"], "mode"),
            (["classifier=absent"], "absent"),
        ],
    )
    def test_configuration(
        self, base: list[str], arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert message in fails(capsys, *base, *arguments)

    def test_a_classifier_of_other_classes(
        self, base: list[str], digits: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        error = fails(capsys, *base, "data.source=folder", f"data.folder={digits}")
        assert "has the classes zero, one, two" in error
        assert "has the classes (none)" in error

    def test_another_kind_of_checkpoint_is_rejected(
        self, base: list[str], audio_model: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file = audio_sample.Config(checkpoint=str(audio_model)).checkpoint_file
        assert "is not a classifier" in fails(capsys, *base, f"classifier={file}")

    def test_a_damaged_classifier(
        self, base: list[str], classifier: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path(FILE).write_bytes((classifier / FILE).read_bytes()[:-50])
        assert f"{FILE} is truncated" in fails(capsys, *base, f"classifier={FILE}")

    @pytest.mark.parametrize(
        ("samples", "message"),
        [(np.zeros(0), "holds no samples"), (np.full(9, np.nan), "holds NaN")],
        ids=["empty", "not finite"],
    )
    def test_invalid_clips(
        self, samples: np.ndarray, message: str, base: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        Path("bad").mkdir()
        soundfile.write("bad/a.wav", np.zeros(100), RATE)
        soundfile.write("bad/b.wav", samples, RATE, subtype="FLOAT")
        error = fails(capsys, *base, "folders=[bad]")
        assert message in error
        assert "b.wav" in error
        assert not Path("run/bad/features.npy").exists()

    def test_one_clip(self, base: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        Path("one").mkdir()
        soundfile.write("one/a.wav", np.zeros(100), RATE)
        assert "one has 1 clip(s); a Frechet" in fails(capsys, *base, "folders=[one]")
        assert not Path("run/one").exists()

    @pytest.mark.parametrize("content", ["# no table", '{"a": 1}', "[]", None])
    def test_a_file_that_is_not_a_table_stays_unchanged(
        self, content: str | None, base: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = Path("mine.json")
        path.mkdir() if content is None else path.write_text(content)
        assert "mine.json is not a published table" in fails(capsys, *base, "results=mine.json")
        assert content is None or path.read_text() == content
        assert not Path("run").exists()

    def test_an_index_of_other_files(
        self, base: list[str], digits: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        folder = folder_of_digits("mine", digits)
        (folder / "samples.json").write_text('{"samples": [{"file": "gone.wav"}]}')
        assert "lists 1 files, but the folder holds 50" in fails(capsys, *base, "folders=[mine]")


def test_a_damaged_report_names_its_remedy(tmp_path: Path) -> None:
    report = tmp_path / "evaluation.json"
    report.write_text('{"sources": [')
    with pytest.raises(ValueError, match=r"evaluation\.json is damaged .*Run audio_evaluate again"):
        read_report(tmp_path)
