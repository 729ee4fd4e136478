"""Chains fitted to what the original network shows a layer: where the fit to what it then receives starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.parallel import side_by_side
from onnxlr.planning.candidates import read_layer
from onnxlr.schemes.fitted import fitted_solver
from onnxlr.schemes.observed import levelled
from onnxlr.schemes.registry import by_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.calibration.observe import Seen
    from onnxlr.calibration.views import Views
    from onnxlr.planning.plan import Choice
    from onnxlr.schemes.base import Layer
    from onnxlr.schemes.observed import View
    from onnxlr_passes.chain import Chain
    from onnxlr_passes.sites import Site

ROOM = 1 << 28
"""Bytes of chains that are remembered."""


@dataclass(frozen=True, slots=True, eq=False)
class Drafts:
    """Chains made when they are first asked for, by what each layer saw.

    Plans that are tried one after the other share most of them. Those asked for longest ago are forgotten first.
    """

    views: Views
    _known: dict[Choice, Chain] = field(default_factory=dict, repr=False)

    def of(
        self, sites: Mapping[str, Site], choices: Sequence[Choice], done: Callable[[float], None]
    ) -> dict[str, Chain]:
        """Return the chain of every choice, by site key."""
        count = 0

        def tell(_: Choice) -> None:
            nonlocal count
            count += 1
            done(count / len(missing))

        def load(choice: Choice) -> _Wanted:
            return _Wanted(choice, read_layer(sites[choice.site]), self.views[choice.site])

        missing = [choice for choice in choices if choice not in self._known]
        made = side_by_side(missing, load, _fit, lambda choice: sites[choice.site].parameters, tell)
        found = {
            choice: answering(chain, sites[choice.site], self.views.seen[choice.site])
            for choice, chain in zip(missing, made, strict=True)
        }
        found |= {choice: self._known.pop(choice) for choice in choices if choice in self._known}
        self._known.update(found)
        self._forget()
        return {choice.site: found[choice] for choice in choices}

    def _forget(self) -> None:
        held = sum(8 * chain.parameters for chain in self._known.values())
        for choice in list(self._known):
            if held <= ROOM:
                break
            held -= 8 * self._known.pop(choice).parameters


@dataclass(frozen=True, slots=True, eq=False)
class _Wanted:
    """What a chain is fitted with."""

    choice: Choice
    layer: Layer
    view: View


def _fit(wanted: _Wanted) -> Chain:
    """Return the chain fitted to what the layer sees."""
    solver = fitted_solver(by_name(wanted.choice.scheme), wanted.view.of(wanted.layer))
    return wanted.view.back(solver.chain(wanted.choice.ranks))


def answering(chain: Chain, site: Site, seen: Seen) -> Chain:
    """Return the chain with the bias that makes its mean answer the layer's, where it can have one."""
    if not site.biased:
        return chain
    return levelled(chain, site.geometry, seen.mean, seen.answers.mean(axis=0, dtype=np.float64))
