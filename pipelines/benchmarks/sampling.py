"""Sampling speed on a GPU: `python -m pipelines.benchmarks.sampling`.

An engine gets a speed only if its log-probabilities equal those of the forward pass. Official numbers
are from mamba_ssm's generate with CUDA graphs, if it is installed. --publish writes
results/sampling.json.
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
TOLERANCE = 5e-2  # difference of log-probabilities with bf16 weights
CHECKED = 2048  # tokens compared with the forward pass
LONGEST = 4.0  # seconds per case; a longer case gets fewer steps


@dataclass(frozen=True)
class Case:
    """Case of one row. steps: number of timed tokens per sample."""

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
        sys.exit("There is no GPU here; this benchmark needs one.")
    rows = []
    for case in CASES:
        rows.append(measure(case))
        if arguments.publish:
            write_results(Path("results/sampling.json"), COMMAND, torch.device("cuda"), 0, rows)


def make_model(config: Any) -> Model:
    """Return a model with random weights and non-uniform distributions.

    Sequence models have an untied head. With a tied head, random weights would always repeat one token
    and hide errors of the engine.
    """
    torch.manual_seed(0)
    model: Model = (SequenceModel if isinstance(config, SequenceModelConfig) else MultiscaleModel)(config)
    model.embedding.weight.data *= 3
    return model.cuda()


def measure(case: Case) -> dict[str, Any]:
    """Measure and print one row."""
    model = make_model(case.config)
    error = disagreement(model)
    row: dict[str, Any] = {"case": case.case, "batch": case.batch, "error": error}
    if error > TOLERANCE:
        print(f"{case.case}: log-probabilities differ by {error:.1e} (limit {TOLERANCE}); not timed.")
        return row | {"ours_per_s": None, "official_per_s": None}
    ours = rate(model, case)
    del model
    gc.collect()
    torch.cuda.empty_cache()
    official = official_rate(case)
    text = f"{case.case}, batch {case.batch}: {ours:,.0f} tokens/s, {case.batch / ours * 1e6:.1f} us per step"
    if official:
        text += f"; official {official:,.0f}, ratio {ours / official:.2f}"
    print(f"{text}; error {error:.0e}", flush=True)
    return row | {"ours_per_s": ours, "official_per_s": official}


def decoder(model: Model, batch: int) -> Decoder:
    """Return a decoder with bf16 weights."""
    with torch.autocast("cuda", torch.bfloat16):
        return Decoder(model, batch)


def rate(model: Model, case: Case) -> float:
    """Return tokens/s of one long call; a short call first estimates its length."""
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
    """Return the largest difference from the log-probabilities of a float32 forward pass."""
    tokens, log_probability = decoder(model, 2).advance(CHECKED)
    logits = model(tokens[:, :-1]).log_softmax(dim=-1)
    expected = logits.gather(-1, tokens[:, 1:, None])[..., 0]
    return (log_probability[:, 1:] - expected).abs().max().item()


def official_rate(case: Case) -> float | None:
    """Return tokens/s of mamba_ssm's generate with CUDA graphs, or None if it does not apply."""
    if not isinstance(case.config, SequenceModelConfig):
        return None
    try:
        from mamba_ssm.models.config_mamba import MambaConfig
        from mamba_ssm.models.mixer_seq_simple import MambaLMHeadModel
    except ImportError:
        return None
    config = case.config
    official_config = MambaConfig(
        d_model=config.d_model, n_layer=config.n_layer, vocab_size=config.vocab_size
    )
    model = MambaLMHeadModel(official_config, device="cuda", dtype=torch.bfloat16).eval()
    prompt = torch.zeros(case.batch, 16, dtype=torch.long, device="cuda")

    def generate(steps: int) -> None:
        model.generate(input_ids=prompt, max_length=16 + steps, cg=True, top_k=0, temperature=1.0)

    generate(8)
    return case.batch * 512 / _seconds(lambda: generate(512))


if __name__ == "__main__":
    main()
