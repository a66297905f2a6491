"""Training speed on the CPU, ours and mambapy's: `python -m pipelines.benchmarks.training_cpu`.

Both models have the same weights. Speeds are printed only if their outputs and gradients agree.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from core.models.sequence import SequenceModel, SequenceModelConfig

CONFIG = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=4)
BATCH, LENGTH = 2, 1024
ROUNDS = 7
TOLERANCE = 1e-4


class MambapyModel(nn.Module):
    """mambapy's Mamba between an embedding and a tied head, with the parameter names of SequenceModel."""

    def __init__(self, mambapy: Any, config: SequenceModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.padded_vocab_size, config.d_model)
        self.layers = mambapy.Mamba(mambapy.MambaConfig(config.d_model, config.n_layer)).layers
        self.norm_f = mambapy.RMSNorm(config.d_model)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens (batch, length) to logits (batch, length, padded vocabulary)."""
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer(hidden)
        return linear(self.norm_f(hidden), self.embedding.weight)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.training_cpu", description=__doc__)
    parser.parse_args(argv)
    try:
        table = rows()
    except ImportError:
        sys.exit("mambapy is not installed. Install it: pip install mambapy==1.2.0.")
    except ValueError as error:
        sys.exit(str(error))
    print(f"Largest relative difference of logits and gradients: {table[0]['difference']:.1e}")
    print(
        f"{CONFIG.n_layer} layers, d_model {CONFIG.d_model}, {BATCH} x {LENGTH} tokens, "
        f"{torch.get_num_threads()} threads; tokens/s, median of {ROUNDS}:"
    )
    for row in table:
        ours, theirs = row["ours_tokens_per_s"], row["mambapy_tokens_per_s"]
        print(f"{row['work']:14} ours {ours:7,.0f}   mambapy {theirs:7,.0f}   ratio {ours / theirs:.2f}")


def rows() -> list[dict[str, Any]]:
    """Compare the models, then time them alternately; return rows for the forward pass and a training step.

    Raises ValueError before timing if the models disagree, and ImportError without mambapy.
    """
    from mambapy import mamba as mambapy

    torch.manual_seed(0)
    ours = SequenceModel(CONFIG)
    peer = MambapyModel(mambapy, CONFIG)
    peer.load_state_dict(ours.state_dict())
    tokens = torch.randint(CONFIG.vocab_size, (BATCH, LENGTH + 1))
    error = disagreement(ours, peer, tokens)
    if error > TOLERANCE:
        raise ValueError(
            f"The models disagree by {error:.1e}; the limit is {TOLERANCE:.0e}. Speeds of different results "
            "are not comparable."
        )
    table = []
    for name, work in (("forward", forward), ("training step", training_step)):
        our_speed, peer_speed = speeds([work(model, tokens) for model in (ours, peer)])
        table.append(
            {
                "work": name,
                "batch": BATCH,
                "length": LENGTH,
                "ours_tokens_per_s": our_speed,
                "mambapy_tokens_per_s": peer_speed,
                "difference": error,
            }
        )
    return table


def disagreement(ours: nn.Module, peer: nn.Module, tokens: Tensor) -> float:
    """Return the largest difference of logits and gradients, relative to the maximum of each tensor."""
    outputs = []
    for model in (ours, peer):
        logits, loss = logits_and_loss(model, tokens)
        parameters = [parameter for _, parameter in sorted(model.named_parameters())]
        outputs.append([logits, *torch.autograd.grad(loss, parameters)])
    pairs = zip(*outputs, strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def logits_and_loss(model: nn.Module, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits of tokens (batch, length + 1), and the mean cross-entropy."""
    logits = model(tokens[:, :-1])
    return logits, cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def forward(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """Return a function that runs one forward pass without gradients."""

    @torch.no_grad()
    def work() -> None:
        model(tokens[:, :-1])

    return work


def training_step(model: nn.Module, tokens: Tensor) -> Callable[[], None]:
    """Return a function that runs one training step with AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def work() -> None:
        optimizer.zero_grad()
        logits_and_loss(model, tokens)[1].backward()
        optimizer.step()

    return work


def speeds(works: list[Callable[[], None]]) -> list[float]:
    """Return the median tokens/s of each function, timed alternately so that load affects all equally."""
    seconds: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS + 1):
        for work, times in zip(works, seconds, strict=True):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
    return [BATCH * LENGTH / statistics.median(times[1:]) for times in seconds]


if __name__ == "__main__":
    main()
