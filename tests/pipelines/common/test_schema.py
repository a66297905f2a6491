"""Schemas: every key is found with its own default, its type in plain words, its nearest neighbours."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from omegaconf import MISSING

from pipelines.common.schema import Key, flag_names, help_text, nearest, schema_keys, type_text


@dataclass
class Part:
    path: str
    count: int = field(default=1, metadata={"help": "how many"})


@dataclass
class Whole:
    first: Part = field(default_factory=lambda: Part(path=MISSING, count=5))
    second: Part = field(default_factory=lambda: Part("there"))
    names: list[str] = field(default_factory=list)
    dry_run: bool = False


def test_keys_are_dotted_and_carry_the_defaults_of_where_they_stand() -> None:
    assert schema_keys(Whole) == {
        "first.path": Key(str, MISSING, ""),
        "first.count": Key(int, 5, "how many"),
        "second.path": Key(str, "there", ""),
        "second.count": Key(int, 1, "how many"),
        "names": Key(list[str], [], ""),
        "dry_run": Key(bool, False, ""),
    }


def test_only_true_or_false_keys_of_the_top_level_are_flags() -> None:
    assert flag_names(schema_keys(Whole)) == ["dry_run"]


def test_neighbours_are_alike_in_their_own_name_not_only_in_their_group() -> None:
    assert nearest("data.fast", ["data.fasta", "data.split", "train.steps"]) == ["data.fasta"]
    assert nearest("data.len", ["train.len", "data.len"]) == ["data.len", "train.len"]
    assert nearest("qqq", ["data.len"]) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (int, "a whole number"),
        (float | None, "a number or null"),
        (Literal["a", "b"], "one of a, b"),
        (list[str], "a list, each text"),
        (tuple[float, float], "a list of 2, each a number"),
        (Any, "a value"),
        (dict, "dict"),
    ],
)
def test_types_are_named_in_the_reader_s_words(kind: Any, text: str) -> None:
    assert type_text(kind) == text


def test_defaults_are_shown_as_they_are_written() -> None:
    known = {"a": Key(str, "", ""), "b": Key(str | None, None, ""), "c": Key(list[int], [1, 2], "")}
    page = help_text(known, "script", "What it does.", ["one", "two"])
    assert "a  (text; default '')" in page
    assert "b  (text or null; default null)" in page
    assert "c  (a list, each a whole number; default [1, 2])" in page
    assert "pipelines/configs: one, two." in page
