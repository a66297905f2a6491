"""Every bundled configuration fits a pipeline; those of hg38 are the paper's recipe."""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from omegaconf import MISSING

import pipelines
from bio.download import TABLE
from core.storage.download import read_sources
from pipelines import dna_classify, dna_pretrain
from pipelines.common.config import (
    CONFIGS,
    ConfigError,
    Setting,
    fitting_configs,
    merge,
    parse_config,
    read_yaml,
    schema_keys,
)

FILES = sorted(CONFIGS.glob("*.yaml"))
HG38 = {
    f"hg38_{name}": length
    for name, length in zip(
        ("1k", "4k", "16k", "64k", "256k", "1m"), (2**power for power in range(10, 21, 2)), strict=True
    )
}


def load(schema: type, file: Path) -> Any:
    """Return the configuration of a file, with a text for each required key."""
    required = [key for key, entry in schema_keys(schema).items() if entry.default == MISSING]
    return merge(schema, [*(Setting(key, "given", "test") for key in required), *read_yaml(str(file))])


def schemas() -> dict[str, type]:
    modules = [
        importlib.import_module(f"pipelines.{item.name}") for item in pkgutil.iter_modules(pipelines.__path__)
    ]
    return {module.__name__: module.Config for module in modules if hasattr(module, "Config")}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_configuration_loads(file: Path) -> None:
    errors = []
    for name, schema in schemas().items():
        try:
            assert load(schema, file) is not None
            return
        except ConfigError as error:
            errors.append(f"{name}: {error}")
    pytest.fail("\n".join(errors))


def test_every_length_of_the_paper_is_there() -> None:
    assert set(HG38) == {file.stem for file in FILES if file.stem.startswith("hg38")}


@pytest.mark.parametrize("name", HG38)
def test_hg38_is_the_paper_s_recipe(name: str) -> None:
    config = load(dna_pretrain.Config, CONFIGS / f"{name}.yaml")
    train = config.train
    tokens, steps = (2**20, 10_000) if name == "hg38_1k" else (2**24, 20_000)
    assert config.data.length == HG38[name]
    assert train.batch_size * config.data.length == tokens
    assert train.steps == steps
    assert (train.learning_rate, train.minimum_learning_rate, train.warmup) == (8e-3, 1e-5, 0.1)
    assert (train.weight_decay, train.betas, train.clip) == (0.1, (0.9, 0.95), 1.0)
    assert (config.model.d_model, config.model.n_layer, config.data.split) == (128, 12, "paper")
    assert config.data.validation_windows * config.data.length == 2**24
    assert config.run.dir == f"runs/{name}"
    files = {f"data/{source.file}" for source in read_sources(TABLE).values()}
    assert {config.data.fasta, config.data.bed} <= files


def test_a_configuration_of_another_script_names_that_script() -> None:
    with pytest.raises(ConfigError, match="hg38_1k is a configuration of dna_pretrain"):
        parse_config(dna_classify.Config, ["--config", "hg38_1k"], "dna_classify", "")


def test_help_lists_the_configurations_that_fit() -> None:
    names = fitting_configs(schema_keys(dna_classify.Config))
    assert {"human_or_ecoli", "great_apes"} <= set(names)
    assert not {"hg38_1k", "digits", "induction_heads"} & set(names)
