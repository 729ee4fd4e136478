"""The data of a model's tensors, inside the model or in files beside it: of those, just the bytes of the tensor.

A model may come from a stranger: no more is asked for than a file holds (see also ``onnxlr_passes.beside``).
"""

from __future__ import annotations

import math
import os
from io import BufferedReader
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from onnxlr_passes.base import PassError
from onnxlr_passes.beside import byte_number, inside, open_regular

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

# Elements that share a byte. By name, for not every onnx knows them all.
_TO_A_BYTE = {"UINT4": 2, "INT4": 2, "FLOAT4E2M1": 2, "UINT2": 4, "INT2": 4}


def read(tensor: TensorProto, folder: Path | None) -> NDArray[np.generic]:
    """Return the value of a tensor, of shape ``tensor.dims``, possibly read-only; the tensor stays as it is.

    ``folder`` is where external data lies.

    Raises
    ------
    PassError
        When the data are missing, cut short, out of the folder or not what type and shape promise.
    """
    data = external_data(tensor, folder) if external_data_helper.uses_external_data(tensor) else None
    try:
        if data is None:
            return numpy_helper.to_array(tensor)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if dtype.isbuiltin == 1:  # one copy less: the largest are 0.8 GB
            return np.frombuffer(data, dtype.newbyteorder("<")).reshape(tensor.dims).astype(dtype, copy=False)
        return numpy_helper.to_array(TensorProto(dims=tensor.dims, data_type=tensor.data_type, raw_data=data))
    except (ValueError, TypeError, KeyError) as error:
        raise PassError(f"the data of tensor '{tensor.name}' cannot be read: {error}") from error


def external_data(tensor: TensorProto, folder: Path | None) -> bytes:
    """Return the bytes of an external tensor, as its ``raw_data`` would be.

    An offset that is left out is 0, a length what type and shape need.

    Raises
    ------
    PassError
        When they are missing, cut short, out of ``folder`` or not as many as type and shape need.
    """
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if folder is None:
        raise PassError(f"the data of tensor '{tensor.name}' are in a file, but the model was given without a folder")
    try:
        needed = _size(tensor)
        return _part(inside(folder, entries.get("location", "")), _offset(entries, needed), needed)
    except OSError as error:
        text = f"the data of tensor '{tensor.name}' cannot be read: {error.filename}: {error.strerror}"
        raise PassError(text) from error
    except (ValueError, KeyError) as error:
        raise PassError(f"the data of tensor '{tensor.name}' cannot be read: {error}") from error


def _size(tensor: TensorProto) -> int:
    """Return how many bytes the raw data of a tensor take."""
    together = _TO_A_BYTE.get(TensorProto.DataType.Name(tensor.data_type), 1)
    count: int = math.prod(tensor.dims)
    return -(-count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize // together)


def _offset(entries: Mapping[str, str], needed: int) -> int:
    """Return where the data begin in their file, once it is clear that as many are given as are needed."""
    offset, length = byte_number(entries.get("offset") or "0"), byte_number(entries.get("length") or str(needed))
    if length != needed:
        raise ValueError(f"{length} bytes from {offset} on are given, its shape needs {needed}")
    return offset


def _part(path: Path, offset: int, length: int) -> bytes:
    """Read a part of a regular file."""
    with BufferedReader(open_regular(path)) as file:
        size = os.fstat(file.fileno()).st_size
        if offset + length > size:
            raise ValueError(f"{path} has {size} bytes, {offset + length} are needed")
        file.seek(offset)
        data = file.read(length)
    if len(data) != length:
        raise ValueError(f"{path} became shorter while it was read")
    return data
