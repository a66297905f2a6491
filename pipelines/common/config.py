"""Configurations: the defaults of a dataclass, then a YAML file, then `key=value` arguments.

A schema is a dataclass of plain values and of further dataclasses; `metadata={"help": ...}` of a field is its
line in `--help`. OmegaConf merges and checks the types. Values are data only: nothing in a configuration is
ever executed, interpolated or looked up.
"""

import typing
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.suggestion import did_you_mean
from pipelines.common.schema import Key, flag_names, help_text, nearest, schema_keys, type_text

CONFIGS = Path(__file__).parents[1] / "configs"
Schema = TypeVar("Schema")


class ConfigError(ValueError):
    """A configuration that cannot be used: what is wrong, where it was given, and what to do."""


@dataclass
class RunConfig:
    """Where a run writes. `resume=true` continues it with the configuration it was started with."""

    dir: str = field(metadata={"help": "the run's own folder"})


@dataclass(frozen=True)
class Setting:
    """One value that the user gave, and where: a line of a file, or an argument."""

    key: str
    value: Any
    where: str


def parse_config(schema: type[Schema], arguments: Sequence[str], script: str, description: str) -> Schema:
    """Read a pipeline's command line: `[--config NAME|FILE] [--flag ...] [key=value ...]`, or `--help`.

    A true-or-false key of the top level may also be given as a flag: `--dry-run` is `dry_run=true`. Later
    settings win over earlier ones, arguments over the file; with `resume=true` both win over the config.yaml
    in run.dir. `--help` prints every key and exits with 0.
    Raises ConfigError for an unknown key, a wrong type, a missing value, an absent file, or one not in YAML,
    and for a run that is to be resumed and has no folder.
    """
    known = schema_keys(schema)
    if "--help" in arguments or "-h" in arguments:
        print(help_text(known, script, description, config_names()))
        raise SystemExit(0)
    file, given = _split(list(arguments), known)
    chosen = read_yaml(file) if file is not None else []
    return merge(schema, [*_resumed([*chosen, *given], known), *chosen, *given])


def merge(schema: type[Schema], settings: Sequence[Setting]) -> Schema:
    """The schema's defaults overlaid by the settings in order, as an instance of the schema.

    Raises ConfigError for the first setting whose key or type does not fit the schema, and for no value.
    """
    known = schema_keys(schema)
    config = OmegaConf.structured(schema)
    for key in known:
        OmegaConf.set_readonly(_parent(config, key)[0], False)  # a frozen dataclass is still being made
    for setting in settings:
        if setting.key not in known:
            raise ConfigError(_unknown(setting, list(known)))
        if _holds_interpolation(setting.value):
            raise ConfigError(
                f"{setting.where}: {setting.key} holds '${{...}}'. Configurations are plain values; "
                "write the value itself."
            )
        try:
            _require_plain(setting.value)
            OmegaConf.update(config, setting.key, setting.value)
        except (TypeError, OmegaConfBaseException) as error:
            expected = type_text(known[setting.key].type)
            raise ConfigError(
                f"{setting.where}: {setting.key} should be {expected}, but is {setting.value!r}."
            ) from error
    absent = [key for key in known if OmegaConf.is_missing(*_parent(config, key))]
    if absent:
        raise ConfigError(
            f"No value for {', '.join(absent)}. Give it as argument {absent[0]}=..., or in a --config file."
        )
    return typing.cast(Schema, OmegaConf.to_object(config))


def read_yaml(file: str) -> list[Setting]:
    """The settings of a YAML file, each with its line. `file` is a path, or a name in pipelines/configs.

    Raises ConfigError if there is no such file, or it is not YAML, not a mapping, or gives a key twice.
    """
    path = _find(file)
    loader = yaml.SafeLoader(_read_text(path))
    loader.name = str(path)
    try:
        root = loader.get_single_node()
        settings = [] if root is None else list(_settings(root, loader, path, prefix=""))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}.") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}.") from error
    finally:
        loader.dispose()
    seen: dict[str, str] = {}
    for setting in settings:
        if setting.key in seen:
            raise ConfigError(
                f"{setting.where}: {setting.key} is given a second time; first in {seen[setting.key]}."
            )
        seen[setting.key] = setting.where
    return settings


def config_names() -> list[str]:
    """The names that --config knows."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _resumed(settings: list[Setting], known: dict[str, Key]) -> list[Setting]:
    """What the run that `resume` and `run.dir` name was started with; nothing if it has not begun.

    Raises ConfigError if there is no such folder.
    """
    last = {key: entry.default for key, entry in known.items()} | {s.key: s.value for s in settings}
    if last.get("resume") is not True or "run.dir" not in last:
        return []
    file = Path(str(last["run.dir"])) / "config.yaml"
    if not file.parent.is_dir():
        raise ConfigError(f"There is no run folder {file.parent} to resume; check its name.")
    if not file.is_file():
        return []
    return [*read_yaml(str(file)), Setting("run.dir", str(file.parent), str(file))]  # it may have been moved


def _split(arguments: list[str], known: dict[str, Key]) -> tuple[str | None, list[Setting]]:
    """The file of `--config`, and the settings of the remaining arguments."""
    file, settings = None, []
    while arguments:
        argument = arguments.pop(0)
        if argument == "--config" or argument.startswith("--config="):
            name = argument.partition("=")[2] or (arguments.pop(0) if arguments else "")
            if file is not None or not name:
                raise ConfigError("--config takes one name or file, once.")
            file = name
        elif argument.startswith("--"):
            settings.append(_flag(argument, known))
        else:
            settings.append(_argument(argument, known))
    return file, settings


def _flag(argument: str, known: dict[str, Key]) -> Setting:
    """`--dry-run` as the setting dry_run=true."""
    name = argument[2:].replace("-", "_")
    if name not in flag_names(known):
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in ("help", "config", *flag_names(known)))
        raise ConfigError(
            f"argument {argument}: there is no such option; there are {flags}. Keys are key=value."
        )
    return Setting(name, True, f"argument {argument}")


def _argument(argument: str, known: dict[str, Key]) -> Setting:
    """`key=value` as a setting. A text is taken as it stands; any other value is read as YAML."""
    key, equals, text = argument.partition("=")
    where = f"argument {argument!r}"
    if not equals or not key:
        raise ConfigError(f"{where} is not of the form key=value; --help lists the keys.")
    if key in known and known[key].type in (str, str | None) and text != "null":
        return Setting(key, text, where)
    try:
        return Setting(key, yaml.safe_load(text), where)
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: the value is not valid YAML.") from error


def _settings(node: yaml.Node, loader: yaml.SafeLoader, path: Path, prefix: str) -> Iterator[Setting]:
    """Flatten a YAML mapping to its leaves. Lists are leaves."""
    if not isinstance(node, yaml.MappingNode):
        where = f"{path}, line {node.start_mark.line + 1}"
        raise ConfigError(f"{where}: a configuration is 'key: value' lines, but this is {node.id}.")
    for key_node, value_node in node.value:
        key = f"{prefix}{key_node.value}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _settings(value_node, loader, path, f"{key}.")
        else:
            value = loader.construct_object(value_node, deep=True)
            yield Setting(key, value, f"{path}, line {key_node.start_mark.line + 1}")


def _find(file: str) -> Path:
    named = CONFIGS / f"{file}.yaml"
    if named.is_file():
        return named
    if not Path(file).is_file():
        names = config_names()
        hint = did_you_mean(file, names)
        raise ConfigError(
            f"--config {file}: there is no such file, nor a configuration of that name. "
            f"{hint + ' ' if hint else ''}There are {', '.join(names)}."
        )
    return Path(file)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a text file in UTF-8 (byte {error.start}).") from error


def _unknown(setting: Setting, known: list[str]) -> str:
    inside = [key for key in known if key.startswith(f"{setting.key}.")]
    if inside:
        return f"{setting.where}: {setting.key} is a group of keys: {', '.join(inside)}."
    near = nearest(setting.key, known)
    hint = f"Did you mean {' or '.join(near)}?" if near else "--help lists the keys."
    return f"{setting.where}: there is no key {setting.key}. {hint}"


def _holds_interpolation(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_interpolation(item) for item in value)
    return isinstance(value, str) and "${" in value


def _require_plain(value: Any) -> None:
    """Raise TypeError for a list that is not of plain values, as YAML reads [a: 1-9]; OmegaConf takes it."""
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        raise TypeError("a list holds another list or a mapping")


def _parent(config: Any, key: str) -> tuple[Any, str]:
    group, _, name = key.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), name
