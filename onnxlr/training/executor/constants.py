"""Tensors of a model as torch tensors, and the operators that make constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
import onnx
import torch
from onnx import TensorProto

from onnxlr.model_io import tensor_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from onnxlr.training.executor.call import Call, Operator

DTYPES: Final[Mapping[int, torch.dtype]] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.BOOL: torch.bool,
}
"""Element types that torch has too."""


def to_torch(tensor: TensorProto, folder: Path | None) -> Tensor | None:
    """Return the value of a tensor as a copy; None for an element type that torch does not have.

    Raises
    ------
    ModelError
        When its data cannot be read.
    """
    if tensor.data_type not in DTYPES:
        return None
    array: np.ndarray[Any, Any] = tensor_array(tensor, folder)
    if tensor.data_type == TensorProto.BFLOAT16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def constant(call: Call) -> Tensor:
    """Constant, in any of its forms but text and sparse ones."""
    for name, value in call.node.attributes.items():
        if isinstance(value, onnx.TensorProto):
            made = to_torch(value, None)
            if made is not None:
                return made
        elif name in {"value_float", "value_floats"}:
            return torch.tensor(value, dtype=torch.float32)
        elif name in {"value_int", "value_ints"}:
            return torch.tensor(value, dtype=torch.int64)
    raise call.node.refusal("a constant of this kind is not covered")


def constant_of_shape(call: Call) -> Tensor:
    """ConstantOfShape."""
    shape = call.integers(0) or []
    value = call.node.attributes.get("value")
    filled = to_torch(value, None) if isinstance(value, onnx.TensorProto) else torch.zeros(1)
    if filled is None:
        raise call.node.refusal("a constant of this kind is not covered")
    return filled.reshape(()).expand(shape).clone()


def cast(call: Call) -> Tensor:
    """Cast between types that torch has."""
    wanted = call.node.integer("to", 0)
    if wanted not in DTYPES:
        raise call.node.refusal(f"a cast to {TensorProto.DataType.Name(wanted)} is not covered")
    return call[0].to(DTYPES[wanted])


def cast_like(call: Call) -> Tensor:
    """CastLike."""
    return call[0].to(call[1].dtype)


def sequence_of_numbers(call: Call) -> Tensor:
    """Range."""
    start, stop, step = (call[index].item() for index in range(3))
    return torch.arange(start, stop, step, dtype=call[0].dtype)


TABLE: Final[Mapping[str, Operator]] = {
    "Constant": constant,
    "ConstantOfShape": constant_of_shape,
    "Cast": cast,
    "CastLike": cast_like,
    "Range": sequence_of_numbers,
}
