"""Listening page: clips of several models with pictures, in one HTML file that needs no network.

The file contains sound and pictures, about 60 kB per second of sound, so a page of some hundred clips can be
opened from a disk, sent, and archived. Without JavaScript it is a table with players.
"""

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import soundfile
from jinja2 import Environment, StrictUndefined

from audio.data.waveform import RATE, Waveform, as_pcm
from audio.listening.pictures import WAVE_HEIGHT, WAVE_WIDTH, spectrogram_png, waveform_path

TEMPLATE = Path(__file__).with_suffix(".html")
HEADERS = {
    "name": "clip",
    "model": "model",
    "class": "class",
    "confidence": "confidence",
    "bits": "bits per sample",
}
"""Column heads by sort key."""
MIN_RELATIVE_WIDTH = 0.1

Summary = Mapping[str, Mapping[str, str]]
"""Model -> column -> text of the cell. A column that is empty for every model is left out."""


class ListeningClip(NamedTuple):
    """Clip of a listening page; None marks an unknown value.

    waveform: (length,) at 16 kHz. predicted: class predicted by a classifier, with its confidence in [0, 1].
    label: known class. bits: bits per sample under the model; fewer is likelier.
    """

    model: str
    name: str
    waveform: Waveform
    predicted: str | None = None
    confidence: float | None = None
    label: str | None = None
    bits: float | None = None

    def sort_keys(self) -> dict[str, str]:
        """Return the texts that the page sorts and filters by; an empty text sorts last."""
        return {
            "name": self.name,
            "model": self.model,
            "class": self.predicted or "",
            "confidence": "" if self.confidence is None else f"{self.confidence:.6f}",
            "bits": "" if self.bits is None else f"{self.bits:.6f}",
        }


def listening_page(clips: Sequence[ListeningClip], title: str, description: str, summary: Summary) -> str:
    """Return the page as HTML. Clips keep their order; models follow the order of their first clip.

    Raises ValueError if there is no clip, and for a clip that cannot be written as sound.
    """
    if not clips:
        raise ValueError("There is no clip for the page. Give folders that contain some.")
    models = list(dict.fromkeys(clip.model for clip in clips))
    sort_keys = [clip.sort_keys() for clip in clips]
    columns = [key for key in HEADERS if any(keys[key] for keys in sort_keys)]
    if len(models) == 1:
        columns.remove("model")
    summary_columns = dict.fromkeys(column for cells in summary.values() for column in cells)
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        description=description,
        models=models,
        classes=sorted({clip.predicted for clip in clips if clip.predicted is not None}),
        summary=summary,
        summary_columns=[
            column for column in summary_columns if any(cells.get(column) for cells in summary.values())
        ],
        headers=HEADERS,
        columns=columns,
        wave_size=(WAVE_WIDTH, WAVE_HEIGHT),
        rows=_rows(clips),
    )


def wav_bytes(waveform: Waveform) -> bytes:
    """Return a 16-bit WAV file of samples (length,) at 16 kHz. Raises ValueError for NaN and infinity."""
    file = io.BytesIO()
    soundfile.write(file, as_pcm(waveform), RATE, format="WAV")
    return file.getvalue()


def _rows(clips: Sequence[ListeningClip]) -> Iterator[dict[str, Any]]:
    """Yield the template's values for each clip; widths of pictures are relative to the longest clip."""
    longest = max(len(clip.waveform) for clip in clips)
    for clip in clips:
        yield {
            "clip": clip,
            "sort_keys": clip.sort_keys(),
            "width": max(MIN_RELATIVE_WIDTH, len(clip.waveform) / longest),
            "sound": _data_uri("audio/wav", wav_bytes(clip.waveform)),
            "wave_path": waveform_path(clip.waveform),
            "spectrogram": _data_uri("image/png", spectrogram_png(clip.waveform)),
        }


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
