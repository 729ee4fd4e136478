"""Run models over evaluation data and score them, a batch in memory at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import ModelError, UsageError
from onnxlr.evaluation.custom import load_function
from onnxlr.evaluation.estimates import Scored
from onnxlr.evaluation.metrics import WholeSet, agreement, built_in, default_name, divergence
from onnxlr.evaluation.on_session import SessionMetric
from onnxlr.model_io import runnable
from onnxlr.target import run
from onnxlr.validation.numeric import is_class_scores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import onnx
    import onnxruntime as ort

    from onnxlr.evaluation.data import EvaluationData
    from onnxlr.evaluation.metrics import Metric
    from onnxlr.target import Target

Array = np.ndarray[Any, Any]

BATCH = 32
KEEP_BYTES = 1 << 29
"""The original's outputs are kept up to this size; larger ones are computed again for every model."""


@dataclass(frozen=True, slots=True)
class Judge:
    """The metric, the original model and how to run models."""

    metric: Metric | SessionMetric
    original: onnx.ModelProto
    folder: Path | None
    target: Target


class Evaluator:
    """Scores models on one set of samples, against the original on the same ones; ``original`` is its own score."""

    def __init__(self, judge: Judge, data: EvaluationData) -> None:
        self.judge = judge
        self.data = data
        if data.label is None and not judge.metric.against_original:
            raise UsageError(
                f"the metric {judge.metric.name} needs labels, and the evaluation data have none",
                "give them as 'labels', or choose --metric agreement or cosine",
            )
        self._kept: list[Array] | None = []
        self.original = self.score(judge.original)

    def score(self, model: onnx.ModelProto, progress: Callable[[float], None] = lambda _: None) -> Scored:
        """Run ``model`` over all samples.

        Raises
        ------
        ModelError
            When it cannot be run on them, or its outputs are not what the metric takes.
        UsageError
            When a metric of the user's own returns no number.
        """
        judge, own = self.judge, self.judge.metric
        sums = _Sums(None if isinstance(own, SessionMetric) else own)
        with runnable(model, judge.folder) as source:
            session = judge.target.session(source)
            names = [output.name for output in session.get_outputs()]
            done = 0
            for (feeds, labels), reference in zip(self.data.batches(BATCH), self._references(model), strict=False):
                outputs = run(session, feeds)
                first = self._remember(outputs[0]) if model is judge.original else reference
                sums.add(dict(zip(names, outputs, strict=True)), labels, outputs[0] if first is None else first)
                done += len(outputs[0])
                progress(done / self.data.count)
            if not isinstance(own, SessionMetric):
                return sums.result()
            value, parts = own.of(session)
            return replace(sums.result(), value=value, parts=parts)

    def _remember(self, output: Array) -> Array:
        """Keep the original's output, or forget all of them where they become too large."""
        if self._kept is not None:
            self._kept.append(output)
            if sum(array.nbytes for array in self._kept) > KEEP_BYTES:
                self._kept = None
        return output

    def _references(self, model: onnx.ModelProto) -> Iterator[Array | None]:
        """Yield the original's first output batch by batch; None for the original itself."""
        if model is self.judge.original:
            self._kept = []
            while True:
                yield None
        if self._kept is not None:
            yield from self._kept
            return
        with runnable(self.judge.original, self.judge.folder) as source:
            session = self.judge.target.session(source)
            for feeds, _ in self.data.batches(BATCH):
                yield run(session, feeds)[0]


class _Sums:
    """What one model's outputs have come to so far; without a metric, how far they are from the original's."""

    def __init__(self, metric: Metric | None) -> None:
        self.metric = metric
        self.parts: list[Array] = []
        self.outputs: list[dict[str, Array]] = []
        self.answers: list[Array] = []
        self.same: list[Array] = []
        self.kl: list[Array] = []
        self.difference2 = self.reference2 = 0.0
        self.samples = 0

    def add(self, outputs: dict[str, Array], labels: Array | None, reference: Array) -> None:
        first = next(iter(outputs.values()))
        if first.shape != reference.shape or first.dtype.kind != "f":
            text = f"the first output has shape {first.shape} and type {first.dtype}, the original's {reference.shape}"
            raise ModelError(text, "only floating-point outputs of one size can be judged")
        if self.metric is not None:
            answers = reference if self.metric.against_original or labels is None else labels
            if self.metric.whole:
                self.outputs.append(outputs)
                self.answers.append(answers)
            else:
                self.parts.append(self.metric.score(outputs, answers)[1])
        self.samples += len(first)
        if is_class_scores(first):
            self.same.append(agreement(first, reference))
            self.kl.append(divergence(first, reference))
        old = reference.astype(np.float64).ravel()
        self.difference2 += float(np.square(first.astype(np.float64).ravel() - old).sum())
        self.reference2 += float(old @ old)

    def result(self) -> Scored:
        if self.metric is None:
            value, parts = float("nan"), np.zeros(0)
        elif self.metric.whole:
            joined = {name: np.concatenate([one[name] for one in self.outputs]) for name in self.outputs[0]}
            value, parts = self.metric.score(joined, np.concatenate(self.answers))
        else:
            parts = np.concatenate(self.parts)
            value = float(parts.mean())
        kl = float(np.concatenate(self.kl).mean()) if self.kl else None
        relative2 = self.difference2 / self.reference2 if self.reference2 else self.difference2
        return Scored(
            value=value,
            parts=parts,
            samples=self.samples,
            agreement=float(np.concatenate(self.same).mean()) if self.same else None,
            kl=kl,
            shift=relative2 if kl is None else kl,
        )


def choose_metric(
    wanted: str | SessionMetric | Callable[[Any, Any], float] | None,
    original: onnx.ModelProto,
    folder: Path | None,
    target: Target,
    data: EvaluationData,
    peak: float,
) -> Metric | SessionMetric:
    """Return the metric: a built-in one by name, ``module:function``, a callable, or what the data call for.

    Raises
    ------
    UsageError
        When there is no such metric, or none is plainly meant.
    """
    if isinstance(wanted, SessionMetric):
        return wanted
    if callable(wanted):
        return WholeSet(getattr(wanted, "__name__", "metric"), wanted)
    if wanted is not None and ":" in wanted:
        return WholeSet(wanted, load_function(wanted))
    if wanted is not None:
        return built_in(wanted, peak)
    feeds, labels = next(data.batches(1))
    with runnable(original, folder) as source:
        session: ort.InferenceSession = target.session(source)
        outputs = run(session, feeds)
    return built_in(default_name(outputs[0], labels), peak)
