"""Values and sizes of the tensors of a model, inside it or beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto

from onnxlr.errors import ModelError
from onnxlr.model_io.external import locate, read
from onnxlr.model_io.walk import copy_without_weights, every_tensor, is_external, raw_size

if TYPE_CHECKING:
    from pathlib import Path

    import numpy.typing as npt

__all__ = ["dense_size", "every_tensor", "tensor_array"]


def tensor_array(tensor: TensorProto, folder: Path | None) -> npt.NDArray[Any]:
    """Value of one tensor; of an external one, just its own bytes are read from its file.

    Parameters
    ----------
    tensor
        Of any type; bfloat16 and smaller types come as onnx represents them in NumPy (``ml_dtypes``).
    folder
        Where external data is looked up; None for a model given in memory.

    Returns
    -------
    array of shape ``tensor.dims``, possibly read-only.

    Raises
    ------
    ModelError
        When the data cannot be read, or is not what type and shape promise.
    """
    try:
        if not is_external(tensor):
            return onnx.numpy_helper.to_array(tensor)
        data = read(locate(tensor, folder))
        kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if kind.isbuiltin == 1:
            return np.frombuffer(data, kind.newbyteorder("<")).reshape(tensor.dims)
        plain = TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=bytes(data))
        return onnx.numpy_helper.to_array(plain)
    except (ValueError, TypeError, KeyError) as error:
        raise ModelError(f"tensor {tensor.name!r} cannot be read ({error})", "export the model again") from error


def dense_size(proto: onnx.ModelProto, folder: Path | None) -> int:
    """Bytes of the model as one self-contained file, within a few bytes a tensor; reads no external data.

    Raises
    ------
    ModelError
        When external data is missing or malformed.
    """
    size = 0
    for tensor in proto.graph.initializer:
        if tensor.HasField("raw_data"):
            size += raw_size(tensor) or 0
    for tensor in every_tensor(proto):
        if is_external(tensor):
            size += locate(tensor, folder).length
    return size + int(copy_without_weights(proto).ByteSize())
