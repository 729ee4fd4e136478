"""Calibration data: unlabelled samples from files or from Python, streamed, and what is measured on them."""

from __future__ import annotations

from onnxlr.calibration.copies import copied
from onnxlr.calibration.files import files_in, open_source
from onnxlr.calibration.images import IMAGE_SUFFIXES, ImageOptions
from onnxlr.calibration.iterable import DataReader, from_iterable
from onnxlr.calibration.memory import Memory, parse_memory
from onnxlr.calibration.source import DataOptions, Source

__all__ = [
    "IMAGE_SUFFIXES",
    "DataOptions",
    "DataReader",
    "ImageOptions",
    "Memory",
    "Source",
    "copied",
    "files_in",
    "from_iterable",
    "open_source",
    "parse_memory",
]
