"""Seeded random feeds: the same seed gives the same arrays, whatever the model behind the inputs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import ModelError
from onnxlr.target.inputs import Input, graph_inputs, resolve_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx

    from onnxlr.target.session import Target

_WORDS = np.array(["a", "b"], dtype=object)


def seeded_feeds(
    model: onnx.ModelProto,
    shapes: Mapping[str, Sequence[int]] | Target,
    *,
    seed: int = 0,
    count: int = 1,
) -> tuple[dict[str, np.ndarray[Any, Any]], ...]:
    """Make ``count`` random feeds for every required input of ``model``.

    Floating point is standard normal, as normalised images are; integers are 0 or 1, valid for nearly any index or
    token; booleans and text likewise. Feed i depends on ``seed`` and i only.

    Parameters
    ----------
    shapes
        Shapes of the inputs with free sizes, see ``resolve_shapes``.

    Raises
    ------
    UsageError
        A free size that nothing fixes, or a shape that conflicts with the model.
    ModelError
        An input of a type that NumPy arrays cannot carry to ONNX Runtime (bfloat16, 8-bit floats, sequences).
    """
    resolved = resolve_shapes(model, shapes)
    inputs = graph_inputs(model)
    for item in inputs:
        check_feedable(item)
    generators = (np.random.default_rng([seed, index]) for index in range(count))
    return tuple({item.name: _random(item, resolved[item.name], rng) for item in inputs} for rng in generators)


def check_feedable(item: Input) -> None:
    """Refuse an input whose element type is not one of NumPy's own.

    Raises
    ------
    ModelError
        For example bfloat16, which ONNX Runtime's Python interface does not take.
    """
    if item.dtype.kind not in "fiubcOUS" or item.dtype.isbuiltin != 1:
        raise ModelError(
            f"input {item} cannot be fed through ONNX Runtime's Python interface",
            "give the model a float32 or float16 input, with a Cast behind it",
        )


def _random(item: Input, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any]:
    kind = item.dtype.kind
    if kind == "f":
        return np.asarray(rng.standard_normal(shape), dtype=item.dtype)
    if kind == "c":
        return np.asarray(rng.standard_normal(shape) + 1j * rng.standard_normal(shape), dtype=item.dtype)
    bits = rng.integers(0, 2, size=shape)
    return np.asarray(_WORDS[bits] if kind in "OUS" else bits, dtype=item.dtype)
