"""Sampling speed on a GPU: `python -m pipelines.benchmarks.sampling`, with --publish into
results/sampling.json.

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

from core.decoding.decoder import Decoder
from core.decoding.state import Model
from core.models.multiscale import MultiscaleModel, MultiscaleModelConfig
from core.models.sequence import SequenceModel, SequenceModelConfig
from kernels.provenance import write_results

COMMAND = "python -m pipelines.benchmarks.sampling --publish"
SC09_SMALL = MultiscaleModelConfig()
YOUTUBEMIX = MultiscaleModelConfig(n_layer=3, pools=[16, 16])
D256X8 = SequenceModelConfig(vocab_size=16, d_model=256, n_layer=8, tie_embeddings=False)
D768X24 = SequenceModelConfig(vocab_size=256, d_model=768, n_layer=24, tie_embeddings=False)
TOLERANCE = 5e-2  # of log-probabilities, for weights in bf16
CHECKED = 2048  # tokens that are compared with forward
LONGEST = 4.0  # seconds; a case that would take longer is measured over fewer steps


@dataclass(frozen=True)
class Case:
    """A row of the table. steps: tokens of each sample that are timed."""

    case: str
    config: Any
    batch: int
    steps: int


CASES = (
    Case("sc09_small", SC09_SMALL, 1, 16_000),
    Case("sc09_small", SC09_SMALL, 128, 16_000),
    Case("d256x8", D256X8, 1, 8_192),
    Case("d256x8", D256X8, 1024, 4_096),
    Case("d768x24", D768X24, 1, 2_048),
    Case("sc09_small", SC09_SMALL, 10_240, 16_000),
    Case("youtubemix", YOUTUBEMIX, 1, 16_384),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.benchmarks.sampling", description=__doc__)
    parser.add_argument("--publish", action="store_true", help="write results/sampling.json")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no GPU here to measure.")
    rows = []
    for case in CASES:
        rows.append(measured(case))
        if arguments.publish:
            write_results(Path("results/sampling.json"), COMMAND, torch.device("cuda"), 0, rows)


def made(config: Any) -> Model:
    """A model of random weights, whose distributions are not even.

    Sequence models have a head of their own: one that is the embedding would make random weights repeat a
    token for certain, whatever the engine computes.
    """
    torch.manual_seed(0)
    model: Model = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    model.embedding.weight.data *= 3
    return model.cuda()


def measured(case: Case) -> dict[str, Any]:
    """One row."""
    model = made(case.config)
    error = disagreement(model)
    row: dict[str, Any] = {"case": case.case, "batch": case.batch, "error": error}
    if error > TOLERANCE:
        print(f"{case.case}: log-probabilities are {error:.1e} off forward's, so its speed means nothing.")
        return row | {"ours_per_s": None, "official_per_s": None}
    ours = rate(model, case)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    official = official_rate(case)
    text = f"{case.case}, batch {case.batch}: {ours:,.0f} tokens/s, {case.batch / ours * 1e6:.1f} us a step"
    if official:
        text += f"; official {official:,.0f}, ratio {ours / official:.2f}"
    print(f"{text}; error {error:.0e}", flush=True)
    return row | {"ours_per_s": ours, "official_per_s": official}


def decoder(model: Model, batch: int) -> Decoder:
    """A decoder of bf16 weights."""
    with torch.autocast("cuda", torch.bfloat16):
        return Decoder(model, batch)


def rate(model: Model, case: Case) -> float:
    """Tokens a second of one long call, after a short one that says how long it may be."""
    samples = decoder(model, case.batch)
    samples.advance(17)
    short = 256
    estimate = _seconds(lambda: samples.advance(short)) / short
    steps = max(short, min(case.steps, int(LONGEST / estimate)))
    return case.batch * steps / _seconds(lambda: samples.advance(steps))


def _seconds(work: Callable[[], Any]) -> float:
    torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    torch.cuda.synchronize()
    return time.perf_counter() - start


@torch.no_grad()
def disagreement(model: Model) -> float:
    """The largest difference from the log-probabilities of forward in float32 over CHECKED tokens."""
    tokens, log_probability = decoder(model, 2).advance(CHECKED)
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
    return case.batch * 512 / _seconds(lambda: generate(512))


if __name__ == "__main__":
    main()
