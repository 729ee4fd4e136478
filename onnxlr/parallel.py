"""Layers side by side: a thread each, one BLAS thread inside, the same results for any number of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from onnxlr.target import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")
R = TypeVar("R")


def side_by_side(work: Callable[[T], R], items: Sequence[T], done: Callable[[T], None]) -> list[R]:
    """Return ``work`` of every item, in order, as many at a time as there are cores.

    The matrices of one layer are too small for a second thread to help BLAS, and two threads that wait for each other
    can be many times slower than one; whole layers keep the cores busy. ``done`` is called, from this thread, as the
    results come in.
    """
    found = []
    with threadpool_limits(limits=1), ThreadPoolExecutor(usable_cores()) as pool:
        try:
            for item, result in zip(items, pool.map(work, items), strict=True):
                found.append(result)
                done(item)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return found
