"""Training speed of the multi-scale audio model on a GPU: `python -m pipelines.benchmarks.multiscale`.

Cases are one minute of audio in one window, and the small model of spoken digits of the paper. If
mamba_ssm is installed, the same net is also measured with its mixers in place of ours. Both nets have
the same weights, bf16 autocast and fused AdamW. Speeds are measured only if their logits and gradients
agree in fp32.

"replayed" is the same step as a CUDA graph, which core.training captures if batches have one shape.
--publish writes results/audio_speed.json.
"""

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.layers.block import Block
from core.models.multiscale import MixerConfig, MultiscaleModel, MultiscaleModelConfig
from core.training import Batch, TrainingConfig, World
from core.training.cuda_graph import WARM_UP, capture, step_without_sync
from core.training.optimizer import adamw
from kernels.provenance import write_results

COMMAND = "python -m pipelines.benchmarks.multiscale --publish"
S4D, S6, REAL = MixerConfig(complex=True, selective=False), MixerConfig(complex=True), MixerConfig()
SMALL = MultiscaleModelConfig(d_model=64, n_layer=8, pools=[4, 4])
MUSIC = MultiscaleModelConfig(d_model=64, n_layer=3, pools=[16, 16])
ROUNDS = 5
TOLERANCE = 3e-3


@dataclass(frozen=True)
class Case:
    """Model and batch of one row."""

    model: str
    config: MultiscaleModelConfig
    batch: int
    length: int
    official: bool  # the official mixers have no complex numbers and no S4D


CASES = (
    Case("3.5M, S4D around S6", replace(MUSIC, outer=S4D, middle=S4D, centre=S6), 1, 958_464, False),
    Case("3.5M, S6 complex", replace(MUSIC, outer=S6, middle=S6, centre=S6), 1, 958_464, False),
    Case("3.5M, S6", replace(MUSIC, outer=REAL, middle=REAL, centre=REAL), 1, 958_464, True),
    Case("sc09_small, S6", replace(SMALL, outer=REAL, middle=REAL, centre=REAL), 16, 16_000, True),
    Case("sc09_small, S4D around S6", replace(SMALL, outer=S4D, middle=S4D, centre=S6), 16, 16_000, False),
)


class OfficialMixer(nn.Module):
    """Mixer of mamba_ssm with the interface of ours."""

    def __init__(self, mixer: nn.Module) -> None:
        super().__init__()
        self.mixer = mixer

    def forward(self, x: Tensor, cu_seqlens: None = None) -> Tensor:
        """Map x (batch, length, d_model) to y of the same shape."""
        return self.mixer(x)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.multiscale", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write results/audio_speed.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here; this benchmark needs one.")
    official = official_mixer()
    if official is None:
        print("mamba_ssm is not installed; only our model is measured.")
    elif (error := disagreement(official, torch.device("cuda"))) > TOLERANCE:
        sys.exit(f"The models disagree by {error:.1e}; the limit is {TOLERANCE:.0e}. Nothing is timed.")
    else:
        print(f"Largest relative difference of logits and gradients from the official mixers: {error:.1e}")
    rows = [row(case, official) for case in CASES]
    if arguments.publish:
        write_results(Path("results/audio_speed.json"), COMMAND, torch.device("cuda"), 0, rows)


def official_mixer() -> Callable[..., nn.Module] | None:
    """Return the class of the official mixer, or None without mamba_ssm."""
    try:
        from mamba_ssm.modules.mamba_simple import Mamba
    except ImportError:
        return None
    return Mamba


def with_official_mixers(model: MultiscaleModel, official: Callable[..., nn.Module]) -> MultiscaleModel:
    """Replace the mixers of a model by official ones with the same weights, and return the model."""
    shape = model.config
    for block in [module for module in model.modules() if isinstance(module, Block)]:
        weights = block.mixer.state_dict()
        d_model = block.norm.weight.numel()
        theirs = official(d_model, shape.d_state, shape.d_conv, shape.expand, device=block.norm.weight.device)
        theirs.load_state_dict(weights)
        block.mixer = OfficialMixer(theirs)  # type: ignore[assignment]
    return model


def disagreement(official: Callable[..., nn.Module], device: torch.device) -> float:
    """Return the largest relative difference (root mean square) of logits and gradients in fp32."""
    outputs = []
    tokens = torch.randint(256, (2, 1000), generator=torch.Generator().manual_seed(1)).to(device)
    for change in (lambda model: model, lambda model: with_official_mixers(model, official)):
        torch.manual_seed(0)
        model = change(MultiscaleModel(replace(SMALL, n_layer=1)).to(device))
        logits = model(tokens)
        logits.square().mean().backward()
        # the official modules are one level deeper
        named = {name.replace("mixer.mixer", "mixer"): p.grad for name, p in model.named_parameters()}
        outputs.append([logits.detach(), *(named[name] for name in sorted(named))])
    differences = [(ours - theirs).norm() / theirs.norm() for ours, theirs in zip(*outputs, strict=True)]
    return torch.stack(differences).max().item()


def row(case: Case, official: Callable[..., nn.Module] | None) -> dict[str, Any]:
    """Measure and print one row: tokens/s and peak memory, ours and official (None without mamba_ssm)."""
    result: dict[str, Any] = {"model": case.model, "batch": case.batch, "length": case.length}
    for who in ("ours", "ours_replayed", "official"):
        rate = peak = None
        if who != "official":
            rate, peak = measure(MultiscaleModel(case.config).cuda(), case, replayed=who == "ours_replayed")
        elif official is not None and case.official:
            model = with_official_mixers(MultiscaleModel(case.config).cuda(), official)
            rate, peak = measure(model, case, replayed=False)
        result |= {f"{who}_tokens_per_s": rate, f"{who}_peak_gib": peak}
        gc.collect()
        torch.cuda.empty_cache()
    print(text(result), flush=True)
    return result


def text(result: dict[str, Any]) -> str:
    """Return a row as a line of text."""
    ours, theirs = result["ours_tokens_per_s"], result["official_tokens_per_s"]
    line = f"{result['model']}, {result['batch']} x {result['length']:,}: {ours:,.0f} samples/s, "
    line += f"{result['ours_peak_gib']:.1f} GiB; replayed {result['ours_replayed_tokens_per_s']:,.0f}"
    if theirs is not None:
        line += f"; official {theirs:,.0f}, {result['official_peak_gib']:.1f} GiB; ratio {ours / theirs:.2f}"
    return line


def measure(model: nn.Module, case: Case, replayed: bool) -> tuple[float, float]:
    """Return the median samples/s of a training step, and the peak memory (GiB)."""
    config = TrainingConfig(precision="bf16", clip=0.1)
    world = World(0, 1, torch.device("cuda", torch.cuda.current_device()))
    optimizer = adamw(model, config)
    codes = torch.randint(256, (2, case.batch, case.length), device="cuda")
    batch = Batch(*codes)

    def step() -> None:
        step_without_sync(model, optimizer, batch, config, world)

    for _ in range(WARM_UP):
        step()
    torch.cuda.reset_peak_memory_stats()
    run_step = capture(step) if replayed else step
    seconds = statistics.median(seconds_of(run_step) for _ in range(ROUNDS))
    return case.batch * case.length / seconds, torch.cuda.max_memory_allocated() / 2**30


def seconds_of(work: Callable[[], None]) -> float:
    """Return the run time (seconds), including the work of the GPU."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
