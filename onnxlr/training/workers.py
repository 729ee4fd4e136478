"""Threads that share a batch out: each runs its part with one thread of torch's own.

Torch's threads meet at the end of every operator. On the small operators of low-rank chains they wait more than they
work, above all on a machine that has other work too; threads that meet once a step do not.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, eq=False)
class Workers:
    """``count`` threads; one works in the thread that asks."""

    count: int
    pool: ThreadPoolExecutor | None

    def each(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """Return ``work`` of every item, in order."""
        return [work(item) for item in items] if self.pool is None else list(self.pool.map(work, items))

    def parts(self, samples: int) -> tuple[slice, ...]:
        """Cut a batch into one part a thread, none of them empty, of sizes that differ by one at most."""
        count = min(self.count, samples)
        bounds = [samples * index // count for index in range(count + 1)]
        return tuple(slice(start, end) for start, end in pairwise(bounds))


@contextmanager
def workers(count: int) -> Iterator[Workers]:
    """Start ``count`` threads, for as long as the context lasts."""
    if count == 1:
        yield Workers(1, None)
        return
    with ThreadPoolExecutor(count) as pool:
        yield Workers(count, pool)
