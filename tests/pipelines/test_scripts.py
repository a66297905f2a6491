"""Pipelines run as files: `python pipelines/NAME.py` puts their folder first on the path."""

import subprocess
import sys
from importlib.machinery import PathFinder
from pathlib import Path

import pytest

import pipelines

FOLDER = Path(pipelines.__file__).parent
ROOT = FOLDER.parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("name", MODULES)
def test_no_module_hides_another_package(name: str) -> None:
    assert name not in sys.stdlib_module_names
    elsewhere = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() not in (FOLDER, ROOT))]
    assert PathFinder.find_spec(name, elsewhere) is None


@pytest.mark.parametrize("name", ["dna_classify", "audio_sample"])
def test_a_file_prints_its_help(name: str) -> None:
    command = [sys.executable, str(FOLDER / f"{name}.py"), "--help"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert "checkpoint" in result.stdout
