"""Trained weights back into the graph they came from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper

from onnxlr.model_io import tensor_array

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def write_back(proto: onnx.ModelProto, folder: Path | None, weights: Mapping[str, Tensor]) -> onnx.ModelProto:
    """Return a copy of ``proto`` in which initializers hold new values; one whose values are the old stays untouched.

    Names, types, shapes, order and everything else are those of ``proto``.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name not in weights:
            continue
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        new = np.ascontiguousarray(weights[tensor.name].detach().numpy(), dtype=dtype.newbyteorder("<"))
        if new.tobytes() == np.ascontiguousarray(tensor_array(tensor, folder), dtype=new.dtype).tobytes():
            continue
        for field in ("float_data", "double_data", "int32_data", "external_data", "data_location"):
            tensor.ClearField(field)
        tensor.raw_data = new.tobytes()
    return copy
