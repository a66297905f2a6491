"""Notebooks run from start to end on bundled data, and are stored without outputs."""

import ast
import copy
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from audio.data.synthetic import synthetic_digits
from tests.notebooks.strip import stripped

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
SMALL: dict[str, dict[str, Any]] = {
    "audio_analysis": {
        "source": "fsdd",
        "recordings": "recordings",
        "steps": 2,
        "classifier_steps": 2,
        "temperatures": [0.8, 1.0],
        "count": 4,
        "seconds": 0.02,
        "resamples": 2,
    },
    "genome_analysis": {
        "steps": 2,
        "validation_windows": 2,
        "scaling_steps": 2,
        "count": 2,
        "length": 40,
    },
}
"""Overrides of a notebook's parameters, for a run of seconds."""
LONGEST_CELL = 12
LIMIT = 120

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def with_small_parameters(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    """Insert a cell after the parameters that overrides them."""
    (index,) = [i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", [])]
    lines = [f"{key} = {value!r}" for key, value in SMALL.get(name, {}).items()]
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    return notebook


@each_notebook
def test_runs_from_start_to_end(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    synthetic_digits(tmp_path / "recordings", speakers=1, takes=12)
    notebook = with_small_parameters(read(path), path.stem)
    NotebookClient(notebook, timeout=LIMIT, resources={"metadata": {"path": str(tmp_path)}}).execute()
    kinds = {
        kind
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        for kind in output.get("data", [])
    }
    assert "image/png" in kinds, "the notebook shows no picture"


@each_notebook
def test_small_parameters_are_parameters(path: Path) -> None:
    (cell,) = [cell for cell in read(path).cells if "parameters" in cell.metadata.get("tags", [])]
    names = (node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Name))
    assigned = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    assert set(SMALL.get(path.stem, {})) <= assigned


@each_notebook
def test_is_stored_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert notebook == stripped(copy.deepcopy(notebook)), f"python -m tests.notebooks.strip {path} strips it"


@each_notebook
def test_defines_no_functions_and_has_short_cells(path: Path) -> None:
    for cell in read(path).cells:
        if cell.cell_type == "code":
            assert cell.source.count("\n") < LONGEST_CELL, cell.source
            definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
            assert not [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, definitions)]
