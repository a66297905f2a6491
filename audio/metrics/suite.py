"""All metrics of a set of clips against the training clips, with intervals."""

from typing import Literal

import torch
from torch import Tensor

from audio.metrics.bins import BINS, Bins
from audio.metrics.bootstrap import Estimate, bootstrap
from audio.metrics.frechet import can_extrapolate, fit_gaussian, frechet_distance, frechet_infinity
from audio.metrics.inception import am_score, inception_score, modified_inception_score
from audio.metrics.predictions import Predictions
from audio.metrics.published import published_inception_score, published_modified_inception_score
from core.random import Integers

Mode = Literal["correct", "paper"]
"""paper: inception score and modified inception score as published code computes them (`published`)."""


class Suite:
    """Metrics against reference clips.

    reference: predictions for the training clips. classes: class names. device: holds the features, and
    computes the Frechet distances.
    """

    def __init__(self, reference: Predictions, classes: tuple[str, ...], device: torch.device) -> None:
        self.classes = classes
        self.device = device
        self._log_probabilities = reference.log_probabilities
        self._gaussian = fit_gaussian(reference.features.to(device))
        self._bins = Bins(reference.features) if len(reference.features) >= BINS else None

    def measure(
        self, clips: Predictions, mode: Mode = "correct", resamples: int = 0, seed: int = 0
    ) -> dict[str, Estimate]:
        """Return every metric by name, with its bootstrap interval; `share_<class>` for each class.

        fid_infinity and ndb are absent if there are too few clips; `notes` gives the reason. Raises
        ValueError for fewer than two clips, and for features that are not finite.
        """
        features = clips.features.to(self.device)
        bins = None if self._bins is None else self._bins.assign(clips.features)

        def metrics(indices: Tensor) -> dict[str, float]:
            values = self._frechet(features[indices.to(self.device)])
            values |= self._inception(clips.log_probabilities[indices], mode)
            values |= self._spread(clips.classes[indices], None if bins is None else bins[indices.numpy()])
            return values

        return bootstrap(metrics, len(features), resamples, seed)

    def notes(self, count: int) -> list[str]:
        """Return sentences about the limits of metrics of `count` clips."""
        features, notes = len(self._gaussian.mean), []
        for owner, clips in (("These", count), ("The reference's", self._gaussian.clips)):
            if clips <= features:
                notes.append(
                    f"{owner} {clips:,} clips give a covariance of {features:,} features the rank "
                    f"{clips - 1:,} at most: the Frechet distance is too large. Compare it only with "
                    "distances of equally many clips."
                )
        if not can_extrapolate(count, features):
            notes.append(
                f"The Frechet distance is not extrapolated: that needs more than {2 * features + 1:,} clips."
            )
        if self._bins is None:
            notes.append(f"No bins were compared: that needs {BINS} training clips.")
        return notes

    def _frechet(self, features: Tensor) -> dict[str, float]:
        values = {"fid": frechet_distance(self._gaussian, features)}
        if can_extrapolate(len(features), features.shape[1]):
            generator = torch.Generator().manual_seed(0)
            order = torch.randperm(len(features), generator=generator).to(self.device)
            values["fid_infinity"] = frechet_infinity(self._gaussian, features, order)
        return values

    def _inception(self, log_probabilities: Tensor, mode: Mode) -> dict[str, float]:
        is_paper = mode == "paper"
        plain = published_inception_score if is_paper else inception_score
        modified = published_modified_inception_score if is_paper else modified_inception_score
        return {
            "is": plain(log_probabilities),
            "mis": modified(log_probabilities),
            "am": am_score(self._log_probabilities, log_probabilities),
        }

    def _spread(self, classes: Tensor, bins: Integers | None) -> dict[str, float]:
        counts = torch.bincount(classes, minlength=len(self.classes)).double() / len(classes)
        values = {f"share_{name}": share for name, share in zip(self.classes, counts.tolist(), strict=True)}
        if bins is not None and self._bins is not None:
            values["ndb"] = self._bins.fraction_different(bins)
        return values
