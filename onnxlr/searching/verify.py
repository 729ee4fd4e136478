"""What a rewritten model loses: by the metric on evaluation data, or by its outputs where there are none."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from onnxlr.evaluation import drop
from onnxlr.model_io import runnable
from onnxlr.validation.numeric import OutputShapeError, compare

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    import onnx
    import onnxruntime as ort

    from onnxlr.evaluation import Evaluator
    from onnxlr.target import Feeds, Target

NAN = float("nan")


@dataclass(frozen=True, slots=True)
class Judgement:
    """See the fields of the same names of ``onnxlr.report.searched.Trial``."""

    loss: float
    loss_error: float
    agreement: float | None
    shift: float


class Verifier(Protocol):
    """Judges whole models against the original."""

    def judge(self, model: onnx.ModelProto) -> Judgement:
        """Run ``model`` and say what it loses."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ByMetric:
    """The drop of a metric on the samples used to choose."""

    evaluator: Evaluator

    def judge(self, model: onnx.ModelProto) -> Judgement:
        """Score ``model``, its samples paired with the original's."""
        scored = self.evaluator.score(model)
        lost = drop(self.evaluator.original, scored)
        return Judgement(lost.value, lost.error, scored.agreement, scored.shift)


@dataclass(frozen=True, slots=True, eq=False)
class ByOutputs:
    """The relative L2 error of the outputs on some feeds, the largest of several; says nothing of accuracy."""

    original: ort.InferenceSession
    feeds: Sequence[Feeds]
    folder: Path | None
    target: Target

    def judge(self, model: onnx.ModelProto) -> Judgement:
        """Compare the outputs of ``model`` with the original's."""
        with runnable(model, self.folder) as source:
            try:
                outputs = compare(self.original, self.target.session(source), self.feeds)
            except OutputShapeError:
                return Judgement(NAN, NAN, None, NAN)
        if any(output.new_nonfinite for output in outputs):
            return Judgement(NAN, NAN, None, NAN)
        worst = max((output.relative_l2 for output in outputs), default=0.0)
        same = [output.top1 for output in outputs if output.top1 is not None]
        return Judgement(worst, NAN, same[0] if same else None, worst**2)


@contextmanager
def by_outputs(
    original: onnx.ModelProto, folder: Path | None, target: Target, feeds: Sequence[Feeds]
) -> Iterator[ByOutputs]:
    """Open the original for comparisons."""
    with ExitStack() as stack:
        source = stack.enter_context(runnable(original, folder))
        yield ByOutputs(target.session(source), feeds, folder, target)
