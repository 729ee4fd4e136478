"""Layers side by side: one BLAS thread each, in processes where that pays, the same results for any number of them."""

from __future__ import annotations

import os
import signal
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from time import monotonic
from typing import TYPE_CHECKING, TypeVar

from loky import ProcessPoolExecutor
from loky.backend import resource_tracker
from threadpoolctl import threadpool_limits

from onnxlr.errors import ModelError, UsageError
from onnxlr.target import usable_cores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

WIDE = 1024
"""Columns from which a second BLAS thread pays."""

SOON = 2.0
"""Seconds of work that are done before processes, which take about as long to start, are."""

IDLE = 60.0
"""Seconds without work after which a process ends by itself, should the one that started it be gone."""

LARGE = 1 << 20
"""Size from which work stays in this process: it is spent within BLAS, and its arrays are too large to send."""

T = TypeVar("T")
P = TypeVar("P")
R = TypeVar("R")


class _Crew:
    """Threads and processes, started when they are first needed."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs or usable_cores()

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """For large work."""
        return ThreadPoolExecutor(self.jobs, initializer=_one_thread)

    @cached_property
    def processes(self) -> ProcessPoolExecutor:
        """For work that is spent in the interpreter, which one process cannot do two of at a time."""
        _start_quiet_tracker()
        return ProcessPoolExecutor(self.jobs, timeout=IDLE, initializer=_left_to_the_parent)

    @property
    def started(self) -> bool:
        """Whether the processes run."""
        return "processes" in vars(self)

    def submit(self, work: Callable[[P], R], load: P, *, large: bool) -> Future[R]:
        """Start a piece of work."""
        if large:
            return self.threads.submit(work, load)
        future: Future[R] = self.processes.submit(_with_one_thread, work, load)
        return future

    def leave(self, *, at_once: bool) -> None:
        """Stop all that runs."""
        if "threads" in vars(self):
            self.threads.shutdown(wait=not at_once, cancel_futures=True)
        if self.started:
            self.processes.shutdown(wait=True, kill_workers=at_once)


_CREW: ContextVar[_Crew | None] = ContextVar("crew", default=None)


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
    crew = _Crew(jobs)
    token = _CREW.set(crew)
    try:
        yield
    except BaseException:
        crew.leave(at_once=True)
        raise
    else:
        crew.leave(at_once=False)
    finally:
        _CREW.reset(token)


@contextmanager
def blas_for(columns: int) -> Iterator[None]:
    """Work on matrices of ``columns`` columns with one BLAS thread where they are small.

    Threads that wait for each other over small products can be many times slower than one, above all on a busy machine.
    """
    with threadpool_limits(limits=1 if columns < WIDE else None):
        yield


def side_by_side(
    items: Sequence[T],
    load: Callable[[T], P],
    work: Callable[[P], R],
    size: Callable[[T], float],
    done: Callable[[T], None],
) -> list[R]:
    """Return ``work(load(item))`` of every item, in order, ``working`` on some at a time.

    ``load`` gathers, in this process and as late as can be, what ``work`` needs; that and the result may be sent to
    another process and back. The smallest items by ``size`` are worked on first, here, for about ``SOON`` seconds; the
    largest of the rest come next, so that no core is left with them in the end. ``done`` is called, from this
    thread, as the results come in.

    The matrices of one layer are too small for a second thread to help BLAS: whole layers keep the cores busy.
    """
    crew = _CREW.get()
    if crew is None:
        with working(0):
            return side_by_side(items, load, work, size, done)
    order = sorted(range(len(items)), key=lambda index: size(items[index]))
    found: dict[int, R] = {}
    end = monotonic() + (0.0 if crew.started else SOON)
    with threadpool_limits(limits=1):
        while order and (crew.jobs == 1 or len(order) == 1 or monotonic() < end):
            index = order.pop(0)
            found[index] = work(load(items[index]))
            done(items[index])
        running: dict[Future[R], int] = {}
        while order or running:
            while order and len(running) < crew.jobs:
                item = items[order[-1]]
                running[crew.submit(work, load(item), large=size(item) >= LARGE)] = order.pop()
            for one in wait(running, return_when=FIRST_COMPLETED).done:
                index = running.pop(one)
                try:
                    found[index] = one.result()
                except BrokenProcessPool as fault:
                    raise ModelError(
                        "a process at work on a layer was ended from outside, as when memory runs out",
                        "give fewer --jobs",
                    ) from fault
                done(items[index])
    return [found[index] for index in range(len(items))]


def _with_one_thread(work: Callable[[P], R], load: P) -> R:
    """Do a piece of work where BLAS may have more threads."""
    with threadpool_limits(limits=1):
        return work(load)


def _start_quiet_tracker() -> None:
    """Start the process that removes what an interrupted one leaves; its warnings of that would be on stderr."""
    before = os.environ.get("PYTHONWARNINGS")
    os.environ["PYTHONWARNINGS"] = "ignore"
    try:
        resource_tracker.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONWARNINGS"]
        else:
            os.environ["PYTHONWARNINGS"] = before


def _one_thread() -> None:
    """Give BLAS one thread here, where OpenMP counts by thread; ``side_by_side`` sees to the whole process."""
    threadpool_limits(limits=1)


def _left_to_the_parent() -> None:
    """Leave an interrupt, which the whole group of processes gets, to the one that started them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
