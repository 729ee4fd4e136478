"""What a layer's error costs the network: hypotheses, each solved exactly and tried on the network.

No rule is right for every network: errors of single layers are small and compound.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log1p
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_WHOLE = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Rule:
    """How a layer's relative error e becomes a loss that is summed over layers."""

    name: str
    of: Callable[[float], float]


RULES = (
    Rule("squared errors", lambda error: error**2),
    Rule("product of energies", lambda error: -log1p(-min(error**2, _WHOLE))),  # Zhang et al. 2016, section 3.4
    Rule("even errors", lambda error: error**4),
)


def hypotheses(weights: Mapping[str, float]) -> Iterator[tuple[Rule, Mapping[str, float]]]:
    """Yield rules with the weights of layers they go with, ``weights`` or none, the most promising first."""
    first, *others = RULES
    yield first, {}
    if weights:
        yield first, weights
    for rule in others:
        yield rule, {}


def in_words(rule: Rule, weights: Mapping[str, float]) -> str:
    """Say how a plan was chosen."""
    return f"{rule.name}, by sensitivity" if weights else rule.name
