"""What an audio run measures while it trains: held-out bits, in all and by position, as table and picture."""

from pathlib import Path

from torch import nn

from audio.data.pack import PackedAudio
from audio.data.windows import Windows
from audio.evaluation.likelihood import Likelihood, likelihood
from audio.evaluation.plots import draw_positions
from core.storage.atomic import write_json
from core.training import Validate, World

TABLE, PICTURE = "validation.json", "bits_by_position.png"


def validation(
    audio: PackedAudio, windows: Windows, conditional: bool, world: World, folder: Path
) -> Validate:
    """What measures a model on held-out windows; each time the first process leaves the last result in the
    run folder: TABLE with all parts of it, PICTURE with the bits a sample against the position."""

    def validate(model: nn.Module) -> dict[str, float]:
        measured = likelihood(model, audio, windows, world, conditional)
        if world.is_rank_0:
            write_table(measured, audio, folder / TABLE)
            draw_positions({f"{len(windows):,} windows of {audio.name}": measured}, folder / PICTURE)
        return measured.metrics()

    return validate


def write_table(measured: Likelihood, audio: PackedAudio, path: Path) -> None:
    """A likelihood as JSON: of which data and quantizer, over all samples, and a row a bin of positions."""
    content = {
        "data": audio.name,
        "quantizer": audio.quantizer,
        "samples": sum(measured.samples),
        "bits_per_sample": measured.bits,
        "by_position": measured.rows(),
    }
    write_json(path, content)
