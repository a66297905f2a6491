"""What a DNA model must beat: Markov models of the training bases on the held-out ones, measured once."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from bio.genome.spans import Spans, total
from bio.scoring.markov import fit_markov, markov_bits
from bio.windows.splits import separate
from bio.windows.window import TiledWindows
from core.storage.atomic import write_json
from pipelines.common.dna import DnaData

TABLE = "markov.json"


def markov_baseline(
    data: DnaData, windows: TiledWindows, orders: Sequence[int], folder: Path
) -> dict[int, float]:
    """Bits per base by order, on what held-out windows read, of Markov models fitted on the training bases.

    They stay in TABLE in `folder`, and are read there as long as both are the same bases. Progress on stderr.
    Raises ValueError for an order that cannot be counted.
    """
    train, held_out = separate(data.splits)["train"], windows.coverage()
    table = folder / TABLE
    bases = _checksum(data, train, held_out)
    known = _read(table, bases)
    if missing := [order for order in orders if order not in known]:
        for order in tqdm(missing, desc="Markov models", unit="order", dynamic_ncols=True):
            known[order] = markov_bits(fit_markov(data.genome, train, order), data.held_out_genome, held_out)
        content = {
            "bases": bases,
            "train_bases": total(train),
            "held_out_bases": total(held_out),
            "rows": [{"order": order, "bits_per_base": known[order]} for order in sorted(known)],
        }
        write_json(table, content)
    return {order: known[order] for order in orders}


def _read(table: Path, bases: str) -> dict[int, float]:
    """What the table holds of these bases; nothing where it is absent or of others."""
    if not table.exists():
        return {}
    content = json.loads(table.read_text(encoding="utf-8"))
    if content["bases"] != bases:
        return {}
    return {row["order"]: row["bits_per_base"] for row in content["rows"]}


def _checksum(data: DnaData, train: Spans, held_out: Spans) -> str:
    """One text for the training and the held-out bases."""
    text = hashlib.sha256()
    for genome, spans in ((data.genome, train), (data.held_out_genome, held_out)):
        text.update(genome.sha256.encode() + spans.tobytes())
    return text.hexdigest()
