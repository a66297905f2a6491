"""Output files of scripts: an existing one is refused, and one process at a time writes them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

OVERWRITE = "replacement of existing output"
"""Help of the key `overwrite`."""


@contextmanager
def new_outputs(*paths: Path, overwrite: bool = False, resume: bool | None = None) -> Iterator[None]:
    """Check the outputs of a script before its work.

    paths: files or folders to write. resume: value of the script's key `resume`; None if it has none.
    Raises FileExistsError for an output that exists, unless `overwrite` or `resume` is true. An empty folder
    and a device or pipe, such as /dev/null, count as new. Raises FileNotFoundError if the folder of an output
    is missing.
    """
    for path in paths:
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"{path} cannot be written: there is no folder {path.parent}. Create it, or choose another "
                "name."
            )
    if not overwrite and not resume:
        for path in paths:
            _require_absent(path, can_resume=resume is not None)
    yield


def is_special(path: Path) -> bool:
    """Return True for a device, pipe or socket, such as /dev/null, which is written into, never replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


def _require_absent(path: Path, can_resume: bool) -> None:
    if is_special(path) or not (path.exists() or path.is_symlink()):
        return
    if path.is_dir() and not any(path.iterdir()):
        return
    keys = "overwrite=true to replace it" + (", resume=true to continue it," * can_resume)
    raise FileExistsError(f"The output {path} already exists. Give {keys} or another output.")
