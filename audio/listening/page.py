"""A page to listen to: clips of several models with their pictures, in one HTML file that needs no network.

Sound and pictures are part of the file, about 60 kB for a second of sound, so that a page of some hundred
clips can be opened from a disk, sent, and kept. Without JavaScript it is a table with players.
"""

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import NamedTuple

import soundfile

from audio.data.waveform import RATE, Waveform, as_pcm
from audio.listening.pictures import WAVE_HEIGHT, WAVE_WIDTH, spectrogram_png, waveform_path

TEMPLATE = Path(__file__).with_suffix(".html")
HEADERS = {
    "name": "clip",
    "model": "model",
    "class": "class",
    "confidence": "confidence",
    "bits": "bits a sample",
}
NUMBERS = ("confidence", "bits")
NARROWEST = 0.1

Summary = Mapping[str, Mapping[str, str]]
"""Model -> column -> what its cell says; a column that says nothing of any model is left out."""


class ListeningClip(NamedTuple):
    """A clip to be heard.

    waveform: (length,) at 16 kHz. said: the class that a classifier hears in it, with its confidence in
    [0, 1]. label: the class that it is known to be. bits: what a sample of it costs under the model; the
    fewer, the likelier. None is what is not known.
    """

    model: str
    name: str
    waveform: Waveform
    said: str | None = None
    confidence: float | None = None
    label: str | None = None
    bits: float | None = None


def listening_page(clips: Sequence[ListeningClip], title: str, description: str, summary: Summary) -> str:
    """The page as HTML. Clips keep their order; models take the order in which they first occur.

    Raises ValueError where there is no clip, and for a clip that cannot be written as sound.
    """
    if not clips:
        raise ValueError("There is no clip for the page: name folders that hold some.")
    models = list(dict.fromkeys(clip.model for clip in clips))
    return Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(title),
        description=escape(description),
        summary=_summary_table(summary, models),
        filters=_filters(clips, models),
        columns=len(models),
        table=_clip_table(clips, models),
    )


def _summary_table(summary: Summary, models: Sequence[str]) -> str:
    """A row a model, a column for whatever is known of any."""
    named = dict.fromkeys(column for cells in summary.values() for column in cells)
    columns = [column for column in named if any(cells.get(column) for cells in summary.values())]
    head = "".join(f'<th scope="col" class="number">{escape(column)}</th>' for column in columns)
    rows = "".join(
        f"<tr>{_model_header(model, models)}"
        + "".join(f'<td class="number">{escape(cells.get(column, ""))}</td>' for column in columns)
        + "</tr>"
        for model, cells in summary.items()
    )
    return f'<table><thead><tr><th scope="col">model</th>{head}</tr></thead><tbody>{rows}</tbody></table>'


def _filters(clips: Sequence[ListeningClip], models: Sequence[str]) -> str:
    """A choice of model and one of class, each where there is something to choose."""
    said = sorted({clip.said for clip in clips if clip.said is not None})
    choices = {"model": ("Every model", models), "class": ("Every class", said)}
    return "".join(
        f'<select name="{key}" aria-label="Which {key}"><option value="">{every}</option>'
        f"{_options(values)}</select>"
        for key, (every, values) in choices.items()
        if len(values) > 1
    )


def _options(values: Iterable[str]) -> str:
    return "".join(f"<option>{escape(value)}</option>" for value in values)


def _clip_table(clips: Sequence[ListeningClip], models: Sequence[str]) -> str:
    """The table of clips: headers that sort, headings for the side-by-side view, a row a clip."""
    rows = [_sort_keys(clip) for clip in clips]
    shown = [
        key for key in HEADERS if any(row[key] for row in rows) and not (key == "model" and len(models) == 1)
    ]
    sortable = "".join(
        f'<th scope="col" data-key="{key}" class="{_kind(key)}">'
        f'<button type="button">{HEADERS[key]}</button></th>'
        for key in shown
    )
    headings = "".join(
        f'<tr class="heading" style="{_column(model, models)}">{_model_header(model, models)}</tr>'
        for model in models
    )
    longest = max(len(clip.waveform) for clip in clips)
    body = "\n".join(_clip_row(clip, shown, models, longest) for clip in clips)
    return (
        '<table id="clips"><thead><tr><th scope="col" class="unsortable">listen</th>'
        f'<th scope="col" class="unsortable">spectrogram</th>{sortable}</tr></thead>'
        f"<tbody>{headings}\n{body}</tbody></table>"
    )


def _sort_keys(clip: ListeningClip) -> dict[str, str]:
    """By what the page's script sorts and filters; empty where it is not known, which is sorted last."""
    return {
        "name": clip.name,
        "model": clip.model,
        "class": clip.said or "",
        "confidence": "" if clip.confidence is None else f"{clip.confidence:.6f}",
        "bits": "" if clip.bits is None else f"{clip.bits:.6f}",
    }


def _clip_row(clip: ListeningClip, shown: Sequence[str], models: Sequence[str], longest: int) -> str:
    """A row with the clip's cells; its pictures are as wide as it is long, beside the longest."""
    part = max(NARROWEST, len(clip.waveform) / longest)
    keys = " ".join(f'data-{key}="{escape(value)}"' for key, value in _sort_keys(clip).items())
    contents = {
        "name": escape(clip.name),
        "model": escape(clip.model),
        "class": _class(clip),
        "confidence": _confidence(clip),
        "bits": "" if clip.bits is None else f'{clip.bits:.3f}<span class="unit"> bits</span>',
    }
    cells = "".join(f'<td class="{_kind(key)}">{contents[key]}</td>' for key in shown)
    return (
        f'<tr class="clip" {keys} style="{_column(clip.model, models)};--part:{part:.3f}">'
        f"{_player(clip)}"
        f'<td class="spectrogram"><img loading="lazy" alt="Log-mel spectrogram of {escape(clip.name)}" '
        f'src="{_data_uri("image/png", spectrogram_png(clip.waveform))}"></td>{cells}</tr>'
    )


def _class(clip: ListeningClip) -> str:
    """The class that is heard, and the one that is known where it is another."""
    said = escape(clip.said or "")
    return (
        said
        if clip.label in (None, clip.said)
        else f"{said}<small>labelled {escape(clip.label or '')}</small>"
    )


def _confidence(clip: ListeningClip) -> str:
    if clip.confidence is None:
        return ""
    bar = f'<span class="share"><i style="--share:{clip.confidence:.1%}"></i></span>'
    return f"{clip.confidence:.0%}{bar}"


def _player(clip: ListeningClip) -> str:
    """The cell with the sound: native controls, in whose place the page's script puts a button."""
    name = escape(clip.name)
    sound = _data_uri("audio/wav", wav_bytes(clip.waveform))
    return (
        '<td class="listen"><div class="player">'
        f'<button type="button" class="play" aria-label="Play {name}" aria-pressed="false" hidden></button>'
        f'<svg class="wave" viewBox="0 0 {WAVE_WIDTH} {WAVE_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="Waveform of {name}"><path d="{waveform_path(clip.waveform)}"/></svg></div>'
        f'<audio controls preload="none" src="{sound}"></audio></td>'
    )


def wav_bytes(waveform: Waveform) -> bytes:
    """A 16-bit WAV file of samples (length,) at 16 kHz. Raises ValueError for samples that are not finite."""
    file = io.BytesIO()
    soundfile.write(file, as_pcm(waveform), RATE, format="WAV")
    return file.getvalue()


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _model_header(model: str, models: Sequence[str]) -> str:
    return f'<th scope="row" class="model" style="{_column(model, models)}">{escape(model)}</th>'


def _column(model: str, models: Sequence[str]) -> str:
    """The model's number, from which its colour and its place side by side follow."""
    return f"--column:{models.index(model)}"


def _kind(key: str) -> str:
    """The CSS classes of a column."""
    return f"{key} number" if key in NUMBERS else key
