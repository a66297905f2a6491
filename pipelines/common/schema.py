"""Schemas: the keys of a configuration's dataclass, and how they are shown to the reader.

`metadata={"help": ...}` of a field is its line in `--help`.
"""

import dataclasses
import difflib
import textwrap
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING

WIDTH, INDENT = 100, 6 * " "


@dataclass(frozen=True)
class Key:
    """One key of a schema: its type, its value when nobody sets it (MISSING: must be given), its help."""

    type: Any
    default: Any
    help: str


def schema_keys(schema: type, prefix: str = "") -> dict[str, Key]:
    """Every dotted key of a schema in order of declaration."""
    found: dict[str, Key] = {}
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind, key = hints[item.name], f"{prefix}{item.name}"
        default = _default(item)
        if not dataclasses.is_dataclass(kind):
            found[key] = Key(kind, default, item.metadata.get("help", ""))
            continue
        for name, inner in schema_keys(typing.cast(type, kind), f"{key}.").items():
            value = inner.default if default == MISSING else _reach(default, name[len(key) + 1 :])
            found[name] = dataclasses.replace(inner, default=value)
    return found


def flag_names(known: Mapping[str, Key]) -> list[str]:
    """The true-or-false keys of the top level, which may be given as --name."""
    return [key for key, entry in known.items() if entry.type is bool and "." not in key]


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """At most three keys whose last part is like that of `key`, those that are like it as a whole first."""

    def likeness(candidate: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return last, difflib.SequenceMatcher(None, key, candidate).ratio()

    like = [candidate for candidate in known if likeness(candidate)[0] > 0.6]
    return sorted(like, key=likeness, reverse=True)[:3]


def help_text(known: Mapping[str, Key], script: str, description: str, configs: Iterable[str]) -> str:
    """The page that `--help` prints: usage, the script's own description, the configurations, every key."""
    flags = "".join(f" [--{name.replace('_', '-')}]" for name in flag_names(known))
    lines = [
        f"usage: python -m pipelines.{script} [--config NAME|FILE]{flags} [key=value ...]",
        "",
        description.strip(),
        "",
        f"--config takes a YAML file, or the name of one in pipelines/configs: {', '.join(configs)}.",
        "An argument key=value wins over the file, the file over the default.",
        "",
        "keys:",
    ]
    for key, entry in known.items():
        default = "required" if entry.default == MISSING else f"default {_value_text(entry.default)}"
        lines += [f"  {key}  ({type_text(entry.type)}; {default})"]
        lines += textwrap.wrap(entry.help, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def type_text(kind: Any) -> str:
    """A type in the reader's words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is list:
        return f"a list, each {type_text(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)}, each {type_text(arguments[0])}"
    if kind is Any:
        return "a value"
    plain = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _reach(instance: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        instance = getattr(instance, name)
    return instance


def _value_text(value: Any) -> str:
    """A default as YAML would have it, on one line."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
