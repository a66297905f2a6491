"""How every pipeline ends: quietly on success, with one message and status 1 on bad input, 130 on Ctrl-C."""

import functools
import os
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

import torch

INTERRUPTED = 130


class Command(Protocol):
    """A script's main: runs with these arguments (sys.argv's if None) and returns the exit status."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int: ...


def command(main: Callable[[Sequence[str]], None]) -> Command:
    """Make a script's `main(arguments)` return an exit status instead of raising.

    What the packages raise for bad input (ValueError, and OSError: a missing file, a full disk, a folder
    without permission) and a GPU that is too small become one message on stderr and status 1; anything else
    is a defect of Helixwave and keeps its traceback.
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
    """The message of an error; the operating system's own ("No space left on device") with its file."""
    if isinstance(error, OSError) and error.strerror is not None:
        return f"{error.strerror}: {error.filename}" if error.filename is not None else error.strerror
    return str(error)


def _out_of_memory(error: torch.cuda.OutOfMemoryError) -> str:
    """What did not fit, in torch's first sentences, and the keys that take less."""
    asked = ". ".join(str(error).split(". ")[:2])
    return (
        f"The GPU's memory is too small: {asked}. In training, these take less: a smaller train.micro_tokens "
        "(the same results), model.recompute=block (slower, the same results), or "
        "train.backpropagation_length (the gradient is cut between pieces). In scoring, a smaller piece."
    )


def _rank() -> str:
    """A prefix that tells the processes of a torchrun apart; empty for a single process."""
    return f"[rank {os.environ['RANK']}] " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
