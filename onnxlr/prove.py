"""Proof on the real runtime: the graph computes its own factors, how far it is from the original, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnx import TensorProto

from onnxlr.cost.calm import time_at_rest
from onnxlr.cost.timing import Speedup, Timing, TimingOptions, speedup
from onnxlr.errors import ModelError, ValidationError
from onnxlr.model_io import runnable
from onnxlr.target import bind, run, seeded_feeds
from onnxlr.validation.numeric import OutputShapeError, compare
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnxruntime as ort

    from onnxlr.factorize import Factorized
    from onnxlr.prepare import Prepared
    from onnxlr.target import Feeds, Target
    from onnxlr.validation.numeric import OutputDifference
    from onnxlr_passes.chain import Chain

# What rounding alone may do to a whole network between a chain and its contracted kernel, as relative L2 of an output.
ROUNDING: dict[int, float] = {
    TensorProto.DOUBLE: 1e-6,
    TensorProto.FLOAT: 2e-3,
    TensorProto.FLOAT16: 5e-2,
    TensorProto.BFLOAT16: 2e-1,
}
_FLOATS = frozenset({"tensor(double)", "tensor(float)", "tensor(float16)", "tensor(bfloat16)"})
_UNPROVEN = "a model that amplifies rounding does that: --no-validate writes it unproven; any other: please report it"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen on the target.

    ``surgery`` is the largest relative L2 difference of an output between the rewritten model and the original with
    every rewritten kernel replaced by its contracted chain: rounding, when the rewrite did what it claims; None where
    no output is floating point. ``outputs`` were compared on ``compared_on``; it is empty, and ``incomparable`` says
    why, where the size of an output depends on the values in it.
    """

    surgery: float | None
    outputs: tuple[OutputDifference, ...]
    before: Timing
    after: Timing
    speedup: Speedup
    incomparable: str | None
    compared_on: str


def rehearse(model: onnx.ModelProto, prepared: Prepared, *, folder: Path | None, target: Target, seed: int) -> None:
    """Run the original once, before the work: what cannot be run cannot be proven.

    Raises
    ------
    ModelError
        When the target cannot run the model.
    """
    try:
        (feeds,) = seeded_feeds(model, prepared.shapes, seed=seed)
        with runnable(model, folder) as source:
            run(target.session(source), feeds)
    except ModelError as error:
        unproven = "--no-validate rewrites it all the same, unproven"
        raise ModelError(error.message, f"{error.hint}, or {unproven}" if error.hint else unproven) from error


def prove(
    original: onnx.ModelProto,
    prepared: Prepared,
    rewritten: onnx.ModelProto,
    made: Sequence[Factorized],
    *,
    refitted: Mapping[str, Chain],
    held: Sequence[Feeds],
    folder: Path | None,
    target: Target,
    seed: int,
    at_best: float,
    progress: Callable[[float], None],
) -> Proof:
    """Run both models on the same seeded feeds, and compare them on ``held`` data where there are any.

    ``refitted`` are layers that stay dense but have new weights; ``at_best`` is what the original is known to take on
    a machine at rest, in milliseconds, or infinity.

    Raises
    ------
    ValidationError
        When the rewritten model gives values that are not finite, or not those of its own factors.
    ModelError
        When the target cannot run the original or the rewritten model.
    """
    feeds = seeded_feeds(original, prepared.shapes, seed=seed, count=2)
    with runnable(rewritten, folder) as source:
        new = target.session(source)
    progress(0.1)
    surgery = _check_surgery(prepared, made, refitted, new, feeds, folder=folder, target=target)
    progress(0.3)
    with runnable(original, folder) as source:
        reference = target.session(source)
    outputs, incomparable = _compare(reference, new, held or feeds)
    broken = [output.name for output in outputs if output.new_nonfinite]
    if broken:
        raise ValidationError(f"the rewritten model gives NaN or infinity in output {broken[0]!r}", "try other ranks")
    progress(0.4)
    (before, after), _ = time_at_rest(
        (bind(reference, feeds[0]), bind(new, feeds[0])),
        TimingOptions(),
        at_best=at_best,
        progress=lambda share: progress(0.4 + 0.6 * share),
    )
    compared_on = f"{sum(len(next(iter(f.values()))) for f in held)} samples held out"
    if not held:
        compared_on = f"{len(feeds)} random inputs"
    return Proof(surgery, outputs, before, after, speedup(before, after), incomparable, compared_on)


def _compare(
    reference: ort.InferenceSession, new: ort.InferenceSession, feeds: Sequence[Feeds]
) -> tuple[tuple[OutputDifference, ...], str | None]:
    """Compare; or say why that cannot be done: a detector finds other boxes, which is no fault of the rewrite."""
    try:
        return compare(reference, new, feeds), None
    except OutputShapeError as error:
        return (), str(error)


def _check_surgery(
    prepared: Prepared,
    made: Sequence[Factorized],
    refitted: Mapping[str, Chain],
    new: ort.InferenceSession,
    feeds: Sequence[Feeds],
    *,
    folder: Path | None,
    target: Target,
) -> float | None:
    """Compare the chains with their contracted kernels, in the model; None where no output is floating point."""
    dense = Decompose({**refitted, **{one.choice.site: one.as_one for one in made}}, folder)(prepared.proto).model
    try:
        with runnable(dense, folder) as source:
            outputs = compare(target.session(source), new, feeds)
    except OutputShapeError as error:
        raise ValidationError(f"rounding changes the size of an output ({error})", _UNPROVEN) from error
    # The session's types: a model need not declare those of its outputs.
    floats = {value.name for value in new.get_outputs() if value.type in _FLOATS}
    differences = [output.relative_l2 for output in outputs if output.name in floats]
    if not differences:
        return None
    worst = max(differences)
    allowed = max((ROUNDING[one.workload.site.dtype] for one in made), default=0.0)
    if not worst <= allowed:
        off = f"an output differs by {worst:.2e} (at most {allowed:g})"
        raise ValidationError(f"the rewritten graph is not what its factors compute: {off}", _UNPROVEN)
    return worst
