"""Whether ONNX Runtime computes, from the written weights, what was trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from onnxlr.errors import ValidationError
from onnxlr.model_io import runnable
from onnxlr.target import run

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

    from onnxlr.target import Target
    from onnxlr.training.task import Task

TOLERANCE = 1e-3
"""Largest difference of an output relative to its root mean square: rounding of two runtimes, deep networks."""

_COUNT = 8


def confirm(proto: onnx.ModelProto, folder: Path | None, target: Target, task: Task) -> None:
    """Compare a few held-out samples on both; the student holds the same weights as ``proto``.

    Raises
    ------
    ValidationError
        When an output differs.
    """
    part = next(iter(task.held.slices(_COUNT)))
    inputs = task.held.take(part).inputs
    expected = task.student(inputs)
    with runnable(proto, folder) as model:
        session = target.session(model)
        found = run(session, {name: value.numpy() for name, value in inputs.items()})
    for meta, value in zip(session.get_outputs(), found, strict=True):
        wanted = expected[meta.name].detach().numpy()
        if wanted.dtype.kind != "f":
            continue
        scale = float(np.sqrt(np.mean(np.square(wanted, dtype=np.float64)))) or 1.0
        gap = float(np.abs(np.asarray(value, np.float64) - wanted).max(initial=0.0)) / scale
        if not gap <= TOLERANCE:
            raise ValidationError(
                f"output '{meta.name}' of the trained model is not what was trained (relative error {gap:.1e})",
                "please report this with the model",
            )
