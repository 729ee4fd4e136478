"""Layers side by side: a thread each, one BLAS thread inside, the same results for any number of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from threadpoolctl import threadpool_limits

from onnxlr.errors import UsageError
from onnxlr.target import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WIDE = 1024
"""Columns from which a second BLAS thread pays."""

_JOBS: ContextVar[int] = ContextVar("jobs", default=0)

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def working(jobs: int) -> Iterator[None]:
    """Within, work on at most ``jobs`` layers at a time; 0 for as many as there are cores.

    Raises
    ------
    UsageError
        When ``jobs`` is below 0.
    """
    if jobs < 0:
        raise UsageError(f"--jobs {jobs}: a number of layers to work on at a time", "0 for one a core")
    token = _JOBS.set(jobs)
    try:
        yield
    finally:
        _JOBS.reset(token)


@contextmanager
def blas_for(columns: int) -> Iterator[None]:
    """Work on matrices of ``columns`` columns with one BLAS thread where they are small.

    Threads that wait for each other over small products can be many times slower than one, above all on a busy machine.
    """
    with threadpool_limits(limits=1 if columns < WIDE else None):
        yield


def side_by_side(
    work: Callable[[T], R], items: Sequence[T], size: Callable[[T], float], done: Callable[[T], None]
) -> list[R]:
    """Return ``work`` of every item, in order, ``working`` on some at a time, the largest ``size`` first.

    So no core is left with the largest layer when the others have nothing more to do.

    The matrices of one layer are too small for a second thread to help BLAS, and two threads that wait for each other
    can be many times slower than one; whole layers keep the cores busy. ``done`` is called, from this thread, as
    the results come in.
    """
    order = sorted(range(len(items)), key=lambda index: -size(items[index]))
    with threadpool_limits(limits=1), ThreadPoolExecutor(_JOBS.get() or usable_cores()) as pool:
        running = {pool.submit(work, items[index]): index for index in order}
        try:
            for one in as_completed(running):
                one.result()
                done(items[running[one]])
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    made = {index: one.result() for one, index in running.items()}
    return [made[index] for index in range(len(items))]
