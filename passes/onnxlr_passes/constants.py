"""Which values of a model are constant, and what they hold, read only when asked for.

A constant is an initializer or the output of a Constant or ConstantOfShape node, also behind Identity, Cast, Transpose,
Reshape, Squeeze and Unsqueeze.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import TensorProto, external_data_helper, helper

from onnxlr_passes.scopes import DEFAULT_DOMAINS
from onnxlr_passes.stored import read

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from onnxlr_passes.scopes import Scope

FLOAT_TYPES = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})

_CASTS = FLOAT_TYPES | {TensorProto.INT32, TensorProto.INT64}
_NOT_NUMERIC = frozenset({TensorProto.UNDEFINED, TensorProto.STRING})
# A chain this long in front of a weight is a broken or hostile file, never an exporter's habit.
_MAX_STEPS = 64
# No tensor can be written that is larger, and a few bytes of ConstantOfShape could ask for any size.
_MAX_FILLED = 1 << 31


@dataclass(frozen=True, slots=True)
class _Permute:
    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Reshape:
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Fill:
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Cast:
    dtype: int


class _NotConstant(Exception):  # noqa: N818 - an answer on its way up, not an error
    """Why a value is not constant; never leaves this module."""


_Step = _Permute | _Reshape | _Fill | _Cast


@dataclass(frozen=True, slots=True, eq=False)
class Constant:
    """A constant value: what it is, without its data until :attr:`array` is read.

    ``dtype`` is a ``TensorProto`` data type. ``origin`` names the tensor at the root for a reader, as
    ``initializer 'conv1.weight'``. Two values with the same ``key`` hold the same array (they come from the same
    tensor through the same steps). ``listed_as_input``: the root is an initializer that is also a graph input, so
    whoever runs the model may replace it; treat it as constant only if you say so.
    """

    shape: tuple[int, ...]
    dtype: int
    origin: str
    key: str
    listed_as_input: bool
    tensor: TensorProto = field(repr=False)
    folder: Path | None = field(repr=False)
    steps: tuple[_Step, ...] = field(default=(), repr=False)

    @property
    def array(self) -> NDArray[np.generic]:
        """The data, C-contiguous and read-only, read and converted on every access: keep it while you need it.

        Raises
        ------
        PassError
            When the tensor's data cannot be read or does not fit its shape.
        """
        array = read(self.tensor, self.folder)
        for step in self.steps:
            if isinstance(step, _Permute):
                array = array.transpose(step.axes)
            elif isinstance(step, _Reshape):
                array = array.reshape(step.shape)
            elif isinstance(step, _Fill):
                array = np.broadcast_to(array.reshape(()), step.shape)
            else:
                with np.errstate(over="ignore"):  # an overflow becomes inf, as in a runtime's own Cast
                    array = array.astype(helper.tensor_dtype_to_np_dtype(step.dtype))
        array = np.ascontiguousarray(array).reshape(self.shape).view()
        array.flags.writeable = False
        return array


@dataclass(frozen=True, slots=True)
class Constants:
    """Resolve value names of a model to constants; ``folder`` is where its external data lies."""

    model: onnx.ModelProto
    folder: Path | None = None

    def resolve(self, scope: Scope, name: str) -> Constant | str:
        """Give the constant that ``name`` means in ``scope``, or in words why it is none (``"graph input"``)."""
        try:
            return self._resolve(scope, name, 0)
        except _NotConstant as reason:
            return str(reason)

    def integers(self, scope: Scope, name: str) -> list[int] | str:
        """Give the elements of an integer constant (a shape, axes, pads), or why ``name`` is none."""
        try:
            return self._integers(scope, name, 0)
        except _NotConstant as reason:
            return str(reason)

    def _integers(self, scope: Scope, name: str, depth: int) -> list[int]:
        value = self._resolve(scope, name, depth)
        if value.dtype not in {TensorProto.INT32, TensorProto.INT64}:
            raise _NotConstant(f"{value.origin} does not hold integers")
        return [int(entry) for entry in value.array.reshape(-1)]

    def _resolve(self, scope: Scope, name: str, depth: int) -> Constant:
        if not name:
            raise _NotConstant("left out")
        if depth > _MAX_STEPS:
            raise _NotConstant(f"behind more than {_MAX_STEPS} nodes")
        home = scope.where(name)
        if home is None:
            raise _NotConstant(f"'{name}' is not defined")
        main = home.parent is None and home.graph is not None
        tensor = home.initializer(name)
        if tensor is not None and (main or name not in home.inputs):
            return self._root(home, name, tensor, f"initializer '{name}'", listed=name in home.inputs)
        if name in home.inputs:
            where = "function" if home.function is not None else "graph" if main else "subgraph"
            raise _NotConstant(f"{where} input")
        if home.is_sparse_initializer(name):
            raise _NotConstant("sparse initializer")
        node = home.producer(name)
        assert node is not None  # the scope defines the name and it is none of the above
        return self._computed(home, name, node, depth)

    def _computed(self, home: Scope, name: str, node: onnx.NodeProto, depth: int) -> Constant:
        domain = "" if node.domain in DEFAULT_DOMAINS else f"{node.domain}:"
        if not domain and node.op_type == "Constant":
            return self._root(home, name, _constant_node(node), f"Constant '{name}'", listed=False)
        if not domain and node.op_type == "ConstantOfShape":
            return self._filled(home, name, node, depth)
        if not domain and node.op_type == "DequantizeLinear":
            raise _NotConstant("output of DequantizeLinear")
        through = None if domain else _STEPS.get(node.op_type)
        if through is None:
            raise _NotConstant(f"computed by {domain}{node.op_type}")
        source = self._resolve(home, node.input[0] if node.input else "", depth + 1)
        # Axes and shapes come as an input in newer opsets: opset 13 for Squeeze, 5 for Reshape.
        given = self._integers(home, node.input[1], depth + 1) if len(node.input) > 1 and node.input[1] else None
        step = through(node, source, given)
        return source if step is None else _after(source, step)

    def _filled(self, home: Scope, name: str, node: onnx.NodeProto, depth: int) -> Constant:
        shape = tuple(self._integers(home, node.input[0] if node.input else "", depth + 1))
        value = node.attribute[0].t if node.attribute else helper.make_tensor("", TensorProto.FLOAT, (1,), [0.0])
        if any(size < 0 for size in shape) or list(value.dims) not in ([], [1]):
            raise _NotConstant("computed by ConstantOfShape (its shape or value is not valid)")
        source = self._root(home, name, value, f"ConstantOfShape '{name}'", listed=False)
        if math.prod(shape) * helper.tensor_dtype_to_np_dtype(value.data_type).itemsize > _MAX_FILLED:
            raise _NotConstant(f"{source.origin} is larger than {_MAX_FILLED >> 30} GiB")
        return _after(source, _Fill(shape))

    def _root(self, home: Scope, name: str, tensor: TensorProto, origin: str, *, listed: bool) -> Constant:
        if tensor.data_type in _NOT_NUMERIC:
            raise _NotConstant(f"{origin} is not numeric")
        if external_data_helper.uses_external_data(tensor) and self.folder is None:
            raise _NotConstant(f"{origin} has external data and no folder to read it from")
        key = f"{home.path}|{name}"
        return Constant(tuple(tensor.dims), tensor.data_type, origin, key, listed, tensor, self.folder)


def _after(source: Constant, step: _Step) -> Constant:
    key, steps = f"{source.key}|{step}", (*source.steps, step)
    if isinstance(step, _Permute):
        return replace(source, shape=tuple(source.shape[axis] for axis in step.axes), key=key, steps=steps)
    if isinstance(step, _Reshape | _Fill):
        return replace(source, shape=step.shape, key=key, steps=steps)
    return replace(source, dtype=step.dtype, key=key, steps=steps)


def _identity(_node: onnx.NodeProto, _source: Constant, _given: list[int] | None) -> _Step | None:
    return None


def _cast(node: onnx.NodeProto, source: Constant, _given: list[int] | None) -> _Step | None:
    to = next((attribute.i for attribute in node.attribute if attribute.name == "to"), TensorProto.UNDEFINED)
    if to not in _CASTS:
        raise _NotConstant("cast to a type other than float or integer")
    return None if to == source.dtype else _Cast(to)


def _transpose(node: onnx.NodeProto, source: Constant, _given: list[int] | None) -> _Step | None:
    axes = _integer_list(node, "perm")
    if axes is None:
        axes = list(range(len(source.shape)))[::-1]
    if sorted(axes) != list(range(len(source.shape))):
        raise _NotConstant(f"computed by Transpose (perm {axes} does not fit {len(source.shape)} axes)")
    return _Permute(tuple(axes))


def _reshape(node: onnx.NodeProto, source: Constant, given: list[int] | None) -> _Step | None:
    shape = list(given if given is not None else _integer_list(node, "shape") or ())
    if not any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
        known = (*source.shape, *[-2] * len(shape))  # -2: a zero copies an axis that is not there
        shape = [known[axis] if size == 0 else size for axis, size in enumerate(shape)]
    if shape.count(-1) == 1:
        rest = math.prod(size for size in shape if size != -1)
        shape[shape.index(-1)] = math.prod(source.shape) // rest if rest else 0
    return _reshaped(node, shape, source)


def _squeeze(node: onnx.NodeProto, source: Constant, given: list[int] | None) -> _Step | None:
    axes = given if given is not None else _integer_list(node, "axes")
    if axes is None:
        axes = [axis for axis, size in enumerate(source.shape) if size == 1]
    gone = {axis % len(source.shape) for axis in axes} if source.shape else set()
    return _reshaped(node, [size for axis, size in enumerate(source.shape) if axis not in gone], source)


def _unsqueeze(node: onnx.NodeProto, source: Constant, given: list[int] | None) -> _Step | None:
    axes = (given if given is not None else _integer_list(node, "axes")) or []
    rank = len(source.shape) + len(axes)
    new = {axis % rank for axis in axes}
    if len(new) != len(axes):
        raise _NotConstant(f"computed by Unsqueeze (axes {axes} repeat)")
    old = iter(source.shape)
    return _reshaped(node, [1 if axis in new else next(old) for axis in range(rank)], source)


def _reshaped(node: onnx.NodeProto, shape: list[int], source: Constant) -> _Step | None:
    if any(size < 0 for size in shape) or math.prod(shape) != math.prod(source.shape):
        raise _NotConstant(f"computed by {node.op_type} (its shape does not fit {list(source.shape)})")
    return None if tuple(shape) == source.shape else _Reshape(tuple(shape))


_STEPS: dict[str, Callable[[onnx.NodeProto, Constant, list[int] | None], _Step | None]] = {
    "Identity": _identity,
    "Cast": _cast,
    "Transpose": _transpose,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
}


def _integer_list(node: onnx.NodeProto, name: str) -> list[int] | None:
    for attribute in node.attribute:
        if attribute.name == name:
            if attribute.ref_attr_name:
                raise _NotConstant(f"computed by {node.op_type} ({name} is an attribute of the function)")
            return list(attribute.ints)
    return None


def _constant_node(node: onnx.NodeProto) -> TensorProto:
    attribute = node.attribute[0] if len(node.attribute) == 1 else onnx.AttributeProto()
    if attribute.ref_attr_name:
        raise _NotConstant("Constant whose value is an attribute of the function")
    tensor = attribute.t
    if attribute.name == "value_float":
        tensor = helper.make_tensor("", TensorProto.FLOAT, (), [attribute.f])
    elif attribute.name == "value_int":
        tensor = helper.make_tensor("", TensorProto.INT64, (), [attribute.i])
    elif attribute.name == "value_floats":
        tensor = helper.make_tensor("", TensorProto.FLOAT, (len(attribute.floats),), list(attribute.floats))
    elif attribute.name == "value_ints":
        tensor = helper.make_tensor("", TensorProto.INT64, (len(attribute.ints),), list(attribute.ints))
    elif attribute.name != "value":
        raise _NotConstant(f"Constant given by '{attribute.name}'")
    return tensor
