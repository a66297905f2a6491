"""Training speed on a GPU, ours and the official mamba-ssm's: `python -m pipelines.benchmarks.training`.

Both models have the same weights, bf16 autocast and fused AdamW. Speeds are measured only if their
logits and gradients agree. --publish writes results/train.json.

GRAPH_CASES measure steps of small models twice: eager, and replayed as a CUDA graph. core.training
captures our steps automatically; this benchmark captures the official model.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.checkpoints.published import to_official
from core.models.sequence import SequenceModel, SequenceModelConfig
from core.training.cuda_graph import WARM_UP, capture
from core.training.loss import cross_entropy_sum
from kernels.provenance import write_results

COMMAND = "python -m pipelines.benchmarks.training --publish"
D64X2 = SequenceModelConfig(vocab_size=16, d_model=64, n_layer=2)
D256X8 = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=8)
D256X16 = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=16, recompute="block")
D512X24 = SequenceModelConfig(vocab_size=16, d_model=512, n_layer=24, recompute="block")
SIZE_130M = SequenceModelConfig(vocab_size=50277, d_model=768, n_layer=24)
ROUNDS = 7
TOLERANCE = 3e-2  # bf16 through several blocks


@dataclass(frozen=True)
class Case:
    """Model and batch of one row."""

    model: str
    config: SequenceModelConfig
    batch: int
    length: int
    with_official: bool = True
    captured: bool = False  # replay the step of both as a CUDA graph


CASES = (
    Case("d256x8", D256X8, 1, 2**20),
    Case("d256x8, recompute=cheap", replace(D256X8, recompute="cheap"), 1, 2**20),
    Case("d256x8, recompute=block", replace(D256X8, recompute="block"), 1, 2**20),
    Case("d256x8", D256X8, 8, 2**17),
    Case("d256x8", D256X8, 1024, 1024),
    Case("130m", SIZE_130M, 8, 2048),
    Case("d256x16 (7.0M), recompute=block", D256X16, 1, 2**20, with_official=False),
    Case("d512x24 (40.7M), recompute=block", D512X24, 1, 2**20, with_official=False),
)
GRAPH_CASES = tuple(
    Case(name, config, 8, length, captured=captured)
    for captured in (False, True)
    for name, config, length in (("130m", SIZE_130M, 2048), ("d256x8", D256X8, 2048), ("d64x2", D64X2, 256))
)
MEMORY_CASES = tuple(Case("130m", SIZE_130M, 2**power, 2048) for power in range(6))
"""The batch sizes of table 15 of the Mamba paper."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.training", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write results/train.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here. Measure the CPU with `python -m pipelines.benchmarks.training_cpu`.")
    try:
        table = rows(CASES)
    except ValueError as error:
        sys.exit(str(error))
    if arguments.publish:
        write_results(Path("results/train.json"), COMMAND, torch.device("cuda"), 0, table)


def rows(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Measure and print one row per case: tokens/s and peak memory, ours and the official model's.

    Official numbers are None without mamba_ssm. Raises ValueError before timing if the models disagree.
    """
    official = official_model()
    if official is None:
        print("mamba_ssm is not installed; only our model is measured.")
    elif (error := disagreement(official)) > TOLERANCE:
        raise ValueError(f"The two models disagree by {error:.1e}, so their speeds mean nothing.")
    else:
        print(f"Largest relative difference of logits and gradients from the official model: {error:.1e}")
    return [_row(case, official) for case in cases]


def official_model() -> Callable[[SequenceModelConfig], nn.Module] | None:
    """Return a function from a config to the official model, or None without mamba_ssm."""
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    except ImportError:
        return None

    def make(config: SequenceModelConfig) -> nn.Module:
        its = MambaConfig(d_model=config.d_model, n_layer=config.n_layer, vocab_size=config.vocab_size)
        return MambaLMHeadModel(its, device="cuda")

    return make


def disagreement(official: Callable[[SequenceModelConfig], nn.Module]) -> float:
    """The largest relative difference, root mean square, of logits and of each gradient."""
    config = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=2)
    torch.manual_seed(0)
    ours, theirs = SequenceModel(config).cuda(), official(config)
    theirs.load_state_dict(to_official(ours.state_dict()))
    tokens = torch.randint(16, (2, 1000), device="cuda")
    outputs = []
    for model in (ours, theirs):
        logits = _logits(model, tokens).float()
        logits.square().mean().backward()
        outputs.append([logits.detach(), *(p.grad for _, p in sorted(_parameters(model)))])
    differences = [(a - b).norm() / b.norm() for a, b in zip(*outputs, strict=True)]
    return torch.stack(differences).max().item()


def _parameters(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name.removeprefix("backbone."), p) for name, p in model.named_parameters()]


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.autocast("cuda", dtype=torch.bfloat16):
        output = model(tokens)
    return output if isinstance(output, Tensor) else output.logits


def _row(case: Case, official: Callable[[SequenceModelConfig], nn.Module] | None) -> dict[str, Any]:
    row: dict[str, Any] = {"model": case.model, "batch": case.batch, "length": case.length}
    row["captured"] = case.captured
    makers: dict[str, Callable[[SequenceModelConfig], nn.Module] | None] = {
        "ours": lambda config: SequenceModel(config).cuda(),
        "official": official if case.with_official else None,
    }
    for who, make in makers.items():
        rate, peak = None, None
        try:
            rate, peak = _measure(make(case.config), case) if make else (None, None)
        except RuntimeError as error:
            if who == "ours" or not case.captured:
                raise
            print(f"Capture of the official {case.model} as a CUDA graph failed: {error}")
        row |= {f"{who}_tokens_per_s": rate, f"{who}_peak_gib": peak}
        gc.collect()
        torch.cuda.empty_cache()
    text = f"{case.model}{', captured' if case.captured else ''}, {case.batch} x {case.length}: "
    text += f"{row['ours_tokens_per_s']:,.0f} tokens/s, {row['ours_peak_gib']:.1f} GiB"
    if row["official_tokens_per_s"]:
        ratio = row["ours_tokens_per_s"] / row["official_tokens_per_s"]
        text += f"; official {row['official_tokens_per_s']:,.0f}, {row['official_peak_gib']:.1f} GiB"
        text += f"; ratio {ratio:.2f}"
    print(text, flush=True)
    return row


def _measure(model: nn.Module, case: Case) -> tuple[float, float]:
    """Return the median tokens/s of a training step, and the peak memory (GiB)."""
    rate = torch.tensor(1e-3, device="cuda")
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, fused=True, capturable=True)
    tokens = torch.randint(12, (case.batch, case.length + 1), device="cuda")

    def step() -> None:
        loss = cross_entropy_sum(_logits(model, tokens[:, :-1]), tokens[:, 1:]) / tokens[:, 1:].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    for _ in range(WARM_UP):
        step()
    torch.cuda.reset_peak_memory_stats()
    run_step = capture(step) if case.captured else step
    seconds = sorted(_seconds(run_step) for _ in range(ROUNDS))[ROUNDS // 2]
    return case.batch * case.length / seconds, torch.cuda.max_memory_allocated() / 2**30


def _seconds(work: Callable[[], None]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
