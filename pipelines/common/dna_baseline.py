"""What a fine-tuned classifier must beat: logistic regression on k-mers, and on a frozen backbone."""

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
    """Features (windows, features) and classes (windows,) of windows."""

    features: Features
    labels: npt.NDArray[np.int64]


def kmer_examples(windows: SpeciesWindows, listed: Sequence[Window], k: int) -> Examples:
    """The strandless k-mer spectra of windows."""
    spectra = [strandless_spectrum(windows.read(window), k) for window in listed]
    return Examples(np.stack(spectra).astype(np.float32), labels_of(listed))


def labels_of(listed: Sequence[Window]) -> npt.NDArray[np.int64]:
    """The classes (windows,)."""
    return np.array([window.label for window in listed], np.int64)


def fitted(train: Examples, valid: Examples | None) -> Pipeline:
    """Logistic regression on scaled features.

    The strength of its regularization is the one with the lowest validation loss; DEFAULT_STRENGTH without
    validation.
    """
    if valid is None:
        return _fit(train, DEFAULT_STRENGTH)
    models = [_fit(train, strength) for strength in STRENGTHS]
    losses = [_loss(model.predict_proba(valid.features), valid.labels) for model in models]
    return models[int(np.argmin(losses))]


def coefficients(model: Pipeline) -> tuple[Tensor, Tensor]:
    """weight (classes, features) and bias (classes,) of logits of scaled features, fp32.

    Of two classes scikit-learn keeps the difference alone.
    """
    regression = model[-1]
    weight, bias = torch.from_numpy(regression.coef_).float(), torch.from_numpy(regression.intercept_).float()
    if len(regression.classes_) > 2:
        return weight, bias
    return torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2


def _fit(train: Examples, strength: float) -> Pipeline:
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=ITERATIONS))
    return model.fit(train.features, train.labels)


def _loss(probabilities: Features, labels: npt.NDArray[np.int64]) -> float:
    chosen = probabilities[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())
