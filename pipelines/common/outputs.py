"""Output files of scripts: an existing one is refused, and one process at a time writes them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from core.storage.atomic import require_folder
from core.storage.lock import output_lock

OVERWRITE = "replace output files that exist"
"""Help of the key `overwrite`."""


@contextmanager
def new_outputs(*paths: Path, overwrite: bool = False, resume: bool | None = None) -> Iterator[None]:
    """Lock the outputs of a script while the body writes them, and check them first.

    paths: files or folders to write. resume: value of the script's key `resume`; None if it has none.
    Raises FileExistsError for an output that exists, unless `overwrite` or `resume` is true. An empty folder
    and a device or pipe, such as /dev/null, count as new. Raises FileNotFoundError if the folder of an output
    is missing, and ValueError if two outputs have one name or another process writes one of them.
    """
    names = [path.resolve() for path in paths if not is_special(path)]
    for path in paths:
        if names.count(path.resolve()) > 1:
            raise ValueError(f"Two outputs are named {path}. Choose another name for one of them.")
        require_folder(path)
    with ExitStack() as locks:
        for path in sorted(paths):
            locks.enter_context(output_lock(path))
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
