"""Arrays in .npy and .npz files, read by rows: only the rows asked for are ever in memory, compressed or not."""

from __future__ import annotations

import struct
import tempfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from shutil import copyfileobj
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

Array = np.ndarray[Any, Any]

# What zipfile, zlib and numpy.lib.format raise for a damaged file.
_READ_ERRORS = (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, struct.error, NotImplementedError)
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})  # what numpy.savez and savez_compressed write
_READ = 1 << 17  # bytes at a time; a zip member makes several copies of what is asked of it
_ENCRYPTED = 0x1  # bit of a zip member's flags


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array in a file: where its bytes are, shape and dtype; nothing of it is read yet.

    Parameters
    ----------
    member
        Name within the zip archive; None: the file itself.
    offset
        Where the elements begin, in bytes from the beginning of the file or member.
    fortran
        Whether the first axis runs fastest.
    """

    path: Path
    member: str | None
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    fortran: bool = False

    @property
    def where(self) -> str:
        """File and key, as a message names them."""
        return str(self.path) if self.member is None else f"{self.path}: '{_key(self.member)}'"

    def rows(self, chosen: Sequence[int], size: int) -> Iterator[Array]:
        """Read the rows whose indices along the first axis are ``chosen`` (rising), at most ``size`` at a time.

        Raises
        ------
        ModelError
            The file is damaged or gone.
        """
        with readable(self.path), self._open() as stream:
            blocks = (chosen[start : start + size] for start in range(0, len(chosen), size))
            if self.fortran:
                yield from self._scattered_rows(stream, blocks)
            else:
                yield from self._whole_rows(stream, blocks)

    def _whole_rows(self, stream: IO[bytes], blocks: Iterator[Sequence[int]]) -> Iterator[Array]:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        for block in blocks:
            rows = np.empty((len(block), *self.shape[1:]), self.dtype)
            into = rows.reshape(-1).view(np.uint8).data
            for place, index, count in _runs(block):
                begin = self.offset + index * row
                if stream.tell() != begin:  # a seek that goes nowhere would still cost a zip member its checksum
                    stream.seek(begin)
                _fill(stream, into[place * row : (place + count) * row])
            yield rows

    def _scattered_rows(self, stream: IO[bytes], blocks: Iterator[Sequence[int]]) -> Iterator[Array]:
        """Read rows whose elements are strewn over the file, through a memory map (of a copy, for a zip member)."""
        with tempfile.TemporaryFile(prefix="onnxlr-") as copy:
            if self.member is not None:
                copyfileobj(stream, copy, _READ)
                copy.flush()
            source = stream if self.member is None else copy
            mapped = np.memmap(source, self.dtype, "r", self.offset, self.shape, order="F")
            for block in blocks:
                yield np.array(mapped[list(block)], order="C")

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        if self.member is None:
            with self.path.open("rb") as file:
                yield file
        else:
            with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as stream:
                yield stream


def stored_arrays(path: Path) -> dict[str, StoredArray]:
    """List the arrays of a .npz file by key; the one of a .npy file has the key ``""``. Only headers are read.

    Raises
    ------
    ModelError
        The file cannot be read, is cut short, or holds something else than plain arrays.
    """
    with readable(path):
        if path.suffix.lower() == ".npy":
            with path.open("rb") as file:
                file.seek(0, 2)
                length = file.tell()
                file.seek(0)
                return {"": _stored(path, None, file, length)}
        with zipfile.ZipFile(path) as archive:
            arrays = {}
            for info in archive.infolist():
                if info.flag_bits & _ENCRYPTED or info.compress_type not in _METHODS:
                    raise ValueError(f"'{info.filename}' is encrypted, or compressed by another method than deflate")
                if not info.filename.endswith(".npy"):
                    raise ValueError(f"'{info.filename}' is not an array")
                with archive.open(info) as stream:
                    arrays[_key(info.filename)] = _stored(path, info.filename, stream, info.file_size)
            return arrays


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what reading a damaged or missing data file raises into one line.

    Raises
    ------
    ModelError
        Naming the file and the reason.
    """
    try:
        yield
    except _READ_ERRORS as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        reason = strerror or " ".join(str(error).split()) or type(error).__name__
        raise ModelError(f"cannot read {path}: {reason}", "write it with numpy.savez or numpy.save") from error


def _stored(path: Path, member: str | None, stream: IO[bytes], length: int) -> StoredArray:
    """Read an array's header and see that all its elements can be there."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"array format {version[0]}.{version[1]} holds records, not numbers")
    array = StoredArray(path, member, stream.tell(), tuple(shape), dtype, fortran and len(shape) > 1)
    if dtype.hasobject:
        raise ModelError(f"{array.where} holds Python objects, which are not read", "save an array of numbers")
    if min(shape, default=0) < 0 or array.offset + prod(shape) * dtype.itemsize > length:
        raise ModelError(f"{array.where} is cut short: an array of shape {shape} does not end", "write the file again")
    return array


def _runs(indices: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cut rising indices into runs of neighbours: position of the first, its index, length."""
    if isinstance(indices, range) and indices.step == 1:
        yield 0, indices.start, len(indices)
        return
    begin = 0
    for end in range(1, len(indices) + 1):
        if end == len(indices) or indices[end] != indices[end - 1] + 1:
            yield begin, indices[begin], end - begin
            begin = end


def _fill(stream: IO[bytes], into: memoryview) -> None:
    """Read until ``into`` is full."""
    done = 0
    while done < len(into):
        part = stream.read(min(len(into) - done, _READ))
        if not part:
            raise EOFError("it ends in the middle of an array")
        into[done : done + len(part)] = part
        done += len(part)


def _key(member: str) -> str:
    return member.removesuffix(".npy")
