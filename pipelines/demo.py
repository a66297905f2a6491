"""Pretrain a small Mamba on a megabase of human DNA, generate from it, and compare it with baselines.

    make demo

The bundled sample is 1 Mb of chromosome 20 (GRCh37); its last fifth is held out. Any key of dna_pretrain can
be set; the defaults are in pipelines/configs/demo.yaml. A second demo replaces the first in runs/demo.
"""

import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bio.genome.vocabulary import encode, without_mask
from bio.sample import SAMPLE
from bio.scoring.evaluation import read_validation
from bio.scoring.kmer import Spectrum, jensen_shannon, kmer_spectrum, pearson
from bio.scoring.plots import plot_bits, plot_spectra
from bio.windows.training_data import TrainingData, open_data
from core.training import distributed_world
from pipelines import dna_generate, dna_pretrain
from pipelines.common.cli import command
from pipelines.common.config import parse_config
from pipelines.dna_pretrain import bits_table, named_markov

FOLDER = Path("runs/demo")
K = 4
COUNT, LENGTH = 64, 1024
PICTURES = ("loss_curve.png", "bits_by_context.png", "bits_per_base.png", "spectrum.png")


@command
def main(arguments: Sequence[str]) -> None:
    start = time.perf_counter()
    settings = ["--config", "demo", f"data.fasta={SAMPLE}", *arguments]
    config = parse_config(dna_pretrain.Config, settings, "demo", __doc__ or "")
    folder = Path(config.run.dir)
    with distributed_world() as world:
        data = open_data(config.data, world)
    if "valid" not in data.held_out:
        raise ValueError("data.valid_fraction is 0; the demo needs held-out bases. Set it above 0.")
    if folder == FOLDER and not (config.resume or config.dry_run):
        shutil.rmtree(folder, ignore_errors=True)

    progress = dna_pretrain.pretrain(config)
    if progress is None:
        return
    markov = read_validation(folder)["markov"]
    bits = {**named_markov(markov), "Mamba": progress.validation["bits_per_base"]}
    output = str(folder / "generated.fa")
    fasta = dna_generate.generate(
        dna_generate.Config(str(folder), count=COUNT, length=LENGTH, output=output, overwrite=True)
    )
    spectra = spectra_by_source(data, fasta)

    plot_bits(bits, folder / "bits_per_base.png")
    plot_spectra(spectra["held out"], spectra["generated"], K, folder / "spectrum.png")
    print(bits_table(bits), spectrum_table(spectra), sep="\n\n")
    print(f"\nThe run is in {folder}: {fasta.name}, {', '.join(PICTURES)}, checkpoints, metrics.jsonl.")
    print(f"Total time: {time.perf_counter() - start:.0f} seconds.")


def spectra_by_source(data: TrainingData, fasta: Path) -> dict[str, Spectrum]:
    """Return the k-mer spectra of the held-out, the training and the generated bases."""
    lines = fasta.read_text(encoding="ascii").splitlines()
    generated = "".join(line if not line.startswith(">") else "N" for line in lines)
    held_out, train = (
        np.concatenate([without_mask(genome.bases[start:end]) for start, end in data.splits[split].tolist()])
        for split, genome in (("valid", data.held_out_genome), ("train", data.genome))
    )
    spectra = {"held out": held_out, "train": train, "generated": encode(generated)}
    return {name: kmer_spectrum(tokens, K) for name, tokens in spectra.items()}


def spectrum_table(spectra: dict[str, Spectrum]) -> str:
    """Return the distances of the training and the generated DNA from the held-out DNA."""
    lines = [
        f"{name:<10}  correlation {pearson(spectra['held out'], spectra[name]):.4f}, "
        f"Jensen-Shannon divergence {jensen_shannon(spectra['held out'], spectra[name]):.5f} bits"
        for name in ("train", "generated")
    ]
    return "\n".join([f"{K}-mer spectrum, compared with the held-out bases", *lines])


if __name__ == "__main__":
    sys.exit(main())
