"""What stands behind a layer and hides part of its answers: targets through it (Zhang et al. 2015, section 3.2)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from onnxlr_passes.sites import attribute

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxlr_passes.constants import Constants
    from onnxlr_passes.scopes import Scope

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class Relu:
    """max(x, 0)."""

    def of(self, x: Array) -> Array:
        """Return what is seen of answers ``x``."""
        seen: Array = np.maximum(x, 0.0)
        return seen

    def closest(self, wanted: Array, current: Array, weight: float) -> Array:
        """Return the z that minimises (relu(wanted) - relu(z))^2 + weight (z - current)^2, element by element.

        The two branches of the ReLU each have a closed form; the better one is taken. Where both are off, z is where
        the layer already is: nothing is spent on values that the ReLU cuts away.
        """
        level = np.maximum(wanted, 0.0)
        on = np.maximum((level + weight * current) / (1.0 + weight), 0.0)
        off = np.minimum(current, 0.0)
        loss_on = np.square(level - on) + weight * np.square(on - current)
        loss_off = np.square(level) + weight * np.square(off - current)
        z: Array = np.where(loss_on < loss_off, on, off)
        return z

    def units(self, channels: int) -> int:
        """Return how many channels leave it."""
        return channels

    def carried_back(self, answers: Array, matrix: Array) -> Array:
        """Return the mean of J^T G J over ``answers`` (n, T), J the slopes there and ``matrix`` G (T, T)."""
        on = (answers > 0.0).astype(np.float32)
        back: Array = matrix * (on.T @ on) / max(len(on), 1)
        return back


@dataclass(frozen=True, slots=True)
class Maxout:
    """The largest of ``pieces`` channels (Goodfellow et al. 2013).

    They are consecutive or, with ``strided``, every (T / pieces)-th.
    """

    pieces: int
    strided: bool

    def of(self, x: Array) -> Array:
        """Return what is seen of answers ``x`` (n, T), (n, T / pieces)."""
        seen: Array = self._apart(x).max(axis=2)
        return seen

    def closest(self, wanted: Array, current: Array, weight: float) -> Array:
        """Return the z that minimises (max(wanted) - max(z))^2 + weight ||z - current||^2 over every unit's pieces.

        Either the piece that leads is raised, or all above a level are lowered to it: which, the number of pieces
        above the level decides, and of each number the level has a closed form.
        """
        level = self._apart(wanted).max(axis=2)
        now = self._apart(current)
        ranked = -np.sort(-now, axis=2)
        best = (level + weight * ranked[:, :, 0]) / (1.0 + weight)
        total = ranked[:, :, 0]
        for count in range(2, self.pieces + 1):
            total = total + ranked[:, :, count - 1]
            lowered = (level + weight * total) / (1.0 + count * weight)
            best = np.where(lowered < ranked[:, :, count - 1], lowered, best)
        z = np.minimum(now, best[:, :, None])
        leader = now.argmax(axis=2)[:, :, None]
        np.put_along_axis(z, leader, best[:, :, None], axis=2)
        joined: Array = (z.transpose(0, 2, 1) if self.strided else z).reshape(current.shape)
        return joined

    def units(self, channels: int) -> int:
        """Return how many channels leave it."""
        return channels // self.pieces

    def carried_back(self, answers: Array, matrix: Array) -> Array:
        """Return the mean of J^T G J over ``answers`` (n, T), J the choices there, ``matrix`` G (T / pieces)^2."""
        units, each = len(matrix), np.arange(answers.shape[1])
        unit = each % units if self.strided else each // self.pieces
        apart = self._apart(answers)
        leads = apart == apart.max(axis=2, keepdims=True)
        won = (leads.transpose(0, 2, 1) if self.strided else leads).reshape(answers.shape).astype(np.float32)
        back: Array = matrix[np.ix_(unit, unit)] * (won.T @ won) / max(len(won), 1)
        return back

    def _apart(self, x: Array) -> Array:
        """Return answers (n, T) as (n, T / pieces, pieces)."""
        if self.strided:
            return x.reshape(len(x), self.pieces, -1).transpose(0, 2, 1)
        return x.reshape(len(x), -1, self.pieces)


Activation = Relu | Maxout


def activation_behind(constants: Constants, scope: Scope, value: str, channels: int) -> Activation | None:
    """Return what all readers of ``value`` see of it; None where they see all.

    It has so many ``channels`` on axis 1, 0 where that axis is none of channels.
    """
    readers = scope.consumers(value)
    if not readers or scope.is_output(value):
        return None
    if all(reader.op_type == "Relu" for reader in readers):
        return Relu()
    if len(readers) > 1:
        return None
    if readers[0].op_type == "Reshape":
        return _reduced(constants, scope, readers[0], channels)
    return _split(scope, readers[0], channels) if readers[0].op_type == "Split" else None


def behind(scope: Scope, value: str) -> tuple[tuple[str, ...], set[str]]:
    """Return the outputs of the activation that reads ``value``, and the names that lie between."""
    readers = scope.consumers(value)
    if all(reader.op_type == "Relu" for reader in readers):
        return tuple(reader.output[0] for reader in readers), set()
    between = set(readers[0].output)
    return tuple({reader.output[0]: None for name in between for reader in scope.consumers(name)}), between


def _reduced(constants: Constants, scope: Scope, reshape: onnx.NodeProto, channels: int) -> Maxout | None:
    """Recognise the channels' axis taken apart, and the maximum over one of the two parts."""
    shape = constants.integers(scope, reshape.input[1])
    after = scope.consumers(reshape.output[0])
    if isinstance(shape, str) or len(shape) < 3 or scope.is_output(reshape.output[0]):
        return None
    if shape[1] * shape[2] != channels or min(shape[1:3]) < 1 or len(after) != 1 or after[0].op_type != "ReduceMax":
        return None
    axes = attribute(after[0], "axes", None)
    if axes is None and len(after[0].input) > 1:
        axes = constants.integers(scope, after[0].input[1])
    if not isinstance(axes, list | tuple) or len(axes) != 1:
        return None
    axis = axes[0] % len(shape)
    return Maxout(shape[axis], strided=axis == 1) if axis in {1, 2} else None


def _split(scope: Scope, split: onnx.NodeProto, channels: int) -> Maxout | None:
    """Recognise channels split evenly, and the maximum over the parts."""
    parts: Sequence[str] = list(split.output)
    readers = [scope.consumers(part) for part in parts]
    if len(split.input) > 1 or attribute(split, "split", None) is not None or attribute(split, "axis", 0) != 1:
        return None
    if len(parts) < 2 or channels < len(parts) or channels % len(parts) or any(scope.is_output(part) for part in parts):
        return None
    same = all(len(of) == 1 and of[0] is readers[0][0] for of in readers)
    joined = same and readers[0][0].op_type == "Max" and sorted(readers[0][0].input) == sorted(parts)
    return Maxout(len(parts), strided=True) if joined else None
