"""How the memory that a job may take is shared out."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import isqrt

from onnxlr.errors import UsageError

_UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_COVARIANCE, _ACTIVATIONS, _STATISTICS, _SAMPLES, _ROWS = 20, 5, 8, 8, 16  # parts of the whole
LEAST = 64 * 10**6


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that calibration and fits may take together, about.

    A layer's covariance may have a twentieth, for a fit holds several copies of it and layers are worked on side by
    side; activations on their way through the network may have a fifth, what all layers have seen an eighth, the
    samples an eighth, and the rows of one layer a sixteenth. The rest is the models and what works on them.

    Raises
    ------
    UsageError
        Less than ``LEAST``.
    """

    limit: int = 4 * 10**9

    def __post_init__(self) -> None:
        if self.limit < LEAST:
            raise UsageError(f"--memory {self.limit}: at least {LEAST // 10**6}MB are needed", "for example 4GB")

    @property
    def activations(self) -> int:
        """Bytes of activations held at a time."""
        return self.limit // _ACTIVATIONS

    @property
    def statistics(self) -> int:
        """Bytes of what the layers have seen."""
        return self.limit // _STATISTICS

    @property
    def samples(self) -> int:
        """Bytes of samples."""
        return self.limit // _SAMPLES

    def wide(self, group: int, columns: int) -> bool:
        """Whether the covariances (group, columns, columns) of a layer's inputs are too large to be formed."""
        return 8 * group * columns**2 > self.limit // _COVARIANCE

    def rows(self, group: int, columns: int) -> int:
        """Return how many float32 rows (group, columns) fit, in a wide layer with their products by pairs."""
        fit = self.limit // _ROWS // (4 * group * columns)
        return max(min(fit, isqrt(self.limit // _COVARIANCE // 8)) if self.wide(group, columns) else fit, 1)


def parse_memory(text: str) -> int:
    """Parse ``4GB``, ``512MB``, ``1.5gb`` or a number of bytes.

    Raises
    ------
    UsageError
        When it is not of that form.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]B)?", text.strip().upper())
    if found is None:
        raise UsageError(f"--memory {text} is not an amount of memory", "for example 4GB or 512MB")
    return int(float(found[1]) * _UNITS.get(found[2] or "", 1))
