"""Baselines of a classifier: logistic regression on k-mers or on the vectors of a frozen backbone."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from bio.scoring.kmer import strandless_spectrum
from bio.species.windows import SpeciesWindows, Window

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
DEFAULT_STRENGTH = 1e-3
ITERATIONS = 300

Features = npt.NDArray[np.floating]
"""(windows, features)."""


@dataclass(frozen=True)
class Examples:
    """Features (windows, features) and labels (windows,) of windows."""

    features: Features
    labels: npt.NDArray[np.int64]


def kmer_examples(source: SpeciesWindows, windows: Sequence[Window], k: int) -> Examples:
    """Return the strandless k-mer spectra of windows."""
    spectra = [strandless_spectrum(source.read(window), k) for window in windows]
    return Examples(np.stack(spectra).astype(np.float32), labels_of(windows))


def labels_of(windows: Sequence[Window]) -> npt.NDArray[np.int64]:
    """Return the labels (windows,)."""
    return np.array([window.label for window in windows], np.int64)


def fit(train: Examples, valid: Examples | None) -> Pipeline:
    """Fit logistic regression on standardized features.

    The regularization strength with the lowest validation loss is chosen; DEFAULT_STRENGTH without
    validation examples.
    """
    if valid is None:
        return _fit_at(train, DEFAULT_STRENGTH)
    models = [_fit_at(train, strength) for strength in STRENGTHS]
    losses = [_loss(model.predict_proba(valid.features), valid.labels) for model in models]
    return models[int(np.argmin(losses))]


def coefficients(model: Pipeline) -> tuple[Tensor, Tensor]:
    """Return weight (classes, features) and bias (classes,) float32 of the logits of standardized features.

    For two classes scikit-learn keeps only the difference of the logits.
    """
    regression = model[-1]
    weight, bias = torch.from_numpy(regression.coef_).float(), torch.from_numpy(regression.intercept_).float()
    if len(regression.classes_) > 2:
        return weight, bias
    return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2


def _fit_at(train: Examples, strength: float) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
    return model.fit(train.features, train.labels)


def _loss(probabilities: Features, labels: npt.NDArray[np.int64]) -> float:
    true_class_probabilities = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(true_class_probabilities, 1e-12)).mean())
