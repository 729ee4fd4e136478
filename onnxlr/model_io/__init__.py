"""Models in and out of files: checked on the way in, whole or not at all on the way out."""

from __future__ import annotations

from onnxlr.model_io.disk import check_folder, make_folder, remove
from onnxlr.model_io.finite import check_finite
from onnxlr.model_io.load import Model, load
from onnxlr.model_io.runnable import runnable
from onnxlr.model_io.save import check_output, data_file, is_split, save
from onnxlr.model_io.tensors import dense_size, every_tensor, tensor_array
from onnxlr.model_io.text import write_text

__all__ = [
    "Model",
    "check_finite",
    "check_folder",
    "check_output",
    "data_file",
    "dense_size",
    "every_tensor",
    "is_split",
    "load",
    "make_folder",
    "remove",
    "runnable",
    "save",
    "tensor_array",
    "write_text",
]
