"""Arrays kept in memory up to a limit, and beyond it in files of a private temporary folder."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from onnxlr.calibration.iterable import Spool
from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from onnxlr.target import Feeds

Array = np.ndarray[Any, Any]


class Store:
    """Room for ``limit`` bytes of arrays; what does not fit any more goes to disk, and is read anew at every look.

    Files are read, not mapped: mapped pages would count as memory of the process for as long as the map lives. The
    folder (in ``TMPDIR``) goes with the store and all that was kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._files = 0
        self._spool: Spool | None = None

    @property
    def held(self) -> int:
        """Bytes in memory."""
        return self._held

    def keep(self, array: Array) -> Array | Filed:
        """Keep one array: itself where there is room, else where its file is.

        Raises
        ------
        ModelError
            The temporary folder is full.
        """
        if array.dtype.hasobject or self._held + array.nbytes <= self._limit:
            self._held += array.nbytes
            return array
        if self._spool is None:
            self._spool = Spool()
        path = self._spool.folder / str(self._files)
        self._files += 1
        try:
            np.ascontiguousarray(array).tofile(path)
        except OSError as error:
            reason = f"cannot keep activations in {tempfile.gettempdir()}: {error.strerror or error}"
            raise ModelError(reason, "set TMPDIR to a folder with more room, or give more --memory") from error
        return Filed(path, array.dtype, array.shape, self._spool)

    def forget(self, kept: Array | Filed) -> None:
        """Make room again."""
        if isinstance(kept, Filed):
            kept.path.unlink(missing_ok=True)
        else:
            self._held -= kept.nbytes


@dataclass(frozen=True, slots=True)
class Filed:
    """An array in a file of raw elements, whose folder stays for as long as anything in it is wanted."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    folder: Spool

    def read(self) -> Array:
        """Read it whole."""
        found: Array = np.fromfile(self.path, self.dtype).reshape(self.shape)
        return found


@dataclass(slots=True, eq=False)
class Shelf(Sequence[Array]):
    """Arrays of one store, one after the other; read-only for those who look at them."""

    store: Store
    _kept: list[Array | Filed] = field(default_factory=list, repr=False)

    def append(self, array: Array) -> None:
        """Keep one more."""
        self._kept.append(self.store.keep(array))

    def clear(self) -> None:
        """Let go of all."""
        for kept in self._kept:
            self.store.forget(kept)
        self._kept.clear()

    def __len__(self) -> int:
        return len(self._kept)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [read(kept) for kept in self._kept[index]]
        return read(self._kept[index])


@dataclass(frozen=True, slots=True, eq=False)
class Batches(Sequence["Feeds"]):
    """Feeds of one store, to be read as often as needed."""

    store: Store
    _kept: tuple[dict[str, Array | Filed], ...] = field(repr=False)

    @classmethod
    def of(cls, feeds: Iterable[Feeds], store: Store) -> Batches:
        """Keep all ``feeds``."""
        return cls(store, tuple({name: store.keep(array) for name, array in batch.items()} for batch in feeds))

    def only(self, indices: Sequence[int]) -> Batches:
        """Return some of them."""
        return Batches(self.store, tuple(self._kept[index] for index in indices))

    @overload
    def __getitem__(self, index: int) -> dict[str, Array]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Feeds]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Array] | list[Feeds]:
        if isinstance(index, slice):
            return [_all(batch) for batch in self._kept[index]]
        return _all(self._kept[index])

    def __len__(self) -> int:
        return len(self._kept)


@dataclass(frozen=True, slots=True)
class Column(Sequence[Array]):
    """The arrays of one input in all batches."""

    batches: Sequence[Feeds]
    name: str

    def __len__(self) -> int:
        return len(self.batches)

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice) -> list[Array]: ...
    def __getitem__(self, index: int | slice) -> Array | list[Array]:
        if isinstance(index, slice):
            return [batch[self.name] for batch in self.batches[index]]
        return self.batches[index][self.name]


def read(kept: Array | Filed) -> Array:
    """Return an array, wherever it is."""
    return kept.read() if isinstance(kept, Filed) else kept


def _all(batch: dict[str, Array | Filed]) -> dict[str, Array]:
    return {name: read(kept) for name, kept in batch.items()}
