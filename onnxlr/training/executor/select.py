"""Operators that join, cut, pick and pad."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch.nn import functional

from onnxlr.training.executor.windows import padded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator


def concat(call: Call) -> Tensor:
    """Concat."""
    return torch.cat(call.given(), call.node.integer("axis", 0))


def split(call: Call) -> tuple[Tensor, ...]:
    """Split into the sizes given, or evenly, the last part then being the smaller."""
    axis, parts = call.node.integer("axis", 0), call.axes(1, "split")
    if parts is None:
        length, count = call[0].shape[axis], len(call.node.outputs)
        each = -(-length // count)
        parts = [each] * (count - 1) + [length - each * (count - 1)]
    return torch.split(call[0], parts, axis)


def cut(call: Call) -> Tensor:
    """Slice, with steps of either sign."""
    starts, ends = call.axes(1, "starts") or [], call.axes(2, "ends") or []
    axes = call.axes(3) or list(range(len(starts)))
    steps = call.integers(4) or [1] * len(starts)
    value = call[0]
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = value.shape[axis]
        if step > 0:
            chosen = slice(*slice(start, end, step).indices(length))
            value = value[(slice(None),) * (axis % value.ndim) + (chosen,)]
        else:
            last = None if end < -length else end
            value = value.index_select(axis, torch.tensor(range(*slice(start, last, step).indices(length))).long())
    return value


def gather(call: Call) -> Tensor:
    """Gather whole slices by index."""
    value, axis = call[0], call.node.integer("axis", 0) % call[0].ndim
    index = _wrapped(call[1], value.shape[axis])
    picked = value.index_select(axis, index.reshape(-1))
    return picked.reshape([*value.shape[:axis], *index.shape, *value.shape[axis + 1 :]])


def gather_elements(call: Call) -> Tensor:
    """GatherElements."""
    axis = call.node.integer("axis", 0)
    return torch.gather(call[0], axis, _wrapped(call[1], call[0].shape[axis]))


def pad(call: Call) -> Tensor:
    """Pad by a constant, by reflection, by the edge, or around."""
    value = call[0]
    flat = call.axes(1, "pads") or []
    mode, axes = call.node.text("mode", "constant"), call.integers(3)
    chosen = [axis % value.ndim for axis in axes] if axes is not None else list(range(value.ndim))
    pads = [(0, 0)] * value.ndim
    for i, axis in enumerate(chosen):
        pads[axis] = (flat[i], flat[len(chosen) + i])
    if mode == "constant":
        given = call.get(2)
        fill = call.node.number("value", 0.0) if given is None else float(given.reshape(-1)[0].item())
        return padded(value, pads, fill)
    for axis, (begin, end) in enumerate(pads):
        value = value.index_select(axis, _reached(value.shape[axis], begin, end, mode, call))
    return value


def cumulative_sum(call: Call) -> Tensor:
    """CumSum."""
    node, axis = call.node, int(call[1].item())
    value = call[0].flip(axis) if node.integer("reverse", 0) else call[0]
    summed = value.cumsum(axis, dtype=value.dtype)
    if node.integer("exclusive", 0):
        summed = summed - value
    return summed.flip(axis) if node.integer("reverse", 0) else summed


def one_hot(call: Call) -> Tensor:
    """OneHot along the last axis or another."""
    depth, (off, on) = int(call[1].reshape(-1)[0].item()), call[2]
    index = call[0].long() % depth
    inside = (call[0] >= -depth) & (call[0] < depth)
    hot = functional.one_hot(index, depth).bool() & inside.unsqueeze(-1)
    return torch.where(hot, on, off).movedim(-1, call.node.integer("axis", -1))


def _wrapped(index: Tensor, length: int) -> Tensor:
    return torch.where(index < 0, index + length, index).long()


def _reached(length: int, begin: int, end: int, mode: str, call: Call) -> Tensor:
    """Return the element each place of a padded axis shows."""
    places: Sequence[int] = range(-begin, length + end)
    if mode == "edge":
        return torch.tensor([min(max(place, 0), length - 1) for place in places])
    if mode == "wrap":
        return torch.tensor([place % length for place in places])
    if mode != "reflect":
        raise call.node.refusal(f"mode {mode} is not covered")
    period = max(2 * (length - 1), 1)
    return torch.tensor([min(place % period, period - place % period) if length > 1 else 0 for place in places])


TABLE: Final[Mapping[str, Operator]] = {
    "Concat": concat,
    "Split": split,
    "Slice": cut,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Pad": pad,
    "CumSum": cumulative_sum,
    "OneHot": one_hot,
}
