"""How much longer chains take within the whole model than measured alone, learned from trials."""

from __future__ import annotations

from math import exp, log

LEAST, MOST = 0.5, 30.0
"""A factor stays within this."""


class Corrections:
    """Factors on the latencies of chains: of a scheme in a layer, of the layer where the scheme was not seen there."""

    def __init__(self) -> None:
        self._seen: dict[str, dict[str, float]] = {}

    def of(self, site: str, scheme: str) -> float:
        """Return a factor, 1 where nothing was seen; the mean of the other schemes' where this one was not."""
        seen = self._seen.get(site)
        if not seen:
            return 1.0
        return seen.get(scheme, exp(sum(map(log, seen.values())) / len(seen)))

    def learn(self, site: str, scheme: str, change: float) -> float:
        """Multiply a factor by ``change`` and return it."""
        found = min(max(self.of(site, scheme) * change, LEAST), MOST)
        self._seen.setdefault(site, {})[scheme] = found
        return found
