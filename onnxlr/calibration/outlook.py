"""What the rest of the network makes of an error in a layer's answers: Gauss-Newton matrices, carried back.

From the outputs, where every error counts alike, the matrix G of a value's channels is carried back through the graph:
a convolution's input gets the sum of W_k^T G W_k over its taps, that of an activation the mean of J^T G J over the
data. This is the recursion of Botev, Ritter and Barber (2017, "Practical Gauss-Newton optimisation for deep learning",
KFRA), with errors at different positions taken as uncorrelated (Grosse and Martens 2016), and so those that reach a
value on different ways.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr.calibration.activation import behind
from onnxlr.schemes.turn import Turn
from onnxlr_passes.constants import Constants
from onnxlr_passes.scopes import scopes
from onnxlr_passes.sites import attribute, locate

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibration.observe import Place, Seen
    from onnxlr_passes.scopes import Scope
    from onnxlr_passes.sites import Site

    Array = np.ndarray[Any, np.dtype[Any]]

MOST = 1024
"""Channels up to which values have a matrix: the roots of larger ones would take longer than the fits."""

WORK = 1e11
"""Multiply-adds that carrying a matrix through one layer may take; past it, one of the identity stands for it."""

_SMOOTH = {"LeakyRelu", "PRelu", "Elu", "Selu", "Celu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Gelu"}
_POOLS = {"MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean"}
_ALONG = _SMOOTH | _POOLS | {"Identity", "Dropout", "Cast", "Softmax", "LogSoftmax", "LRN", "Flatten", "Squeeze"}
"""Operators behind which errors of a channel are taken to be what they were, up to a factor."""


@dataclass(frozen=True, eq=False)
class Outlook:
    """How errors e of one position's answers count, as e^T G e.

    ``before`` (T, T) is of the answers, or of the Add they feed; ``behind`` is of what leaves the activation there, the
    same where there is none.
    """

    before: Array
    behind: Array

    @cached_property
    def turn(self) -> Turn:
        """The coordinates in which errors of the answers count alike."""
        return Turn.of(self.before)

    @cached_property
    def turn_behind(self) -> Turn:
        """The same for what leaves the activation."""
        return self.turn if self.behind is self.before else Turn.of(self.behind)


def outlooks(
    model: onnx.ModelProto, folder: Path | None, places: Sequence[Place], seen: Mapping[str, Seen]
) -> dict[str, Outlook]:
    """Return the outlook of layers by site key; those before an operator that is not known have none."""
    able, skipped = locate(model, folder)
    every = [*able, *(one.site for one in skipped if one.site is not None)]
    main, *inner = scopes(model)
    hidden = _hidden(main, places)
    back = _Back(main, Constants(model, folder), *_channels(main, every, hidden))
    for scope in inner:  # what bodies read is not followed
        for name in [*scope.index.outputs, *(name for node in scope.nodes for name in node.input)]:
            if name and scope.where(name) is main:
                back.add(name, None)
    for output in main.index.outputs:
        if output in back.channels:
            back.add(output, np.eye(back.channels[output]))
    for node in reversed(list(main.nodes)):
        found = hidden.get(node.output[0])
        if found is not None and found.between is None:
            back.add(found.value, _through(found.place, seen, back.found.get(node.output[0])))
        elif found is None:
            back.through(node)
    return _of(places, back, hidden)


@dataclass(frozen=True, slots=True)
class _Hidden:
    """A value of an activation: its output or, where it is not None, one ``between`` that and what is read."""

    value: str
    place: Place
    between: str | None


def _hidden(main: Scope, places: Sequence[Place]) -> dict[str, _Hidden]:
    """Return the values that activations behind the places give, by name."""
    found: dict[str, _Hidden] = {}
    for place in places:
        if place.activation is not None:
            value = place.joined or place.site.output
            ends, between = behind(main, value)
            found |= {end: _Hidden(value, place, None) for end in ends}
            found |= {name: _Hidden(value, place, name) for name in between}
    return found


def _through(place: Place, seen: Mapping[str, Seen], matrix: Array | None) -> Array | None:
    """Return what an activation's input gets from its output."""
    of = seen[place.site.key]
    answers = of.answers if place.joined is None else of.sums
    if matrix is None or place.activation is None or answers is None:
        return None
    return place.activation.carried_back(answers, matrix)


def _of(places: Sequence[Place], back: _Back, hidden: Mapping[str, _Hidden]) -> dict[str, Outlook]:
    """Collect what was found for the places."""
    found: dict[str, Outlook] = {}
    for place in places:
        value = place.joined or place.site.output
        before = back.found.get(value)
        if before is None or place.site.geometry.group > 1 or len(before) != place.site.out_channels:
            continue
        ends = [name for name, one in hidden.items() if one.value == value and one.between is None]
        known = [part for part in (back.found.get(end) for end in ends) if part is not None]
        found[place.site.key] = Outlook(before, sum(known[1:], known[0]) if known else before)
    return found


def _channels(
    main: Scope, every: Sequence[Site], hidden: Mapping[str, _Hidden]
) -> tuple[dict[str, Site], dict[str, int], set[str]]:
    """Return the main graph's layers, how many channels values have, and whose channels are last.

    Values of more than ``MOST`` channels, or where it is not plain which axis they are on, are left out. Flattened ones
    keep the channels of what is flattened.
    """
    sites = {site.output: site for site in every if site.scope == ""}
    found: dict[str, int] = {}
    last: set[str] = set()
    for node in main.nodes:
        name, op, inputs = node.output[0], node.op_type, [value for value in node.input if value in found]
        count, site = None, sites.get(name)
        one = hidden.get(name)
        if site is not None:
            count = site.out_channels
        elif one is not None and one.between is None and one.place.activation is not None:
            count = one.place.activation.units(one.place.site.out_channels)
        elif op == "Concat" and attribute(node, "axis", 1) == 1 and len(inputs) == len(node.input):
            count = sum(found[value] for value in inputs)
        elif (op in _ALONG | {"Relu"} or (op == "Reshape" and _flattens(main, node))) and node.input[0] in found:
            count = found[node.input[0]]
        elif op in {"Add", "Sub", "Sum", "Mul", "Div"} and len({value in last for value in inputs}) == 1:
            count = max(found[value] for value in inputs)
        if count is not None and count <= MOST:
            found[name] = count
            if op in {"Gemm", "MatMul", "Flatten", "Squeeze", "Reshape"} or any(value in last for value in inputs):
                last.add(name)
    return sites, found, last


def _flattens(main: Scope, reshape: onnx.NodeProto) -> bool:
    """Whether a Reshape surely gives rows: what it gives is read by Gemm alone."""
    readers = main.consumers(reshape.output[0])
    return bool(readers) and all(reader.op_type == "Gemm" for reader in readers)


@dataclass(eq=False)
class _Back:
    """The matrices by value; None where one of its readers is not known."""

    main: Scope
    constants: Constants
    sites: Mapping[str, Site]
    channels: Mapping[str, int]
    last: Collection[str]
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
        matrix = self.found.get(node.output[0])
        site = self.sites.get(node.output[0])
        inputs = [name for name in node.input if name in self.channels]
        if site is not None:
            self.add(node.input[0], self._behind(node, site, matrix))
            for name in inputs:
                if name != node.input[0]:
                    self.add(name, matrix)
        elif node.op_type == "Concat" and matrix is not None:
            self._apart(node, matrix)
        elif node.op_type not in {"Shape", "Size"}:  # those see no values
            even = matrix is not None and all(self.channels[name] in {len(matrix), 1} for name in inputs)
            for name in node.input:
                self.add(name, self._carried(node, name, matrix) if even and matrix is not None else None)

    def _carried(self, node: onnx.NodeProto, value: str, matrix: Array) -> Array | None:
        """Return what an input of a node gets whose channels each stay where they are."""
        op = node.op_type
        if op == "Relu":
            return half(matrix)
        if op in {"Add", "Sub", "Sum"}:
            return matrix
        if op in {"Mul", "Div"}:
            return self._scaled(node, value, matrix)
        return matrix / _read(node) if op in _ALONG or op == "Reshape" else None

    def _behind(self, node: onnx.NodeProto, site: Site, matrix: Array | None) -> Array | None:
        """Return what a layer's input gets."""
        name = node.input[0]
        channels = self.channels.get(name)
        if channels is None or (name in self.last) != (site.op != "Conv"):
            return None
        return linear(site, channels, matrix)

    def _scaled(self, node: onnx.NodeProto, value: str, matrix: Array) -> Array | None:
        """Return what a value gets that is multiplied or divided by a constant, one number or one a channel."""
        other = next((name for name in node.input if name != value), value)
        found = self.constants.resolve(self.main, other)
        if isinstance(found, str) or (node.op_type == "Div" and node.input[0] != value):
            return None
        factor = found.array.astype(np.float64).reshape(-1)
        if factor.size not in {1, len(matrix)} or (node.op_type == "Div" and not factor.all()):
            return None
        factor = np.broadcast_to(1.0 / factor if node.op_type == "Div" else factor, len(matrix))
        return matrix * np.outer(factor, factor)

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
    level = 1.0 / prod(site.geometry.strides)
    if matrix is not None and (len(matrix) != t or 1.0 * t * (t + channels) * channels * taps > WORK):
        level *= float(np.trace(matrix)) / len(matrix)
        matrix = None
    kernel = site.kernel().reshape(t, channels // group, taps)
    if group == channels == t:
        alike = kernel[:, 0] @ kernel[:, 0].T
        return level * (np.diag(np.diag(alike)) if matrix is None else matrix * alike)
    total = np.zeros((channels, channels))
    for tap in range(taps):
        weight = kernel[:, :, tap] if group == 1 else _apart_by_group(kernel[:, :, tap], group)
        total += weight.T @ (weight if matrix is None else matrix @ weight)
    return level * total


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
