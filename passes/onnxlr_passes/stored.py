"""The data of a model's tensors, inside the model or in files beside it: of those, just the bytes of the tensor.

A model may come from a stranger: nothing outside of its folder is read, no pipe is waited on, and no more is asked for
than a file holds.
"""

from __future__ import annotations

import math
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from onnxlr_passes.base import PassError

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    try:
        needed = _size(tensor)
        return _part(_inside(folder, entries.get("location", "")), _offset(entries, needed), needed)
    except (OSError, ValueError, KeyError) as error:
        raise PassError(f"the data of tensor '{tensor.name}' cannot be read: {error}") from error


def _size(tensor: TensorProto) -> int:
    """Return how many bytes the raw data of a tensor take."""
    together = _TO_A_BYTE.get(TensorProto.DataType.Name(tensor.data_type), 1)
    count: int = math.prod(tensor.dims)
    return -(-count * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize // together)


def _offset(entries: Mapping[str, str], needed: int) -> int:
    """Return where the data begin in their file, once it is clear that as many are given as are needed."""
    offset, length = _number(entries.get("offset") or "0"), _number(entries.get("length") or str(needed))
    if length != needed:
        raise ValueError(f"{length} bytes from {offset} on are given, its shape needs {needed}")
    return offset


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise ValueError(f"{text!r} is not a number of bytes")
    return int(text)


def _inside(folder: Path | None, location: str) -> Path:
    """Return the file of a location, links resolved, which must be below ``folder``."""
    if folder is None or not location or Path(location).is_absolute():
        raise ValueError(f"{location!r} is not the name of a file below the model's folder")
    base = os.path.realpath(folder)
    path = Path(os.path.realpath(Path(base, location)))
    if not path.is_relative_to(base):
        raise ValueError(f"{location!r} leads out of {folder}")
    return path


def _part(path: Path, offset: int, length: int) -> bytes:
    """Read a part of a regular file."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{path} is not a regular file")
        if offset + length > status.st_size:
            raise ValueError(f"{path} has {status.st_size} bytes, {offset + length} are needed")
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            file.seek(offset)
            data = file.read(length)
    finally:
        os.close(descriptor)
    if len(data) != length:
        raise ValueError(f"{path} became shorter while it was read")
    return data
