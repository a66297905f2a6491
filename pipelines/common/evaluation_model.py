"""The part of an evaluation that needs the models themselves: their samples, and their bits on test clips."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from audio.evaluation.likelihood import likelihood
from core.checkpoints.checkpoint import read_header
from core.storage.atomic import replaced_atomically
from core.training import World
from pipelines import audio_sample
from pipelines.common.audio_data import AudioCheckpoint, AudioDataConfig, open_audio_data, trained_model
from pipelines.common.evaluation_source import SOUNDS, Source, folder_source
from pipelines.common.sampling import file_sha256, progress_bar

LIKELIHOOD = "likelihood.json"


def sampled_source(
    name: str, checkpoint: Path, run: Path, data: AudioDataConfig, world: World, **options: Any
) -> Source:
    """Clips sampled from a model into the evaluation's folder, and its bits on the test clips.

    options: count, seconds, batch_size, seed and sampling of audio_sample. What an interrupted evaluation has
    sampled is continued. Raises ValueError where the folder holds samples of other options.
    """
    asked = audio_sample.Config(
        checkpoint=str(checkpoint),
        output=str(run / name / SOUNDS),
        resume=True,
        **options,
    )
    model = trained_model(checkpoint, world.device)
    facts: dict[str, Any] = {
        "path": str(checkpoint),
        "checkpoint_sha256": file_sha256(asked.checkpoint_file),
        "quantizer": model.quantizer,
        "parameters": sum(parameter.numel() for parameter in model.model.parameters()),
    }
    facts["nll_bits"] = test_bits(name, model, facts["checkpoint_sha256"], run, data, world)
    audio_sample.generate(asked)
    source = folder_source(name, "model", run / name / SOUNDS, run, facts)
    return replace(source, notes=[*source.notes, *training_notes(asked.checkpoint_file, data)])


def test_bits(
    name: str, model: AudioCheckpoint, checkpoint_sha256: str, run: Path, data: AudioDataConfig, world: World
) -> float:
    """Bits a sample of the test clips under a model, in the model's own codes; measured once."""
    own = replace(data, quantizer=model.quantizer, conditional=bool(model.classes))
    opened = open_audio_data(own, world)
    windows = opened.windows["test"]
    key = {
        "checkpoint": checkpoint_sha256,
        "data": opened.packed.name,
        "sha256": opened.packed.sha256,
        "length": data.length,
        "keep_rest": data.keep_rest,
    }
    path = run / name / LIKELIHOOD
    kept = kept_bits(path, key)
    if kept is not None:
        return kept
    path.parent.mkdir(parents=True, exist_ok=True)
    with progress_bar(len(windows), 0, "clip") as bar:
        bar.set_description(f"likelihood, {name}")
        conditional = bool(model.classes)
        bits = likelihood(model.model, opened.packed, windows, world, conditional, advance=bar.update).bits
    with replaced_atomically(path) as temporary:
        temporary.write_text(json.dumps({"of": key, "nll_bits": bits}, indent=1) + "\n", encoding="utf-8")
    return bits


def kept_bits(path: Path, key: dict[str, Any]) -> float | None:
    """What an evaluation has measured; None where it is of another key, damaged or not there."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return kept["nll_bits"] if kept["of"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def training_notes(checkpoint: Path, data: AudioDataConfig) -> list[str]:
    """A sentence where a model was trained on other clips, or another split, than it is measured against."""
    trained = read_header(checkpoint).config["data"]
    if (trained["source"], trained["sha256"]) == (data.source, data.sha256):
        return []
    return [
        f"This model was trained on other clips, or another split ({trained['source']}), than it is measured "
        f"against ({data.source}): its bits and distances are not those of held-out clips."
    ]
