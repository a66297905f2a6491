"""A run killed repeatedly by SIGKILL and resumed equals the uninterrupted run."""

import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

import core.checkpoints.checkpoint
import core.storage.atomic
import core.training.run_folder
import core.training.steps
from tests.core.training.toy import assert_same_run, processes, start, toy_run

OPTIONS = {"ema": 0.9, "poisoned": (4,)}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def run_until(folder: Path, resume: bool, calls: int) -> None:
    """Train, but die at the given call of a step or of a write to the folder."""
    left = calls

    def deadly(module: Any, name: str, last_act: Callable[..., object] = lambda *_, **__: None) -> None:
        original = getattr(module, name)

        def counted(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                last_act(*arguments, **options)
                die()
            return original(*arguments, **options)

        setattr(module, name, counted)

    def write_half_a_checkpoint(path: Path, *_: object) -> None:
        path.with_name(f"{path.name}.7-00000000.tmp").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00half")

    def write_half_a_line(event: str, step: int, _: object) -> None:
        with (folder / "metrics.jsonl").open("a") as file:
            file.write(f'{{"event": "{event}", "step": {step}, "lo')

    deadly(core.checkpoints.checkpoint, "write_tensors", write_half_a_checkpoint)
    deadly(core.training.run_folder, "event_line", write_half_a_line)
    deadly(core.storage.atomic.os, "replace")
    deadly(core.storage.atomic, "sync")
    deadly(core.training.steps, "training_step")
    deadly(core.training.run_folder, "step_checkpoints")  # also between writing one and deleting the old
    toy_run(folder, resume=resume, **OPTIONS)


def run_slowly(folder: Path, resume: bool, started: Event) -> None:
    """Train with pauses, so that a signal can hit every phase."""
    original = core.training.steps.training_step

    def slow_step(*arguments: Any) -> Any:
        time.sleep(0.01)
        return original(*arguments)

    core.training.steps.training_step = slow_step  # type: ignore[assignment]
    started.set()
    toy_run(folder, resume=resume, **OPTIONS)


def whole_run(folder: Path) -> None:
    toy_run(folder, **OPTIONS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    process = start(whole_run, folder)
    process.join()
    assert process.exitcode == 0
    return folder


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_call(whole: Path, tmp_path: Path, seed: int) -> None:
    folder, draw = tmp_path / "run", random.Random(seed)
    kills = 0
    for calls in (1, 2, 3, 4, 5, 6, *(draw.randrange(5, 40) for _ in range(100))):
        process = start(run_until, folder, folder.exists(), calls)
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        kills += 1
    assert kills > 6
    assert_same_run(folder, whole)


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_time(whole: Path, tmp_path: Path, seed: int) -> None:
    folder, draw = tmp_path / "run", random.Random(seed)
    for _ in range(100):
        started = processes.Event()
        process = start(run_slowly, folder, folder.exists(), started)
        assert started.wait(timeout=60)
        process.join(timeout=draw.uniform(0.0, 0.3))
        process.kill()
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert_same_run(folder, whole)
