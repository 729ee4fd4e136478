"""Proof on the real runtime: the graph computes its own factors, how far it is from the original, and how fast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper

from onnxlr.cost.calm import time_at_rest
from onnxlr.cost.timing import Speedup, Timing, TimingOptions, speedup
from onnxlr.errors import ModelError, ValidationError
from onnxlr.model_io import runnable
from onnxlr.target import bind, run, seeded_feeds
from onnxlr.validation.numeric import OutputShapeError, compare, differences
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    import onnx
    import onnxruntime as ort

    from onnxlr.factorize import Factorized
    from onnxlr.prepare import Prepared
    from onnxlr.target import Feeds, Target
    from onnxlr.validation.numeric import OutputDifference
    from onnxlr_passes.chain import Chain

Array = np.ndarray[Any, Any]

# What rounding alone may do to a whole network between a chain and its contracted kernel, as relative L2 of an output;
# so little does it do as well between a layer and the one it was folded with, which are computed one after the other.
ROUNDING: dict[int, float] = {
    TensorProto.DOUBLE: 1e-6,
    TensorProto.FLOAT: 2e-3,
    TensorProto.FLOAT16: 5e-2,
    TensorProto.BFLOAT16: 2e-1,
}
_FLOATS = frozenset({"tensor(double)", "tensor(float)", "tensor(float16)", "tensor(bfloat16)"})
_REPORT = "please report it"
_UNPROVEN = f"a model that amplifies rounding does that: --no-validate writes it unproven; any other: {_REPORT}"


@dataclass(frozen=True, slots=True)
class Proof:
    """What was seen on the target.

    ``surgery`` is the largest relative L2 difference of an output between the rewritten model and the original with
    every rewritten kernel replaced by its contracted chain: rounding, when the rewrite did what it claims; None where
    no output is floating point. The original stands there simplified and folded, as :func:`rehearse` found it to agree
    with the model itself. ``outputs`` were compared on ``compared_on`` with the model itself; it is empty, and
    ``incomparable`` says why, where the size of an output depends on the values in it.
    """

    surgery: float | None
    outputs: tuple[OutputDifference, ...]
    before: Timing
    after: Timing
    speedup: Speedup
    incomparable: str | None
    compared_on: str


def rehearse(
    model: onnx.ModelProto,
    prepared: Prepared,
    *,
    folder: Path | None,
    target: Target,
    seed: int,
    simplified: bool,
    optional: bool,
) -> None:
    """Run the original once, before the work, and what was prepared from it: outputs must agree to rounding.

    What cannot be run cannot be proven; and what simplifying and folding break, no later comparison with the prepared
    model would show.

    Raises
    ------
    ModelError
        When the target cannot run the model.
    ValidationError
        When the prepared model does not run, or gives other outputs.

    ``simplified`` and ``optional`` are for the hints: simplifying, or validating, can be left out.
    """
    try:
        (feeds,) = seeded_feeds(model, prepared.shapes, seed=seed)
        (expected,) = _outputs(model, feeds, folder=folder, target=target)
    except ModelError as error:
        if not optional:
            raise
        unproven = "--no-validate rewrites it all the same, unproven"
        raise ModelError(error.message, f"{error.hint}, or {unproven}" if error.hint else unproven) from error
    if prepared.proto is model:
        return
    wrong = _preparation_faults(model, prepared, feeds, expected, folder=folder, target=target)
    if wrong:
        passes = ", ".join(dict.fromkeys(name for name, _ in prepared.changes))
        way_out = _UNPROVEN if optional else _REPORT
        hint = f"try --no-simplify; {way_out}" if simplified else way_out
        raise ValidationError(f"the model is another one after {passes}: {wrong[0]}", hint)


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


def _preparation_faults(
    model: onnx.ModelProto,
    prepared: Prepared,
    feeds: Feeds,
    expected: Mapping[str, Array],
    *,
    folder: Path | None,
    target: Target,
) -> list[str]:
    """Say in what the prepared model differs from the original, which gives ``expected`` on ``feeds``."""
    try:
        (got,) = _outputs(prepared.proto, feeds, folder=folder, target=target)
    except ModelError as error:
        return [error.message]
    types = {workload.site.dtype for workload in prepared.workloads}
    types |= {other.site.dtype for other in prepared.skipped if other.site is not None}
    wrong = {name: _fault(name, value, got[name], types) for name, value in expected.items()}
    if any(wrong.values()):  # rare; what is another each time it is computed, such as random numbers, tells nothing
        first, second = _outputs(model, feeds, folder=folder, target=target, times=2)
        wrong = {name: fault for name, fault in wrong.items() if _fault(name, first[name], second[name], types) is None}
    return [fault for fault in wrong.values() if fault is not None]


def _outputs(
    model: onnx.ModelProto, feeds: Feeds, *, folder: Path | None, target: Target, times: int = 1
) -> list[dict[str, Array]]:
    """Run a model in a session of its own, so that two are never held at once; outputs by name, of each time."""
    with runnable(model, folder) as source:
        session = target.session(source)
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, run(session, feeds), strict=True)) for _ in range(times)]


def _fault(name: str, expected: Array, got: Array, types: Collection[int]) -> str | None:
    """Say how an output differs by more than rounding in the coarsest of ``types`` and its own; None where it does not.

    Of integers and text, which rounding may turn, only the shape must be the same.
    """
    try:
        (output,) = differences((name,), [[expected]], [[got]])
    except OutputShapeError as error:
        return str(error)
    if expected.dtype.kind != "f":
        return None
    if output.new_nonfinite:
        return f"output {name!r} has NaN or infinity"
    allowed = max(ROUNDING[kind] for kind in {*types, helper.np_dtype_to_tensor_dtype(expected.dtype)})
    if output.relative_l2 <= allowed:
        return None
    return f"output {name!r} differs by {output.relative_l2:.2e} (at most {allowed:g})"


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
