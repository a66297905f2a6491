"""Remove outputs, counts and editor metadata from notebooks: python -m tests.notebooks.strip FILE ..."""

import sys
from pathlib import Path

import nbformat


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Return the notebook as git stores it: sources and tags of cells."""
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = nbformat.from_dict(
            {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        )
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


if __name__ == "__main__":
    for name in sys.argv[1:]:
        Path(name).write_text(nbformat.writes(stripped(nbformat.read(name, as_version=4))) + "\n")
