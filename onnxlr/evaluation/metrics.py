"""What a model is judged by. Of every metric higher is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from onnxlr.errors import ModelError, UsageError
from onnxlr.validation.numeric import is_class_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

Array = np.ndarray[Any, Any]
Outputs = dict[str, Array]

METRICS = ("top1", "top5", "psnr", "cosine", "agreement")
_LEAST_ERROR = 1e-10  # of peak^2: a picture that is reproduced has a PSNR of 100 dB, not infinity
GROUPS = 20


@dataclass(frozen=True, slots=True)
class Unit:
    """How figures are shown: ``scale`` times the value, followed by ``name``; a drop by ``drop_name``."""

    name: str
    drop_name: str
    scale: float = 1.0


PERCENT = Unit("%", "points", 100.0)
DECIBEL = Unit("dB", "dB")
PLAIN = Unit("", "")


class Metric(Protocol):
    """Turns outputs into numbers that can be averaged.

    ``against_original`` says what ``answers`` are: the original model's outputs, else labels. ``whole`` says that
    outputs are wanted all at once.
    """

    @property
    def name(self) -> str:
        """How options and reports call it."""
        ...

    @property
    def unit(self) -> Unit:
        """How its figures are shown."""
        ...

    @property
    def against_original(self) -> bool:
        """Whether the original's outputs are the answers, not labels."""
        ...

    @property
    def whole(self) -> bool:
        """Whether all samples must be given in one call."""
        ...

    def score(self, outputs: Mapping[str, Array], answers: Array) -> tuple[float, Array]:
        """Return the value over these samples, and parts whose mean it is (see ``Scored``)."""
        ...


@dataclass(frozen=True, slots=True)
class PerSample:
    """A metric that is the mean of its samples' scores; it looks at the model's first output."""

    name: str
    unit: Unit
    against_original: bool
    of: Callable[[Array, Array], Array]
    whole: bool = False

    def score(self, outputs: Mapping[str, Array], answers: Array) -> tuple[float, Array]:
        """Return the mean and the scores."""
        parts = self.of(next(iter(outputs.values())), answers)
        return float(parts.mean()), parts


@dataclass(frozen=True, slots=True)
class WholeSet:
    """Any function of all outputs and labels, higher is better.

    ``function`` gets the array of the only output, or a dict by output name where the model has several, and the
    labels, all samples along the first axis. Its error comes from a jackknife over up to 20 groups of samples
    (Efron and Stein 1981), each left out once.
    """

    name: str
    function: Callable[[Any, Array], float]
    unit: Unit = PLAIN
    against_original: bool = False
    whole: bool = True

    def score(self, outputs: Mapping[str, Array], answers: Array) -> tuple[float, Array]:
        """Return the value and the jackknife's pseudo-values."""
        value = self._call(outputs, answers)
        groups = min(GROUPS, len(answers))
        if groups < 2:
            return value, np.array([value])
        of_group = np.arange(len(answers)) % groups
        left = [
            self._call({name: array[of_group != g] for name, array in outputs.items()}, answers[of_group != g])
            for g in range(groups)
        ]
        return value, groups * value - (groups - 1) * np.array(left)

    def _call(self, outputs: Mapping[str, Array], answers: Array) -> float:
        given = next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)
        result: object = self.function(given, answers)
        if isinstance(result, np.ndarray) and result.ndim == 0:
            result = result.item()
        if not isinstance(result, int | float | np.integer | np.floating) or not np.isfinite(result):
            what = f"{result!r}" if isinstance(result, float | np.floating) else f"a {type(result).__name__}"
            raise UsageError(f"the metric {self.name} returned {what}", "it must return one finite number")
        return float(result)


def built_in(name: str, peak: float) -> PerSample:
    """Return a metric by name; ``peak`` is the largest value of a picture, for psnr.

    Raises
    ------
    UsageError
        When there is no such metric, or the peak is not above 0.
    """
    if not peak > 0.0:
        raise UsageError(f"--peak {peak:g}: the largest value of a picture is above 0", "for example --peak 255")
    known = {
        "top1": PerSample("top1", PERCENT, False, lambda outputs, labels: _top(outputs, labels, 1)),
        "top5": PerSample("top5", PERCENT, False, lambda outputs, labels: _top(outputs, labels, 5)),
        "psnr": PerSample("psnr", DECIBEL, False, lambda outputs, clean: _psnr(outputs, clean, peak)),
        "cosine": PerSample("cosine", PLAIN, True, _cosine),
        "agreement": PerSample("agreement", PERCENT, True, agreement),
    }
    if name not in known:
        raise UsageError(f"there is no metric {name!r}", f"one of {', '.join(METRICS)}, or module:function")
    return known[name]


def is_top1(metric: object) -> bool:
    """Whether a metric is the built-in share of samples whose first class is right."""
    return isinstance(metric, PerSample) and metric.name == "top1"


def default_name(outputs: Array, labels: Array | None) -> str:
    """Return the metric that outputs and labels of a batch call for.

    Raises
    ------
    UsageError
        When none is plainly meant.
    """
    if labels is None:
        return "agreement" if is_class_scores(outputs) else "cosine"
    if labels.dtype.kind in "iu" and labels.size == len(labels) and is_class_scores(outputs):
        return "top1"
    if labels.dtype.kind in "fiu" and labels.shape == outputs.shape and not is_class_scores(outputs):
        return "psnr"
    raise UsageError(
        f"no metric is plainly meant by labels {labels.shape} ({labels.dtype}) for outputs {outputs.shape}",
        f"name one with --metric: {', '.join(METRICS)}, or module:function",
    )


def agreement(outputs: Array, reference: Array) -> Array:
    """Return, per sample, whether the largest class is the reference's (1 or 0); 0 where a score is not finite."""
    scores, before = _classes_last(outputs, "agreement"), _classes_last(reference, "agreement")
    same = (scores.argmax(axis=1) == before.argmax(axis=1)) & np.isfinite(scores).all(axis=1)
    return np.asarray(same, dtype=np.float64)


def divergence(outputs: Array, reference: Array) -> Array:
    """Return, per sample, KL(reference || outputs) in nats of the classes' probabilities.

    Scores that are probabilities already (not negative, of sum 1) are taken as such, others through a soft-max.
    """
    before, after = _log_probabilities(reference), _log_probabilities(outputs)
    return np.asarray((np.exp(before) * (before - after)).sum(axis=1), dtype=np.float64)


def _top(outputs: Array, labels: Array, k: int) -> Array:
    scores = _classes_last(outputs, f"top{k}")
    if labels.dtype.kind not in "iu" or labels.size != len(scores):
        raise ModelError(
            f"the labels are {labels.dtype} of shape {labels.shape}, not a class for each sample",
            "give one integer a sample, or another --metric",
        )
    truth = labels.reshape(-1).astype(np.int64)
    if truth.size and not 0 <= int(truth.min()) <= int(truth.max()) < scores.shape[1]:
        raise ModelError(
            f"the labels go from {truth.min()} to {truth.max()}, the model's classes from 0 to {scores.shape[1] - 1}",
            "count classes from 0, in the model's order",
        )
    finite = np.isfinite(scores).all(axis=1)
    own = np.take_along_axis(scores, truth[:, None], axis=1)
    hit = scores.argmax(axis=1) == truth if k == 1 else (scores > own).sum(axis=1) < k
    return np.asarray(hit & finite, dtype=np.float64)


def _psnr(outputs: Array, clean: Array, peak: float) -> Array:
    if outputs.shape != clean.shape:
        raise ModelError(
            f"the labels have shape {clean.shape[1:]} a sample, the output {outputs.shape[1:]}",
            "psnr needs the clean picture of each sample",
        )
    gap = (outputs.astype(np.float64) - clean.astype(np.float64)).reshape(len(outputs), -1)
    error = np.square(gap).mean(axis=1) / peak**2
    return np.asarray(-10.0 * np.log10(np.maximum(error, _LEAST_ERROR)), dtype=np.float64)


def _cosine(outputs: Array, reference: Array) -> Array:
    new, old = (array.astype(np.float64).reshape(len(array), -1) for array in (outputs, reference))
    norms = np.linalg.norm(new, axis=1) * np.linalg.norm(old, axis=1)
    product = (new * old).sum(axis=1)
    same = np.all(new == old, axis=1).astype(np.float64)
    return np.asarray(np.where(norms > 0.0, product / np.where(norms > 0.0, norms, 1.0), same))


def _classes_last(outputs: Array, name: str) -> Array:
    """Return class scores as (n, c)."""
    if not is_class_scores(outputs):
        raise UsageError(
            f"the metric {name} needs scores of classes, and the first output has shape {outputs.shape}",
            "choose another --metric",
        )
    return outputs.reshape(len(outputs), -1)


def _log_probabilities(outputs: Array) -> Array:
    scores = outputs.reshape(len(outputs), -1).astype(np.float64)
    if scores.min() >= 0.0 and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3):
        return np.asarray(np.log(np.maximum(scores, 1e-12)))
    shifted = scores - scores.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
