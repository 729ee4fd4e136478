"""What the rest of the network makes of an error in a layer's answers: Gauss-Newton matrices, carried back.

From the outputs, where every error counts alike, the matrix G of a value's channels is carried back through the graph:
a convolution's input gets the sum of W_k^T G W_k over its taps, that of an activation the mean of J^T G J over the
data. This is the recursion of Botev, Ritter and Barber (2017, "Practical Gauss-Newton optimisation for deep learning",
KFRA), with errors at different positions taken as uncorrelated (Grosse and Martens 2016), and so those that reach a
value on different ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.activation import behind
from onnxlr_passes.scopes import scopes
from onnxlr_passes.sites import attribute, locate

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibration.observe import Place, Seen
    from onnxlr_passes.scopes import Scope
    from onnxlr_passes.sites import Site

    Array = np.ndarray[Any, np.dtype[Any]]

WORK = 1e11
"""Multiply-adds that carrying a matrix through one layer may take; past it, one of the identity stands for it."""

_SMOOTH = {"LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu"}
_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}
_ALONG = (
    _SMOOTH | _POOLS | {"Identity", "Dropout", "Cast", "Softmax", "LogSoftmax", "LRN", "Flatten", "Reshape", "Squeeze"}
)
"""Operators behind which errors of a channel are taken to be what they were, up to a factor."""


@dataclass(frozen=True, slots=True, eq=False)
class Outlook:
    """How errors e of one position's answers count, as e^T G e.

    ``before`` (T, T) is of the answers, or of the Add they feed; ``behind`` is of what leaves the activation there, the
    same where there is none.
    """

    before: Array
    behind: Array


def outlooks(
    model: onnx.ModelProto, folder: Path | None, places: Sequence[Place], seen: Mapping[str, Seen]
) -> dict[str, Outlook]:
    """Return the outlook of layers by site key; those before an operator that is not known have none."""
    able, skipped = locate(model, folder)
    every = [*able, *(one.site for one in skipped if one.site is not None)]
    sites = {site.output: site for site in every if site.scope == ""}
    main = scopes(model)[0]
    back = _Back(sites, _channels(main, sites))
    hidden: dict[str, tuple[str, Place]] = {}  # the activation's output -> what it reads
    inside: set[str] = set()
    for place in places:
        if place.activation is not None:
            value = place.joined or place.site.output
            ends, between = behind(main, value)
            hidden |= dict.fromkeys(ends, (value, place))
            inside |= between
    for output in main.index.outputs:
        if output in back.channels:
            back.add(output, np.eye(back.channels[output]))
    for node in reversed(list(main.nodes)):
        name = node.output[0]
        if name in hidden:
            value, place = hidden[name]
            back.add(value, _through(place, seen[place.site.key], back.found.get(name)))
        elif name not in inside:
            back.through(node)
    return _of(places, back, main)


def _of(places: Sequence[Place], back: _Back, main: Scope) -> dict[str, Outlook]:
    """Collect what was found for the places."""
    found: dict[str, Outlook] = {}
    for place in places:
        value = place.joined or place.site.output
        before = back.found.get(value)
        if before is None or place.site.geometry.group > 1 or len(before) != place.site.out_channels:
            continue
        ends = behind(main, value)[0] if place.activation is not None else ()
        parts = [back.found.get(end) for end in ends]
        known = [part for part in parts if part is not None]
        found[place.site.key] = Outlook(before, sum(known[1:], known[0]) if known else before)
    return found


def _through(place: Place, seen: Seen, matrix: Array | None) -> Array | None:
    """Return what an activation's input gets from its output."""
    answers = seen.answers if place.joined is None else seen.sums
    if matrix is None or place.activation is None or answers is None:
        return None
    return place.activation.carried_back(answers, matrix)


def _channels(main: Scope, sites: Mapping[str, Site]) -> dict[str, int]:
    """Return how many channels values have, where that is plain; flattened ones keep those of what is flattened."""
    found: dict[str, int] = {}
    for node in main.nodes:
        name, inputs = node.output[0], [found.get(value) for value in node.input]
        site = sites.get(name)
        known = [count for count in inputs if count is not None]
        if site is not None:
            found[name] = site.out_channels
        elif node.op_type == "Concat" and attribute(node, "axis", 1) == 1 and len(known) == len(inputs):
            found[name] = sum(known)
        elif (
            (node.op_type in _ALONG | {"Relu"} and inputs[0] is not None)
            or node.op_type in {"Add", "Sub", "Sum", "Mul", "Div"}
        ) and known:
            found[name] = max(known)
    return found


@dataclass(eq=False)
class _Back:
    """The matrices by value; None where one of its readers is not known."""

    sites: Mapping[str, Site]
    channels: Mapping[str, int]
    found: dict[str, Array | None] = field(default_factory=dict)

    def add(self, value: str, matrix: Array | None) -> None:
        """Take in what one reader of a value makes of its errors."""
        before = self.found.get(value)
        if value in self.found and (before is None or matrix is None or before.shape != matrix.shape):
            self.found[value] = None
        else:
            self.found[value] = matrix if before is None else before + matrix

    def through(self, node: onnx.NodeProto) -> None:
        """Carry the matrix of a node's output to its inputs."""
        matrix, op = self.found.get(node.output[0]), node.op_type
        site = self.sites.get(node.output[0])
        inputs = [name for name in node.input if name in self.channels]
        if site is not None:
            inner = self.channels.get(node.input[0])
            self.add(node.input[0], None if inner is None else linear(site, inner, matrix))
        elif matrix is None or any(self.channels[name] not in {len(matrix), 1} for name in inputs if op != "Concat"):
            for name in node.input:
                self.add(name, None)
        elif op == "Concat":
            self._apart(node, matrix)
        elif op == "Relu":
            self.add(node.input[0], half(matrix))
        elif op in {"Add", "Sub", "Sum"} or (op in {"Mul", "Div"} and len(inputs) == 1):
            for name in inputs:
                self.add(name, matrix)
        elif op in _ALONG:
            self.add(node.input[0], matrix / _read(node))
        else:
            for name in node.input:
                self.add(name, None)

    def _apart(self, node: onnx.NodeProto, matrix: Array) -> None:
        """Give every part of a concatenation its block."""
        ends = np.cumsum([self.channels.get(name, 0) for name in node.input])
        for name, end in zip(node.input, ends.tolist(), strict=True):
            start = end - self.channels.get(name, 0)
            self.add(name, matrix[start:end, start:end] if ends[-1] == len(matrix) else None)


def linear(site: Site, channels: int, matrix: Array | None) -> Array | None:
    """Return what a layer's input of so many ``channels`` gets from its output: the sum of W_k^T G W_k over the taps.

    Without a ``matrix`` G of its output it is the identity. What a linear layer reads may have been flattened: the
    positions are then taps.
    """
    group, t = site.geometry.group, site.out_channels
    taps = site.geometry.taps * site.in_channels // max(channels, 1)
    if site.in_channels % channels or (taps != site.geometry.taps and (group > 1 or site.op == "Conv")):
        return None
    if matrix is not None and (len(matrix) != t or 2.0 * t * t * channels * taps > WORK):
        matrix = np.trace(matrix) / len(matrix) * np.eye(t) if len(matrix) == t else None
    kernel = site.kernel().reshape(t, channels // group, taps)
    total = np.zeros((channels, channels))
    for tap in range(taps):
        weight = kernel[:, :, tap]
        if group > 1:
            weight = _apart_by_group(weight, group)
        total += weight.T @ (weight if matrix is None else matrix @ weight)
    return total / prod(site.geometry.strides)


def _apart_by_group(weight: Array, group: int) -> Array:
    """Return the whole matrix (T, S) of a grouped layer's (T, S / g)."""
    t, s = weight.shape
    found = np.zeros((t, group, s))
    found[np.arange(t), np.arange(t) // (t // group)] = weight
    return found.reshape(t, group * s)


def half(matrix: Array) -> Array:
    """Return what the input of a ReLU gets whose units are on half of the time, each by itself."""
    return (matrix + np.diag(np.diag(matrix))) / 4.0


def _read(node: onnx.NodeProto) -> float:
    """Return by how much a pooling lessens what one position's error counts."""
    strides, kernel = (attribute(node, name, []) for name in ("strides", "kernel_shape"))
    once = prod(strides) if isinstance(strides, list) else 1
    return float(once * (prod(kernel) if node.op_type == "AveragePool" and isinstance(kernel, list) else 1))
