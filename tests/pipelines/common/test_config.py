"""Configurations: the file overrides defaults, arguments override the file, and errors are clear."""

from dataclasses import FrozenInstanceError, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import pytest
from omegaconf import MISSING

from pipelines.common import config
from pipelines.common.config import (
    ConfigError,
    Key,
    RunConfig,
    flag_names,
    help_text,
    merge,
    nearest,
    parse_config,
    read_yaml,
    require_same_settings,
    run_state,
    schema_keys,
    type_text,
)


@dataclass
class Data:
    fasta: str = field(metadata={"help": "the genome"})
    bed: str | None = field(default=None, metadata={"help": "the intervals"})
    length: int = field(default=1024, metadata={"help": "bases in a window"})
    split: Literal["paper", "strict"] = field(default="strict", metadata={"help": "rule of the splits"})


@dataclass
class Train:
    lr: float = field(default=1e-3, metadata={"help": "peak learning rate"})
    betas: tuple[float, float] = field(default=(0.9, 0.95), metadata={"help": "AdamW's betas"})
    names: list[str] = field(default_factory=lambda: ["a"], metadata={"help": "names"})


@dataclass
class Config:
    data: Data = field(default_factory=lambda: Data(fasta=MISSING, length=256))
    train: Train = field(default_factory=Train)
    resume: bool = field(default=False, metadata={"help": "continue the run"})


def parse(*arguments: str) -> Config:
    return parse_config(Config, arguments, "some_script", "Description.")


def fails(*arguments: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(*arguments)
    return str(caught.value)


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text("data:\n  fasta: file.fa\n  length: 512\ntrain: {lr: 1e-2}\n")
    return file


def test_defaults_then_file_then_arguments(yaml_file: Path) -> None:
    loaded = parse("data.length=64", "--config", str(yaml_file), "train.betas=[0.8, 0.9]")
    assert loaded == Config(data=Data("file.fa", None, 64, "strict"), train=Train(1e-2, (0.8, 0.9), ["a"]))


def test_the_last_argument_wins() -> None:
    assert parse("data.fasta=x", "data.length=1", "data.length=2").data.length == 2


def test_a_schema_may_override_the_defaults_of_its_parts() -> None:
    assert parse("data.fasta=x").data.length == 256


@pytest.mark.parametrize("flag", ["--resume", "resume=true"])
def test_a_boolean_key_is_also_a_flag(flag: str) -> None:
    assert parse("data.fasta=x", flag).resume is True


@pytest.mark.parametrize("text", ["a b", "a=b.fa", "chr #2: x.fa", "01", "~x", "[x"])
def test_text_is_literal(text: str) -> None:
    assert parse(f"data.fasta={text}").data.fasta == text


def test_null_unsets_an_optional_key() -> None:
    assert parse("data.fasta=x", "data.bed=b.bed", "data.bed=null").data.bed is None


def test_a_configuration_is_found_by_name(monkeypatch: pytest.MonkeyPatch, yaml_file: Path) -> None:
    monkeypatch.setattr(config, "CONFIGS", yaml_file.parent)
    assert parse("--config=run").data.length == 512
    message = fails("--config", "rum")
    assert "rum" in message
    assert "Did you mean run?" in message


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# only a comment\n")
    assert read_yaml(str(tmp_path / "empty.yaml")) == []


@pytest.mark.parametrize(
    ("key", "neighbour"),
    [
        ("data.fata", "data.fasta"),
        ("lr", "train.lr"),
        ("model.length", "data.length"),
        ("data.lentgh", "data.length"),
    ],
)
def test_an_unknown_key_names_its_neighbour_and_its_origin(key: str, neighbour: str, tmp_path: Path) -> None:
    message = fails("data.fasta=x", f"{key}=1")
    assert neighbour in message
    assert f"'{key}=1'" in message
    assert "argument" in message
    file = tmp_path / "bad.yaml"
    group, _, name = key.rpartition(".")
    file.write_text(f"resume: true\n{group}:\n  {name}: 1\n" if group else f"resume: true\n\n{name}: 1\n")
    message = fails("data.fasta=x", "--config", str(file))
    assert neighbour in message
    assert f"{file}, line 3" in message


def test_an_unknown_key_without_a_neighbour_points_to_help() -> None:
    assert "--help" in fails("data.fasta=x", "qqqqqq=1")


def test_a_group_lists_its_keys() -> None:
    assert "data.length" in fails("data=3")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("data.length=many", "an integer"),
        ("data.length=1.5", "an integer"),
        ("data.length=true", "an integer"),
        ("data.length=null", "an integer"),
        ("train.lr=fast", "a number"),
        ("resume=perhaps", "true or false"),
        ("data.split=loose", "one of paper, strict"),
        ("train.betas=[1]", "a list of 2 numbers"),
        ("train.names=a", "a list of texts"),
        ("train.names=[chr20: 1-100]", "a list of texts"),
        ("train.names=[chr20:]", "a list of texts"),
        ("train.names=[[a]]", "a list of texts"),
    ],
)
def test_a_wrong_type_names_key_value_and_expectation(argument: str, expected: str) -> None:
    key, _, value = argument.partition("=")
    message = fails("data.fasta=x", argument)
    assert key in message
    assert expected in message
    assert "is " in message
    assert value in message or value in ("null", "true", "[1]")


def test_a_missing_value_names_its_argument() -> None:
    assert "data.fasta=..." in fails()


@pytest.mark.parametrize("text", ["data.fasta", "=3", "--dry", "--config", "--config=", "train.lr=[1"])
def test_malformed_arguments_are_rejected(text: str) -> None:
    assert text.split("=")[0] in fails("data.fasta=x", text)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("data:\n  fasta: [1\n", 3),
        ("data:\n\tlength: 1\n", 2),
        ("- a\n- b\n", 1),
        ("data:\n  length: !!python/object/apply:os.getcwd []\n", 2),
        ("data:\n  length: 1\n  length: 2\n", 3),
    ],
)
def test_a_yaml_error_names_file_and_line(text: str, line: int, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    assert f"{file}, line {line}" in fails("data.fasta=x", "--config", str(file))


def test_a_binary_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"data: \xff\xfe")
    assert "UTF-8" in fails("--config", str(tmp_path / "bad.yaml"))


@pytest.mark.parametrize("value", ["${oc.env:HOME}", "${data.bed}", "a${x"])
def test_interpolation_is_rejected(value: str, tmp_path: Path) -> None:
    assert "plain values" in fails(f"data.fasta={value}")
    (tmp_path / "bad.yaml").write_text(f"train:\n  names: [b, '{value}']\ndata: {{fasta: x}}\n")
    assert "plain values" in fails("--config", str(tmp_path / "bad.yaml"))


def test_help_lists_every_key_with_type_default_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse("data.length=wrong", "--help")
    page = capsys.readouterr().out
    assert caught.value.code == 0
    assert "python -m pipelines.some_script" in page
    assert "Description." in page
    assert "[--resume]" in page
    for key, entry in schema_keys(Config).items():
        assert f"  {key}  (" in page
        assert entry.help in page
    assert "data.fasta  (text; required)" in page
    assert "data.length  (an integer; default 256)" in page
    assert "data.bed  (text or null; default null)" in page


@dataclass(frozen=True)
class FrozenPart:
    path: str = field(metadata={"help": "file"})
    lengths: list[int] = field(default_factory=lambda: [1, 2], metadata={"help": "lengths"})


@dataclass(frozen=True)
class Frozen:
    part: FrozenPart = field(default_factory=lambda: FrozenPart(path=MISSING, lengths=[3]))
    train: Train = field(default_factory=Train)
    run: RunConfig = field(default_factory=lambda: RunConfig("runs/x"))

    def __post_init__(self) -> None:
        if self.train.lr <= 0:
            raise ValueError(f"train.lr is {self.train.lr}; it must be positive.")


def test_a_frozen_schema_is_parsed_and_stays_frozen(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("part:\n  lengths: [4, 5]\n")
    arguments = ["--config", str(file), "part.path=x", "train.lr=0.5", "run.dir=r"]
    parsed = parse_config(Frozen, arguments, "script", "")
    assert parsed == Frozen(FrozenPart("x", [4, 5]), Train(0.5), RunConfig("r"))
    assert parse_config(Frozen, ["part.path=x"], "script", "").part.lengths == [3]
    for part, key in ((parsed, "train"), (parsed.part, "path"), (parsed.run, "dir")):
        with pytest.raises(FrozenInstanceError):
            setattr(part, key, None)
    with pytest.raises(ConfigError, match=r"part\.lengths"):
        parse_config(Frozen, ["part.path=x", "part.lengths=many"], "script", "")
    with pytest.raises(ValueError, match=r"train.lr is -1.0"):
        parse_config(Frozen, ["part.path=x", "train.lr=-1"], "script", "")


def test_a_run_with_other_settings_is_rejected_by_key(tmp_path: Path) -> None:
    config = merge(Frozen, read_yaml(str(_run_yaml(tmp_path, "part: {path: x}\ntrain: {lr: 0.5}\n"))))
    folder = tmp_path / "run"
    require_same_settings(folder, config)
    assert run_state(folder) == "new"
    folder.mkdir()
    (folder / "config.yaml").write_text("part: {path: x}\ntrain: {lr: 0.25}\nrun: {dir: moved}\n")
    assert run_state(folder) == "started"
    with pytest.raises(ConfigError, match=r"train\.lr is 0\.25 there and 0\.5 here") as caught:
        require_same_settings(folder, config)
    assert "run.dir is" not in str(caught.value)
    require_same_settings(folder, config, ignored=("train.lr",))
    (folder / "summary.json").write_text("{}")
    assert run_state(folder) == "finished"


def _run_yaml(folder: Path, text: str) -> Path:
    path = folder / "settings.yaml"
    path.write_text(text)
    return path


@dataclass
class Part:
    path: str
    count: int = field(default=1, metadata={"help": "number"})


@dataclass
class Whole:
    first: Part = field(default_factory=lambda: Part(path=MISSING, count=5))
    second: Part = field(default_factory=lambda: Part("there"))
    names: list[str] = field(default_factory=list)
    dry_run: bool = False


def test_keys_are_dotted_and_have_the_defaults_of_their_group() -> None:
    assert schema_keys(Whole) == {
        "first.path": Key(str, MISSING, ""),
        "first.count": Key(int, 5, "number"),
        "second.path": Key(str, "there", ""),
        "second.count": Key(int, 1, "number"),
        "names": Key(list[str], [], ""),
        "dry_run": Key(bool, False, ""),
    }


def test_only_boolean_keys_of_the_top_level_are_flags() -> None:
    assert flag_names(schema_keys(Whole)) == ["dry_run"]


def test_neighbours_are_similar_in_their_last_part() -> None:
    assert nearest("data.fast", ["data.fasta", "data.split", "train.steps"]) == ["data.fasta"]
    assert nearest("data.len", ["train.len", "data.len"]) == ["data.len", "train.len"]
    assert nearest("qqq", ["data.len"]) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "an integer"),
        (float | None, "a number or null"),
        (Literal["a", "b"], "one of a, b"),
        (list[str], "a list of texts"),
        (tuple[float, float], "a list of 2 numbers"),
        (Any, "a value"),
        (dict, "dict"),
    ],
)
def test_types_have_plain_names(kind: Any, text: str) -> None:
    assert type_text(kind) == text


def test_defaults_are_shown_as_yaml() -> None:
    known = {"a": Key(str, "", ""), "b": Key(str | None, None, ""), "c": Key(list[int], [1, 2], "")}
    page = help_text(known, "script", "Description.", ["one", "two"])
    assert "a  (text; default '')" in page
    assert "b  (text or null; default null)" in page
    assert "c  (a list of integers; default [1, 2])" in page
    assert "pipelines/configs: one, two." in page


@pytest.mark.parametrize(
    "name", ["010", "1_2", "1.10", "1e3", "0x1F", "null", "yes", "12:30:45", "2024-01-01"]
)
def test_names_that_look_like_numbers_stay_text(name: str, tmp_path: Path) -> None:
    assert parse("data.fasta=x", f"train.names=[{name}, b]").train.names == [name, "b"]
    (tmp_path / "names.yaml").write_text(f"data: {{fasta: x{name}}}\ntrain: {{names: [{name}]}}\n")
    assert parse("--config", str(tmp_path / "names.yaml")).train.names == [name]
    if name != "null":
        assert parse(f"data.fasta={name}").data.fasta == name
        (tmp_path / "text.yaml").write_text(f"data: {{fasta: {name}}}\n")
        assert parse("--config", str(tmp_path / "text.yaml")).data.fasta == name


BOMB = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in pairwise("abcdefghijklmnop"))


@pytest.mark.parametrize(
    "content",
    [
        "data:\n  fasta: a\x07b\n",
        "data:\0\n",
        "a: &a [*a]\n",
        "data: &a {fasta: *a}\n",
        "{" * 3000,
        "[" * 3000,
        "a: " + "{a: " * 3000,
        BOMB,
        "train:\n  names: ['???']\n",
        "train:\n  names: [[[]]]\n",
        "- a\n",
        "text\n",
        "? [a]\n: b\n",
        "train: {lr: 2024-13-45}\n",
        "train: {lr: !!int x}\n",
        f"data: {{length: {'9' * 5000}}}\n",
        "resume: 1\nresume: 2\n",
        "a: 1\n---\nb: 2\n",
        "#" * (2 << 20),
    ],
)
def test_hostile_yaml_is_one_sentence_with_the_file(content: str, tmp_path: Path) -> None:
    file = tmp_path / "hostile.yaml"
    file.write_text(content)
    message = fails("data.fasta=x", "--config", str(file))
    assert str(file) in message
    assert "\n" not in message
    assert len(message) < 6000


def test_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfdata: {fasta: x}\n")
    assert parse("--config", str(tmp_path / "bom.yaml")).data.fasta == "x"


@pytest.mark.parametrize("value", ["[" * 3000, "[???]", "&a [*a]", "[a\x07]"])
def test_hostile_arguments_are_refused_by_key(value: str) -> None:
    assert "train.names" in fails("data.fasta=x", f"train.names={value}")
