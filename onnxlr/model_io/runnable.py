"""A model in the form ONNX Runtime loads."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from onnxlr.model_io.load import PROTOBUF_LIMIT
from onnxlr.model_io.save import save
from onnxlr.model_io.tensors import dense_size
from onnxlr.model_io.walk import every_tensor, is_external

if TYPE_CHECKING:
    from collections.abc import Iterator

    import onnx


@contextmanager
def runnable(proto: onnx.ModelProto, folder: Path | None, *, limit: int = PROTOBUF_LIMIT) -> Iterator[bytes | Path]:
    """Give what ``onnxruntime.InferenceSession`` takes: the bytes, or for a large or external model a path.

    The path is a complete copy in a private temporary folder (see TMPDIR), with real files, because ONNX Runtime
    refuses data behind links that leave the folder of the model. The folder is removed on leaving the context: keep
    that open for as long as the session lives, which may map the file.

    Raises
    ------
    ModelError
        When external data cannot be read, or the temporary folder cannot hold the copy.
    """
    if dense_size(proto, folder) <= limit and not any(is_external(tensor) for tensor in every_tensor(proto)):
        yield proto.SerializeToString(deterministic=True)
        return
    with tempfile.TemporaryDirectory(prefix="onnxlr-") as private:
        path = Path(private, "model.onnx")
        save(proto, path, folder=folder, external=True)
        yield path
