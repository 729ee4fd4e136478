"""How the multiply-adds were shared out: the plans that were tried, and what each did to the outputs."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tried:
    """One plan; ``how`` it was chosen.

    ``predicted`` is the relative L2 error of the outputs that the layers' errors and sensitivities add up to,
    ``measured`` the one seen on calibration data held out; both before any layer makes up for those before it.
    """

    how: str
    predicted: float
    measured: float


@dataclass(frozen=True, slots=True)
class Allocated:
    """All plans tried, in order, and the index of the one chosen: that of the least measured error."""

    tried: tuple[Tried, ...]
    chosen: int
