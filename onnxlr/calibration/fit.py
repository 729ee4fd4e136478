"""Whether an array is what a model's input takes: key, rank, fixed sizes, type and values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.target import Input

Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]

LABELS = frozenset({"label", "labels", "y"})  # keys that are never an input, unless the model calls one so


def keys_of(where: str, inputs: Sequence[Input], present: Sequence[str]) -> dict[str, str]:
    """Find the key of each input's array: its name, or any key at all for the only input; labels do not count.

    Raises
    ------
    ModelError
        An input without an array, or an array without an input.
    """
    names = [item.name for item in inputs]
    keys = [key for key in present if key in names or key not in LABELS]
    if len(names) == len(keys) == 1:
        return {names[0]: keys[0]}
    missing = [name for name in names if name not in keys]
    if missing:
        raise ModelError(
            f"{where} has no array for the input '{missing[0]}'", f"its arrays: {', '.join(present) or 'none'}"
        )
    unknown = [key for key in keys if key not in names]
    if unknown:
        raise ModelError(
            f"{where} has an array '{unknown[0]}' that is no input of the model",
            f"leave it out; the inputs: {', '.join(names)}; labels may be called {', '.join(sorted(LABELS))}",
        )
    return {name: name for name in names}


def fit_shape(where: str, item: Input, shape: Shape, given: Shape | None) -> Shape:
    """Give the shape with the axis of samples first, which is added where one whole sample comes without it.

    Parameters
    ----------
    given
        The input's shape as an option gives it, batch first; its other sizes count where the model leaves them free.

    Raises
    ------
    ModelError
        Another rank, or another size where the model or ``given`` fixes it.
    """
    dims = item.dims if given is None else tuple(_merged(item, given))
    if dims is None:
        if not shape:
            raise ModelError(f"{where} is a scalar, the input {item} needs an axis of samples")
        full = shape
    elif not dims:
        raise ModelError(f"the input {item} is a scalar, so samples cannot be stacked along its first axis")
    else:
        full = (1, *shape) if len(shape) == len(dims) - 1 else shape
        if len(full) != len(dims) or any(
            isinstance(d, int) and d != s for d, s in zip(dims[1:], full[1:], strict=True)
        ):
            sample = "x".join(map(str, dims[1:])) or "a scalar"
            raise ModelError(
                f"{where} has shape {_text(shape)}, which does not fit the model's input {item}",
                f"samples go along the first axis, each {sample}",
            )
    if 0 in full[1:]:
        raise ModelError(f"{where} has shape {_text(shape)}: its samples are empty")
    return full


def check_castable(where: str, item: Input, dtype: np.dtype[Any]) -> None:
    """Refuse types that no value of could be fed: text for numbers, complex for real, records.

    Raises
    ------
    ModelError
        With both types.
    """
    text = item.dtype.kind in "OUS"
    kinds = "OU" if text else "fiubc" if item.dtype.kind == "c" else "fiub"
    if dtype.kind not in kinds:
        raise ModelError(f"{where} is of type {dtype}, which cannot be cast for the model's input {item}")


def cast(where: str, item: Input, rows: Array, indices: Sequence[int]) -> Array:
    """Cast samples to the input's type: to floating point by rounding, to integers and booleans only exactly.

    Parameters
    ----------
    rows
        Samples along the first axis.
    indices
        The index of each, for messages.

    Raises
    ------
    ModelError
        A value that is not finite, or that the input's type does not have.
    """
    check_castable(where, item, rows.dtype)
    if item.dtype.kind in "OUS":
        return np.asarray(rows, dtype=object)
    with np.errstate(invalid="ignore", over="ignore"):
        out = np.ascontiguousarray(rows, dtype=item.dtype)
    if rows.dtype.kind in "fc" and not np.isfinite(rows).all():
        raise _bad_value(where, item, rows, ~np.isfinite(rows), indices)
    if out.dtype.kind in "fc":
        # Only half precision is narrow enough for integers to overflow.
        if out.dtype != rows.dtype and not np.isfinite(out).all():
            raise _bad_value(where, item, rows, ~np.isfinite(out), indices)
    elif out.dtype != rows.dtype and not np.array_equal(out, rows):
        raise _bad_value(where, item, rows, out != rows, indices)
    return out


def _merged(item: Input, given: Shape) -> Sequence[int | str]:
    if item.dims is None:
        return ("?", *given[1:])
    return [d if axis == 0 or isinstance(d, int) else given[axis] for axis, d in enumerate(item.dims)]


def _bad_value(where: str, item: Input, rows: Array, bad: Array, indices: Sequence[int]) -> ModelError:
    sample, *within = (int(axis[0]) for axis in np.nonzero(bad))
    value = rows[(sample, *within)]
    place = f" at {tuple(within)}" if within else ""
    hint = "leave that sample out" if rows.dtype.kind in "fc" and not np.isfinite(value) else "scale the data before"
    return ModelError(
        f"{where}: sample {indices[sample]} has the value {value}{place}, which the input {item} cannot be fed", hint
    )


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "scalar"
