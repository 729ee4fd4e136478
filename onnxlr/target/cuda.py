"""What the CUDA provider stands on: its libraries, where pip puts them, and the driver."""

from __future__ import annotations

import ctypes
import io
import re
import sys
from contextlib import contextmanager, redirect_stdout
from functools import cache
from typing import TYPE_CHECKING

import onnxruntime as ort

if TYPE_CHECKING:
    from collections.abc import Iterator

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
FATAL, _WARNING = 4, 2  # severities; warnings and up are the runtime's default


@cache
def load_libraries(driver: str = DRIVER) -> str:
    """Load what is needed; return what is lacking, an empty string where nothing is known to be.

    ONNX Runtime looks where the system's loader does, and pip's packages of CUDA and cuDNN are elsewhere: they must be
    loaded before it asks for them. It can do so itself from 1.21 on.
    """
    said = io.StringIO()
    if hasattr(ort, "preload_dlls"):
        with redirect_stdout(said):
            ort.preload_dlls()
    # By name, not by a path: where it looks last.
    failed = re.search(r"^Failed to load ([^\s/\\:]+): (.*)$", said.getvalue(), re.MULTILINE)
    if failed:
        return f"{failed[1]} cannot be loaded ({failed[2].removeprefix(f'{failed[1]}: ')})"
    try:
        ctypes.CDLL(driver)
    except OSError:
        return f"this machine has no CUDA driver ({driver} cannot be loaded)"
    return ""


@contextmanager
def log_silenced() -> Iterator[None]:
    """Keep the runtime from printing why a provider does not start, where we say it in a line.

    Nothing tells how loud its log was before; afterwards it is as loud as it is by default.
    """
    ort.set_default_logger_severity(FATAL)
    try:
        yield
    finally:
        ort.set_default_logger_severity(_WARNING)
