"""All metrics of a set of clips at once, against the training clips, each with its interval."""

from typing import Literal

import torch
from torch import Tensor

from audio.evaluation.judgement import Judgement
from audio.metrics.bins import BINS, Bins
from audio.metrics.bootstrap import Interval, bootstrap
from audio.metrics.frechet import enough_to_extrapolate, fit_gaussian, frechet_distance, frechet_infinity
from audio.metrics.inception import am_score, inception_score, modified_inception_score
from audio.metrics.published import published_inception_score, published_modified_inception_score
from core.random import Integers

Mode = Literal["correct", "paper"]
"""paper: the inception score and its modification as published code computes them (`published`)."""


class Suite:
    """The metrics against reference clips: reference is the judgement of the training clips.

    classes: their names. The features are kept on `device`, where the Frechet distances are computed.
    """

    def __init__(self, reference: Judgement, classes: tuple[str, ...], device: torch.device) -> None:
        self.classes = classes
        self.device = device
        self._log_probabilities = reference.log_probabilities
        self._gaussian = fit_gaussian(reference.features.to(device))
        self._bins = Bins(reference.features) if len(reference.features) >= BINS else None

    def measure(
        self, clips: Judgement, mode: Mode = "correct", resamples: int = 0, seed: int = 0
    ) -> dict[str, Interval]:
        """Every metric by name, with its bootstrap interval; `share_<class>` for each class.

        What too few clips cannot give is absent: fid_infinity, ndb. `notes` says why. Raises ValueError for
        fewer than two clips and for features that are not finite.
        """
        features = clips.features.to(self.device)
        bins = None if self._bins is None else self._bins.of(clips.features)

        def metrics(chosen: Tensor) -> dict[str, float]:
            values = self._frechet(features[chosen.to(self.device)])
            values |= self._inception(clips.log_probabilities[chosen], mode)
            values |= self._spread(clips.classes[chosen], None if bins is None else bins[chosen.numpy()])
            return values

        return bootstrap(metrics, len(features), resamples, seed)

    def notes(self, count: int) -> list[str]:
        """What a reader of the metrics of `count` clips must know, in whole sentences."""
        features, notes = len(self._gaussian.mean), []
        for whose, clips in (("These", count), ("The reference's", self._gaussian.clips)):
            if clips <= features:
                notes.append(
                    f"{whose} {clips:,} clips give a covariance of {features:,} features the rank "
                    f"{clips - 1:,} at most: the Frechet distance is too large, and compares with others of "
                    "as many clips only."
                )
        if not enough_to_extrapolate(count, features):
            notes.append(
                f"The Frechet distance is not extrapolated: that needs more than {2 * features + 1:,} clips."
            )
        if self._bins is None:
            notes.append(f"No bins were compared: that needs {BINS} training clips.")
        return notes

    def _frechet(self, features: Tensor) -> dict[str, float]:
        values = {"fid": frechet_distance(self._gaussian, features)}
        if enough_to_extrapolate(len(features), features.shape[1]):
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(len(features), generator=generator).to(self.device)
            values["fid_infinity"] = frechet_infinity(self._gaussian, features, order)
        return values

    def _inception(self, log_probabilities: Tensor, mode: Mode) -> dict[str, float]:
        paper = mode == "paper"
        plain = published_inception_score if paper else inception_score
        modified = published_modified_inception_score if paper else modified_inception_score
        return {
            "is": plain(log_probabilities),
            "mis": modified(log_probabilities),
            "am": am_score(self._log_probabilities, log_probabilities),
        }

    def _spread(self, classes: Tensor, bins: Integers | None) -> dict[str, float]:
        counts = torch.bincount(classes, minlength=len(self.classes)).double() / len(classes)
        values = {f"share_{name}": share for name, share in zip(self.classes, counts.tolist(), strict=True)}
        if bins is not None and self._bins is not None:
            values["ndb"] = self._bins.different(bins)
        return values
