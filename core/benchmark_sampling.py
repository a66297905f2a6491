"""Sampling speed on a GPU: `python -m core.benchmark_sampling`, with --publish into results/sampling.json.

Correctness first: no speed is printed of an engine whose log-probabilities are not forward's. The official
numbers are those of mamba_ssm's generate with CUDA graphs, measured beside where it is importable.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.decoding import Engine, Model, Situation
from core.decoding_graph import GraphEngine
from core.decoding_persistent import PersistentEngine
from core.generation import Decoder
from core.model import SequenceModel, SequenceModelConfig
from core.multiscale import MultiscaleModel, MultiscaleModelConfig
from core.sampling import SamplingConfig, sample_keys
from kernels.provenance import write_results

COMMAND = "python -m core.benchmark_sampling --publish"
SC09_SMALL = MultiscaleModelConfig()
YOUTUBEMIX = MultiscaleModelConfig(n_layer=3, pools=[16, 16])
D256X8 = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=8)
D768X24 = SequenceModelConfig(vocab_size=256, d_model=768, n_layer=24)
FLOAT32, BF16 = "float32", "bf16"
TOLERANCE = {FLOAT32: 1e-4, BF16: 5e-2}
CHECKED = 2048  # tokens that are compared with forward


@dataclass(frozen=True)
class Case:
    """A row of the table. seconds: of sound, for a clip."""

    case: str
    config: Any
    batch: int
    steps: int


CASES = (
    Case("sc09_small", SC09_SMALL, 1, 16_000),
    Case("sc09_small", SC09_SMALL, 128, 16_000),
    Case("sc09_small", SC09_SMALL, 10_240, 16_000),
    Case("youtubemix", YOUTUBEMIX, 1, 16_384),
    Case("d256x8", D256X8, 1, 8_192),
    Case("d256x8", D256X8, 64, 8_192),
    Case("d256x8", D256X8, 1024, 4_096),
    Case("d768x24", D768X24, 1, 2_048),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m core.benchmark_sampling", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write results/sampling.json")
    parser.add_argument("--verbose", action="store_true", help="every engine and precision, and short runs")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here to measure.")
    if arguments.verbose:
        return explore()
    rows = [measured(case) for case in CASES]
    if arguments.publish:
        write_results(Path("results/sampling.json"), COMMAND, torch.device("cuda"), 0, rows)
    return None


def made(config: Any) -> Model:
    """A model of random weights, whose distributions are far from even."""
    torch.manual_seed(0)
    model: Model = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    model.embedding.weight.data *= 10
    return model.cuda()


def measured(case: Case) -> dict[str, Any]:
    """One row, in bf16."""
    model = made(case.config)
    error = disagreement(model, lambda: decoder(model, 2, BF16))
    if error > TOLERANCE[BF16]:
        sys.exit(f"{case.case}: log-probabilities are {error:.1e} off forward's, so the speed means nothing.")
    ours = rate(lambda: decoder(model, case.batch, BF16), case.batch, case.steps)
    official = official_rate(case)
    row = {"case": case.case, "batch": case.batch, "ours_per_s": ours, "official_per_s": official}
    text = f"{case.case}, batch {case.batch}: {ours:,.0f} tokens/s, {case.batch / ours * 1e6:.1f} us a step"
    if official:
        text += f"; official {official:,.0f}, ratio {ours / official:.2f}"
    print(f"{text}; error {error:.0e}", flush=True)
    return row | {"error": error}


def decoder(model: Model, batch: int, precision: str) -> Decoder:
    with torch.autocast("cuda", torch.bfloat16, enabled=precision == BF16):
        return Decoder(model, batch)


def rate(make: Callable[[], Decoder | Engine], batch: int, steps: int) -> float:
    """Tokens a second of one long call, after a short one."""
    engine = make()
    engine.advance(257)
    torch.cuda.synchronize()
    start = time.perf_counter()
    engine.advance(steps)
    torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    return batch * steps / seconds


@torch.no_grad()
def disagreement(model: Model, make: Callable[[], Decoder]) -> float:
    """The largest difference from the log-probabilities of forward in float32 over CHECKED tokens."""
    tokens, log_probability = make().advance(CHECKED)
    logits = model(tokens[:, :-1]).log_softmax(dim=-1)
    expected = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return (log_probability[:, 1:] - expected).abs().max().item()


def official_rate(case: Case) -> float | None:
    """Tokens a second of mamba_ssm's own generation with CUDA graphs; None where it cannot run."""
    if not isinstance(case.config, SequenceModelConfig):
        return None
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    except ImportError:
        return None
    config = case.config
    its = MambaConfig(d_model=config.d_model, n_layer=config.n_layer, vocab_size=config.vocab_size)
    model = MambaLMHeadModel(its, device="cuda", dtype=torch.bfloat16).eval()
    prompt = torch.zeros(case.batch, 16, dtype=torch.long, device="cuda")

    def generate(steps: int) -> None:
        model.generate(input_ids=prompt, max_length=16 + steps, cg=True, top_k=0, temperature=1.0)

    generate(8)
    torch.cuda.synchronize()
    start = time.perf_counter()
    generate(512)
    torch.cuda.synchronize()
    return case.batch * 512 / (time.perf_counter() - start)


def explore() -> None:
    """Every engine and precision on every case, in short runs; one that fails is named, and the next runs."""
    for case in CASES:
        model = made(case.config)
        mask = torch.ones(model.config.padded_vocab_size, dtype=torch.bool, device="cuda")
        for precision in (BF16, FLOAT32):
            for name, make in (("persistent", PersistentEngine), ("graph", GraphEngine)):
                if name == "graph" and (case.batch > 1024 or precision == BF16):
                    continue
                try:
                    report(case, model, precision, name, make, mask)
                except Exception as error:
                    print(f"{case.case}, batch {case.batch}, {precision}, {name}: {error!r}", flush=True)


def report(case: Case, model: Model, precision: str, name: str, make: Any, mask: torch.Tensor) -> None:
    def engine() -> Engine:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == BF16):
            made_engine = make(model, case.batch, SamplingConfig(), mask)
        logits = torch.zeros(case.batch, len(mask), device="cuda")
        situation = Situation(logits, model.initial_state(case.batch), 0)
        made_engine.begin(situation, sample_keys(0, 0, case.batch, "cuda"))
        return made_engine

    first = engine()
    with torch.no_grad():
        start = time.perf_counter()
        tokens, log_probability = first.advance(512)
        logits = model(tokens[:4]).log_softmax(dim=-1)[:, :-1]
        expected = logits.gather(-1, tokens[:4, 1:, None])[..., 0]
        error = (log_probability[:4, 1:] - expected).abs().max().item()
    begun = time.perf_counter() - start
    del first
    speed = rate(engine, case.batch, min(case.steps, 2048))
    sizes = getattr(engine(), "_sizes", None)
    streams = f", {sizes.STREAMS} streams, {sizes.shared_memory() / 1024:.0f} KiB" if sizes else ""
    print(
        f"{case.case}, batch {case.batch}, {precision}, {name}{streams}: {speed:,.0f} tokens/s, "
        f"{case.batch / speed * 1e6:.1f} us a step; error {error:.1e}; first 512 in {begun:.1f} s",
        flush=True,
    )


if __name__ == "__main__":
    main()
