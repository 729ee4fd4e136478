"""Times chains in the place of a layer, in batches, and keeps what it found in the cache."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from onnxlr.cost.cache import Entry, LatencyCache, entry_key
from onnxlr.cost.context import chain_model, context_model, layer_model
from onnxlr.cost.turns import clock_of, take_turns
from onnxlr.model_io import runnable
from onnxlr.target import bind, seeded_feeds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import onnx

    from onnxlr.cost.placement import Placement
    from onnxlr.cost.turns import TurnOptions
    from onnxlr.target import Target
    from onnxlr_passes.chain import Chain

_BATCH = 14  # chains that take turns with one dense layer
_BATCH_PARAMETERS = 1 << 26  # of all of them


@dataclass(slots=True, eq=False)
class Bench:
    """Times chains on ``target`` and remembers: ``known`` has entries by their keys, ``timed`` counts new ones."""

    target: Target
    cache: LatencyCache
    turns: TurnOptions
    known: dict[str, Entry]
    notes: list[str] = field(default_factory=list)
    timed: int = 0

    def entries(self, placement: Placement, chains: Mapping[str, Chain | None]) -> dict[str, Entry]:
        """Return the entry of every chain, by the name it comes with, which is its key; None is the layer itself.

        Raises
        ------
        ModelError
            When the target cannot run one of them.
        """
        keys = {name: entry_key(placement.key(), name) for name in chains}
        missing = {name: chain for name, chain in chains.items() if keys[name] not in self.known}
        layer = layer_model(placement) if missing else None
        for batch in _batches(missing):
            if layer is None:
                break
            found = {keys[name]: entry for name, entry in self._time(placement, layer, batch).items()}
            self.known.update(found)
            self.timed += len(found)
            self.notes += self.cache.add(self.target.describe(), found)
        return {name: self.known[key] for name, key in keys.items()}

    def _time(
        self, placement: Placement, layer: onnx.ModelProto, batch: Mapping[str, Chain | None]
    ) -> dict[str, Entry]:
        """Time one batch; the layer, and its neighbours alone, take part in every one."""
        neighbours = context_model(placement)
        with ExitStack() as stack:

            def runner(model: onnx.ModelProto) -> Callable[[], None]:
                (feeds,) = seeded_feeds(model, {})
                return bind(self.target.session(stack.enter_context(runnable(model, None))), feeds)

            runners = [runner(layer)]
            runners += [] if neighbours is None else [runner(neighbours)]
            runners += [runner(chain_model(layer, chain)) for chain in batch.values() if chain is not None]
            turns = take_turns(runners, clock_of(self.target), self.turns)
        context = 0.0 if neighbours is None else turns[1].ratio
        rest = iter(turns[1 if neighbours is None else 2 :])
        found = {name: turns[0] if chain is None else next(rest) for name, chain in batch.items()}
        return {name: Entry(turns[0].seconds, context, turn.ratio, turn.spread) for name, turn in found.items()}


def _batches(chains: Mapping[str, Chain | None]) -> Iterator[dict[str, Chain | None]]:
    """Cut chains into batches whose sessions fit in memory side by side."""
    batch: dict[str, Chain | None] = {}
    parameters = 0
    for name, chain in chains.items():
        own = 0 if chain is None else chain.parameters
        if batch and (len(batch) == _BATCH or parameters + own > _BATCH_PARAMETERS):
            yield batch
            batch, parameters = {}, 0
        batch[name] = chain
        parameters += own
    if batch:
        yield batch
