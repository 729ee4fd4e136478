"""How long work is reported on while it runs."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Told how far each stage of the work is, ``share`` from 0 to 1."""

    def __call__(self, stage: str, share: float) -> None:
        """Take note."""
        ...


def silent(stage: str, share: float) -> None:
    """Tell nobody."""
