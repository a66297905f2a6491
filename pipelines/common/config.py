"""Configurations: defaults of a dataclass, overridden by a YAML file, then by `key=value` arguments.

A schema is a dataclass of plain values and of further dataclasses, frozen or not. `metadata={"help": ...}` of
a field is its line in `--help`. OmegaConf merges and checks the types. Values are data only: no configuration
executes code, interpolates, or reads the environment.
"""

import dataclasses
import difflib
import re
import textwrap
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

import yaml  # type: ignore[import-untyped]
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.settings import setting_differences
from core.suggestion import did_you_mean

CONFIGS = Path(__file__).parents[1] / "configs"
WIDTH, INDENT = 100, 6 * " "
MAX_BYTES, MAX_DEPTH = 1 << 20, 20
"""Largest size and nesting of a YAML file."""
Schema = TypeVar("Schema")


class ConfigError(ValueError):
    """Unusable configuration: the message names the key, its origin and the remedy."""


@dataclass(frozen=True)
class RunConfig:
    """Folder of a run. `resume=true` continues the run with the configuration it was started with."""

    dir: str = field(metadata={"help": "folder of the run"})


@dataclass(frozen=True)
class Setting:
    """Value given by the user, with its origin: a line of a file, or an argument.

    text: the characters of a scalar, or of each item of a list, for keys that hold text.
    """

    key: str
    value: Any
    origin: str
    text: Any = None

    def value_for(self, kind: Any) -> Any:
        """Return the value for a key of this type; 010 and yes stay text where the key holds text."""
        if kind == list[str] and isinstance(self.text, list):
            return self.text
        if kind in (str, str | None) and isinstance(self.text, str) and self.value is not None:
            return self.text
        return self.value


@dataclass(frozen=True)
class Key:
    """Key of a schema: type, default (MISSING if required), and help."""

    type: Any
    default: Any
    help: str


def parse_config(schema: type[Schema], arguments: Sequence[str], script: str, description: str) -> Schema:
    """Parse a pipeline's command line: `[--config NAME|FILE] [--flag ...] [key=value ...]`, or `--help`.

    A boolean key of the top level is also a flag: `--dry-run` is `dry_run=true`. Later settings override
    earlier ones, and arguments override the file. With `resume=true`, both override the config.yaml in
    run.dir. `--help` prints every key and exits with 0.
    Raises ConfigError for an unknown key, a wrong type, a missing value, a missing file, invalid YAML, and
    for `resume=true` without a run folder.
    """
    known = schema_keys(schema)
    if "--help" in arguments or "-h" in arguments:
        print(help_text(known, script, description, fitting_configs(known)))
        raise SystemExit(0)
    file, given = _split(list(arguments), known)
    stored = read_yaml(file) if file is not None else []
    if file in config_names() and not all(setting.key in known for setting in stored):
        owner = _owner(CONFIGS / f"{file}.yaml")
        if owner not in (None, script.split()[0]):
            raise ConfigError(f"--config {file}: {file} is a configuration of {owner}, not of {script}.")
    settings = [*stored, *given]
    return merge(schema, [*_stored_settings(settings, known), *settings])


def merge(schema: type[Schema], settings: Sequence[Setting]) -> Schema:
    """Return an instance of the schema: its defaults, overridden by the settings in order.

    Raises ConfigError for the first setting with an unknown key or a wrong type, and for a missing value.
    """
    known = schema_keys(schema)
    config = OmegaConf.structured(schema)
    for key in known:
        OmegaConf.set_readonly(_parent(config, key)[0], False)  # frozen dataclasses are read-only
    for setting in settings:
        if setting.key not in known:
            raise ConfigError(_unknown(setting, list(known)))
        value = setting.value_for(known[setting.key].type)
        if isinstance(value, list) and MISSING in value:
            raise ConfigError(f"{setting.origin}: {setting.key} holds {MISSING!r}; give the value itself.")
        if _holds_interpolation(value):
            raise ConfigError(
                f"{setting.origin}: {setting.key} holds '${{...}}'. Configurations are plain values; "
                "give the value itself."
            )
        try:
            _require_plain(value)
            OmegaConf.update(config, setting.key, value)
        except (TypeError, OmegaConfBaseException) as error:
            expected = type_text(known[setting.key].type)
            raise ConfigError(
                f"{setting.origin}: {setting.key} is {value!r}; it must be {expected}."
            ) from error
    missing = [key for key in known if OmegaConf.is_missing(*_parent(config, key))]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} must be given: as an argument {missing[0]}=..., or in a --config file."
        )
    return typing.cast(Schema, OmegaConf.to_object(config))


def read_yaml(file: str) -> list[Setting]:
    """Read the settings of a YAML file, each with its line. `file` is a path, or a name in pipelines/configs.

    Raises ConfigError if the file is missing, is not YAML or not a mapping, or repeats a key.
    """
    path = _find(file)
    text = _read_text(path)
    try:
        _check_nesting(text)
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        settings = [] if root is None else list(_settings(root, loader, path, prefix=""))
    except ConfigError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise ConfigError(f"{path}{line}: not valid YAML: {error.problem}.") from error
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{path}: not valid YAML: {' '.join(str(error).split())}.") from error
    seen: dict[str, str] = {}
    for setting in settings:
        if setting.key in seen:
            raise ConfigError(
                f"{setting.origin}: {setting.key} is repeated; it was first given in {seen[setting.key]}."
            )
        seen[setting.key] = setting.origin
    return settings


def config_names() -> list[str]:
    """Return the names of the configurations in pipelines/configs."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def fitting_configs(known: Collection[str]) -> list[str]:
    """Return the names of the configurations in pipelines/configs with keys of one schema only."""
    return [name for name in config_names() if all(setting.key in known for setting in read_yaml(name))]


def _owner(path: Path) -> str | None:
    """Return the script in the command of a configuration's first comment; None if there is none."""
    match = re.search(r"^#.*pipelines\.(\w+) .*--config", path.read_text(encoding="utf-8"), re.MULTILINE)
    return None if match is None else match[1]


def run_state(folder: Path) -> str:
    """Return new, started or finished."""
    if (folder / "summary.json").exists():
        return "finished"
    return "started" if (folder / "config.yaml").exists() else "new"


def require_same_settings(folder: Path, config: Any, ignored: Collection[str] = ()) -> None:
    """Raise ConfigError, naming the keys, if a run folder's config.yaml differs from `config`.

    config: an instance of the run's schema. The keys in `ignored` may differ, and so may run.dir, because a
    folder can be moved. A folder without config.yaml has no settings to compare.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return
    stored = merge(type(config), read_yaml(str(file)))
    differences = setting_differences(asdict(stored), asdict(config), {"run.dir", *ignored})
    if differences:
        raise ConfigError(
            f"The run in {folder} has other settings: {'; '.join(differences)}. Restore these values, or "
            "choose another run.dir."
        )


def _stored_settings(settings: list[Setting], known: dict[str, Key]) -> list[Setting]:
    """Return the settings stored in run.dir if `resume` is true; empty if the run has not started.

    Raises ConfigError if run.dir does not exist.
    """
    last = {key: entry.default for key, entry in known.items()} | {s.key: s.value for s in settings}
    if last.get("resume") is not True or "run.dir" not in last:
        return []
    file = Path(str(last["run.dir"])) / "config.yaml"
    if not file.parent.is_dir():
        raise ConfigError(f"There is no run folder {file.parent} to resume. Check run.dir.")
    if not file.is_file():
        return []
    # the folder may have moved since it stored its own path
    return [*read_yaml(str(file)), Setting("run.dir", str(file.parent), str(file))]


def _split(arguments: list[str], known: dict[str, Key]) -> tuple[str | None, list[Setting]]:
    """Return the file of `--config`, and the settings of the other arguments."""
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
    """Return `--dry-run` as the setting dry_run=true."""
    name = argument[2:].replace("-", "_")
    if name not in flag_names(known):
        flags = ", ".join(f"--{flag.replace('_', '-')}" for flag in ("help", "config", *flag_names(known)))
        raise ConfigError(
            f"argument {argument}: there is no such option. Options are {flags}; keys are key=value."
        )
    return Setting(name, True, f"argument {argument}")


def _argument(argument: str, known: dict[str, Key]) -> Setting:
    """Return `key=value` as a setting. A text is taken literally; any other value is YAML."""
    key, equals, text = argument.partition("=")
    origin = f"argument {argument!r}"
    if not equals or not key:
        raise ConfigError(f"{origin} is not of the form key=value. --help lists the keys.")
    if key in known and known[key].type in (str, str | None) and text != "null":
        return Setting(key, text, origin)
    try:
        _check_nesting(text)
        return Setting(key, yaml.safe_load(text), origin, _node_text(yaml.compose(text, yaml.SafeLoader)))
    except (yaml.YAMLError, ValueError, OverflowError) as error:
        raise ConfigError(f"{origin}: the value is not valid YAML.") from error


def _settings(node: yaml.Node, loader: yaml.SafeLoader, path: Path, prefix: str) -> Iterator[Setting]:
    """Flatten a YAML mapping to its leaves. Lists are leaves."""
    if not isinstance(node, yaml.MappingNode):
        origin = f"{path}, line {node.start_mark.line + 1}"
        raise ConfigError(f"{origin}: a configuration must be 'key: value' lines, not a {node.id}.")
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{path}, line {key_node.start_mark.line + 1}: a key must be a name.")
        key = f"{prefix}{key_node.value}"
        if isinstance(value_node, yaml.MappingNode):
            yield from _settings(value_node, loader, path, f"{key}.")
        else:
            value = loader.construct_object(value_node, deep=True)
            origin = f"{path}, line {key_node.start_mark.line + 1}"
            yield Setting(key, value, origin, _node_text(value_node))


def _node_text(node: yaml.Node | None) -> Any:
    """Return the characters of a scalar, or of each scalar in a list; None for any other node."""
    if isinstance(node, yaml.ScalarNode):
        return node.value
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return [item.value for item in node.value]
    return None


def _check_nesting(text: str) -> None:
    """Raise ValueError for YAML with aliases or deep nesting, whose cost can exceed its size by far."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"line {event.start_mark.line + 1} has an alias; write the value itself")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")


def _find(file: str) -> Path:
    named = CONFIGS / f"{file}.yaml"
    if named.is_file():
        return named
    if not Path(file).is_file():
        names = config_names()
        hint = did_you_mean(file, names)
        raise ConfigError(
            f"--config {file}: there is no file or configuration of this name. "
            f"{hint + ' ' if hint else ''}Configurations are {', '.join(names)}."
        )
    return Path(file)


def _read_text(path: Path) -> str:
    with path.open("rb") as file:
        content = file.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_BYTES:,} bytes, too large for a configuration.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text (byte {error.start}).") from error


def _unknown(setting: Setting, known: list[str]) -> str:
    inside = [key for key in known if key.startswith(f"{setting.key}.")]
    if inside:
        return f"{setting.origin}: {setting.key} is a group of keys: {', '.join(inside)}."
    near = nearest(setting.key, known)
    hint = f"Did you mean {' or '.join(near)}?" if near else "--help lists the keys."
    return f"{setting.origin}: there is no key {setting.key}. {hint}"


def _holds_interpolation(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_interpolation(item) for item in value)
    return isinstance(value, str) and "${" in value


def _require_plain(value: Any) -> None:
    """Raise TypeError for a nested list or mapping, as YAML reads [a: 1-9]; OmegaConf would accept it."""
    if isinstance(value, list) and any(isinstance(item, list | dict) for item in value):
        raise TypeError("a list holds another list or a mapping")


def _parent(config: Any, key: str) -> tuple[Any, str]:
    group, _, name = key.rpartition(".")
    return (OmegaConf.select(config, group) if group else config), name


def schema_keys(schema: type, prefix: str = "") -> dict[str, Key]:
    """Return every dotted key of a schema, in order of declaration."""
    keys: dict[str, Key] = {}
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind, key = hints[item.name], f"{prefix}{item.name}"
        default = _default(item)
        if not dataclasses.is_dataclass(kind):
            keys[key] = Key(kind, default, item.metadata.get("help", ""))
            continue
        for name, inner in schema_keys(typing.cast(type, kind), f"{key}.").items():
            value = inner.default if default == MISSING else _nested_value(default, name[len(key) + 1 :])
            keys[name] = dataclasses.replace(inner, default=value)
    return keys


def flag_names(known: Mapping[str, Key]) -> list[str]:
    """Return the boolean keys of the top level, which are also flags --name."""
    return [key for key, entry in known.items() if entry.type is bool and "." not in key]


def nearest(key: str, known: Sequence[str]) -> list[str]:
    """Return at most three keys with a last part similar to that of `key`, the most similar first."""

    def similarity(candidate: str) -> tuple[float, float]:
        last = difflib.SequenceMatcher(None, key.split(".")[-1], candidate.split(".")[-1]).ratio()
        return last, difflib.SequenceMatcher(None, key, candidate).ratio()

    similar = [candidate for candidate in known if similarity(candidate)[0] > 0.6]
    return sorted(similar, key=similarity, reverse=True)[:3]


def help_text(known: Mapping[str, Key], script: str, description: str, configs: Iterable[str]) -> str:
    """Return the page that `--help` prints: usage, description, configurations, and every key."""
    flags = "".join(f" [--{name.replace('_', '-')}]" for name in flag_names(known))
    lines = [
        f"usage: python -m pipelines.{script} [--config NAME|FILE]{flags} [key=value ...]",
        "",
        description.strip(),
        "",
        *textwrap.wrap(f"--config takes a YAML file{_names_text(configs)}.", WIDTH),
        "An argument key=value overrides the file; the file overrides the default.",
        "",
        "keys:",
    ]
    for key, entry in known.items():
        default = "required" if entry.default == MISSING else f"default {_value_text(entry.default)}"
        lines += [f"  {key}  ({type_text(entry.type)}; {default})"]
        lines += textwrap.wrap(entry.help, WIDTH, initial_indent=INDENT, subsequent_indent=INDENT)
    return "\n".join(lines)


def _names_text(configs: Iterable[str]) -> str:
    names = ", ".join(configs)
    return f", or a name in pipelines/configs: {names}" if names else ""


def type_text(kind: Any) -> str:
    """Return a type in plain words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(argument) for argument in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(argument) for argument in arguments)
    if origin is list:
        return f"a list of {_plural(arguments[0])}"
    if origin is tuple:
        return f"a list of {len(arguments)} {_plural(arguments[0])}"
    if kind is Any:
        return "a value"
    plain = {bool: "true or false", int: "an integer", float: "a number", str: "text", type(None): "null"}
    return plain.get(kind, getattr(kind, "__name__", str(kind)))


def _plural(kind: Any) -> str:
    plural = {bool: "true or false values", int: "integers", float: "numbers", str: "texts"}
    return plural.get(kind, f"values, each {type_text(kind)}")


def _default(field: "dataclasses.Field[Any]") -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return MISSING if field.default_factory is dataclasses.MISSING else field.default_factory()


def _nested_value(instance: Any, dotted: str) -> Any:
    for name in dotted.split("."):
        instance = getattr(instance, name)
    return instance


def _value_text(value: Any) -> str:
    """Return a default as YAML on one line."""
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("...\n").strip()
