"""Interruptions that wait for the end of a step, so that what is saved then is whole."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@dataclass(slots=True)
class Interruption:
    """Whether the process was asked to stop."""

    asked: bool = False


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Note SIGINT and SIGTERM instead of acting on them; a second one raises KeyboardInterrupt at once.

    Outside of the main thread, where signals never arrive, nothing is changed.
    """
    noted = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return

    def note(_: int, __: FrameType | None) -> None:
        if noted.asked:
            raise KeyboardInterrupt
        noted.asked = True

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
