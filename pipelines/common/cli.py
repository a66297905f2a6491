"""Exit status of the scripts: 0 on success, 1 with one message on bad input, 130 on Ctrl-C."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

INTERRUPTED = 130


class Command(Protocol):
    """Main function of a script: takes arguments (None for sys.argv) and returns the exit status."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def command(main: Callable[[Sequence[str]], None]) -> Command:
    """Make a script's `main(arguments)` return an exit status instead of raising.

    Errors for bad input become one message on stderr and status 1: ValueError, OSError (missing file, full
    disk, missing permission), and insufficient GPU memory. Any other exception is a defect of Helixwave and
    keeps its traceback.
    """

    @functools.wraps(main)
    def run(arguments: Sequence[str] | None = None) -> int:
        try:
            main(sys.argv[1:] if arguments is None else arguments)
        except (ValueError, OSError) as error:
            print(f"{_rank()}error: {_sentence(error)}", file=sys.stderr)
            return 1
        except torch.cuda.OutOfMemoryError as error:
            print(f"{_rank()}error: {_out_of_memory(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print(f"{_rank()}interrupted", file=sys.stderr)
            return INTERRUPTED
        return 0

    return run


def _sentence(error: ValueError | OSError) -> str:
    """Return the message of an error; an error of the operating system with its file."""
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return str(error)


def _out_of_memory(error: torch.cuda.OutOfMemoryError) -> str:
    """Return torch's first sentences and the keys that reduce memory."""
    reason = ". ".join(str(error).split(". ")[:2])
    return (
        f"The GPU's memory is too small: {reason}. In training, reduce it with a smaller train.micro_tokens "
        "(same results), model.recompute=block (slower, same results), or train.backpropagation_length (no "
        "gradient between chunks). In scoring, reduce piece."
    )


def _rank() -> str:
    """Return a prefix with the rank of a torchrun process; empty for a single process."""
    return f"[rank {os.environ['RANK']}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
