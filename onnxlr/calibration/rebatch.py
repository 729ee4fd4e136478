"""Pieces of any length made into batches of one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Array = np.ndarray[Any, Any]


def rebatch(pieces: Iterable[dict[str, Array]], size: int) -> Iterator[dict[str, Array]]:
    """Cut and join pieces of any length into batches of ``size``; the last one of each shape may be smaller."""
    waiting: list[dict[str, Array]] = []
    have = 0
    for piece in pieces:
        if waiting and not _same_shapes(waiting[0], piece):
            yield _join(waiting)
            waiting, have = [], 0
        start, length = 0, len(next(iter(piece.values())))
        while length - start >= size - have:
            stop = start + size - have
            yield _join([*waiting, _cut(piece, start, stop)])
            waiting, have, start = [], 0, stop
        if start < length:
            waiting.append(_cut(piece, start, length))
            have += length - start
    if waiting:
        yield _join(waiting)


def _same_shapes(one: dict[str, Array], other: dict[str, Array]) -> bool:
    return all(array.shape[1:] == other[name].shape[1:] for name, array in one.items())


def _cut(piece: dict[str, Array], start: int, stop: int) -> dict[str, Array]:
    return {name: array[start:stop] for name, array in piece.items()}


def _join(pieces: Sequence[dict[str, Array]]) -> dict[str, Array]:
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
