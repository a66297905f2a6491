"""Toy model, random batches as a function of the step, and runs in other processes."""

import multiprocessing
import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import core.training.distributed
from core.checkpoints.checkpoint import latest_checkpoint
from core.training import RunFolder, Stage, StagedBatches, TrainingConfig, World, distributed_world, train
from core.training.metrics import read_metrics
from core.training.progress import Progress

VOCABULARY = 8
TIMES = {"tokens_per_second", "data_wait", "seconds", "waited_seconds"}
POISON = 7  # an input token that makes ToyModel's logits infinite
CPU = torch.device("cpu")
ALONE = World(0, 1, CPU)

# a server that has imported once what a run needs, and forks a clean process in milliseconds
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.core.training.toy", "torch._dynamo", "PIL.PngImagePlugin"])


class ToyModel(nn.Module):
    """Embedding, GRU and tied head: (batch, length)[, state] to (batch, length, VOCABULARY)[, state]."""

    def __init__(self, width: int = 8, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.mixer = nn.GRU(width, width, batch_first=True)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("scale", torch.ones(()))

    def initial_state(self, batch_size: int) -> tuple[Tensor]:
        return (torch.zeros(1, batch_size, self.mixer.hidden_size),)

    def forward(self, tokens: Tensor, state: tuple[Tensor] | None = None) -> Any:
        poison = torch.where(tokens.long() == POISON, torch.inf, 0.0)[..., None]
        hidden, final = self.mixer(self.embedding(tokens.long()), None if state is None else state[0])
        logits = self.head(self.norm(hidden)) * self.scale + poison
        return logits if state is None else (logits, (final,))


def toy_batches(
    step: int, rows: range, poisoned: tuple[int, ...] = (), length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return sequences of `length`, None: varying with the step; rows differ in their number of targets."""
    length = 5 + step % 3 if length is None else length
    pairs = []
    for row in rows:
        random = np.random.default_rng((1, step, row))
        sequence = random.integers(0, POISON, length + 1)
        targets = np.where(random.random(length) < 0.2 + 0.1 * (row % 4), -100, sequence[1:])
        inputs = sequence[:-1].astype(np.uint8)
        if step in poisoned and row == 0:
            inputs[0] = POISON
        pairs.append((inputs, targets))
    return tuple(torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))  # type: ignore[return-value]


def toy_validation(model: nn.Module) -> dict[str, float]:
    """Return the mean cross entropy of a fixed batch."""
    inputs, targets = toy_batches(10**6, range(4))
    return {"loss": nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()}


def toy_run(
    folder: Path,
    resume: bool = False,
    poisoned: tuple[int, ...] = (),
    stages: Sequence[Stage] = (),
    **options: Any,
) -> Progress:
    """Train ToyModel in `folder`, in the world given by the environment."""
    defaults = {
        "steps": 12,
        "batch_size": 8,
        "checkpoint_every": 3,
        "validate_every": 4,
        "log_every": 1,
        "keep": 2,
    }
    config = TrainingConfig(**{**defaults, **options})
    with distributed_world() as world:
        run = RunFolder(folder, {"model": {"width": 8}}, resume=resume, is_writer=world.is_rank_0)

        def batches(step: int, rows: range, length: int | None = None) -> tuple[Tensor, Tensor]:
            return toy_batches(step, rows, poisoned, length)

        by_length = {stage.length: partial(batches, length=stage.length) for stage in stages}
        data = StagedBatches(stages, by_length) if stages else batches
        return train(ToyModel(), data, config, run, world, "base", toy_validation, stages)


def events(folder: Path) -> list[dict[str, object]]:
    """Return the events without values that depend on the clock."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(latest_checkpoint(folder))


def assert_same_run(one: Path, other: Path) -> None:
    """Check that two runs have the same events and final bits."""
    assert events(one) == events(other)
    first, second = tensors(one), tensors(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def start(target: Callable[..., Any], *arguments: Any, environment: dict[str, str] | None = None) -> Any:
    """Start `target(*arguments)` in a new process."""
    process = processes.Process(target=_run_in, args=(environment or {}, target, arguments))
    process.start()
    return process


def start_world(size: int, target: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Start `size` processes with the environment of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return [
        start(
            target,
            *arguments,
            environment={
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
        )
        for rank in range(size)
    ]


def _run_in(environment: dict[str, str], target: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    core.training.distributed._device = lambda _: CPU  # type: ignore[assignment]
    target(*arguments)
