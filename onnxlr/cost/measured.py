"""Measured latency of every chain that could stand in a layer's place.

For each :class:`~onnxlr.cost.placement.Task` (a layer, what it sees, the chains that may replace it) ``measure`` gives
the seconds of the layer and of each chain on the target::

    tasks = [Task(placement_of(site, extent), tuple(scheme.template(shape, ranks) for ...), extent.calls), ...]
    costs = measure(tasks, target, cache=default_cache())
    costs.layers[0].dense.seconds, costs.layers[0].chains[3].seconds

Each chain runs in a small model between neighbours (:mod:`~onnxlr.cost.context`), taking turns with the dense layer
(:mod:`~onnxlr.cost.turns`); the neighbours' time is taken off. What a knapsack should budget is
``dense.seconds - chain.seconds``, summed over layers: what is common to both, and only approximately known, cancels.
Equal placements are timed once, and what the cache knows is not timed again. Of many chains that differ only in ranks a
sample is timed and the rest predicted from it (:mod:`~onnxlr.cost.fit`); ``Costs.errors`` says how well, from chains
that were timed and held out of the fit. Kin whose held-out chain is predicted badly are all timed.

To predict the latency of a whole model, ``scaled`` first fits the costs to the time that its layers take in it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from statistics import median
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.cost.bench import Bench
from onnxlr.cost.fit import Kin, kin, predict, stage_macs
from onnxlr.cost.placement import chain_key
from onnxlr.cost.turns import UNSTABLE, TurnOptions
from onnxlr.target import channel_block

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.cost.cache import Entry, LatencyCache
    from onnxlr.cost.placement import Placement, Task
    from onnxlr.target import Target
    from onnxlr_passes.chain import Chain

_LAYER = "layer"
_LEAST = 1e-3  # share of the layer that a chain is taken to cost at least, whatever its neighbours varied by


@dataclass(frozen=True, slots=True)
class MeasureOptions:
    """How much to time.

    Parameters
    ----------
    turns
        When the timing of one batch stops.
    extra
        Chains to time and fit of each kin beyond the fit's unknowns; one more is held out.
    tolerance
        Relative error of the held-out chain above which all of its kin are timed; 0 times everything.
    """

    turns: TurnOptions = field(default_factory=TurnOptions)
    extra: int = 1
    tolerance: float = 0.05


@dataclass(frozen=True, slots=True)
class Cost:
    """Latency in one run of the model: ``seconds`` with half of a 95 % interval, ``spread``, in seconds.

    ``timed`` is False where both are predicted: the spread is then what 95 % of the held-out errors stay within.
    ``unstable`` says that the interval was still over 5 % when the time was up.
    """

    seconds: float
    spread: float
    timed: bool
    unstable: bool


@dataclass(frozen=True, slots=True)
class LayerCosts:
    """A layer as it is and each of its task's chains, in order."""

    dense: Cost
    chains: tuple[Cost, ...]


@dataclass(frozen=True, slots=True)
class Costs:
    """Latencies of all tasks, in order, and how they came about.

    Of the distinct layers and chains, ``timed`` were timed now, ``cached`` known from before, ``predicted`` from those.
    ``errors`` are the relative errors of predictions that could be checked, signed. ``notes`` are about the cache.
    """

    layers: tuple[LayerCosts, ...]
    timed: int
    cached: int
    predicted: int
    errors: tuple[float, ...]
    notes: tuple[str, ...]

    @property
    def unstable(self) -> bool:
        """Whether more than a tenth of the timed chains were too restless to decide by."""
        timed = [cost for layer in self.layers for cost in layer.chains if cost.timed]
        return sum(cost.unstable for cost in timed) * 10 > len(timed)


def scaled(costs: Costs, seconds: float) -> Costs:
    """Return ``costs`` with the dense layers' sum at ``seconds``, what they take together inside the whole model.

    Between two runs of a layer the rest of a model displaces its weights from the caches, which the small models these
    costs come from show only in part. What that adds is about in proportion.
    """
    factor = seconds / sum(layer.dense.seconds for layer in costs.layers)

    def times(cost: Cost) -> Cost:
        return replace(cost, seconds=cost.seconds * factor, spread=cost.spread * factor)

    layers = (LayerCosts(times(of.dense), tuple(times(cost) for cost in of.chains)) for of in costs.layers)
    return replace(costs, layers=tuple(layers))


def measure(
    tasks: Sequence[Task],
    target: Target,
    *,
    cache: LatencyCache,
    options: MeasureOptions = MeasureOptions(),
    progress: Callable[[float], None] = lambda _: None,
) -> Costs:
    """Return the latency of every task's layer and chains on ``target``.

    Raises
    ------
    ModelError
        When the target cannot run a layer.
    """
    wanted: dict[Placement, dict[str, Chain]] = {}
    for task in tasks:
        wanted.setdefault(task.placement, {}).update({chain_key(chain): chain for chain in task.chains})
    known, notes = cache.read(target.describe())
    bench = Bench(target, cache, options.turns, known, list(notes))
    total = sum(len(chains) + 1 for chains in wanted.values())
    places: dict[Placement, _Place] = {}
    for placement, chains in wanted.items():
        places[placement] = _place(bench, placement, chains, options)
        progress(sum(len(wanted[done]) + 1 for done in places) / total)
    errors = tuple(error for place in places.values() for error in place.errors)
    likely = float(np.percentile(np.abs(errors), 95)) if errors else 0.0
    return Costs(
        tuple(_costs(task, places[task.placement], likely) for task in tasks),
        bench.timed,
        sum(len(place.entries) for place in places.values()) - bench.timed,
        sum(len(place.predicted) for place in places.values()),
        errors,
        tuple(dict.fromkeys(bench.notes)),
    )


@dataclass(frozen=True, slots=True)
class _Place:
    """What is known of one placement: entries and predicted ratios by the chain's key, and held-out errors."""

    entries: dict[str, Entry]
    predicted: dict[str, float]
    errors: tuple[float, ...]

    @property
    def layer(self) -> float:
        """Seconds of the dense layer in its context."""
        return median(entry.layer for entry in self.entries.values())

    @property
    def context(self) -> float:
        """Share of the neighbours in that."""
        return median(entry.context for entry in self.entries.values())


def _place(bench: Bench, placement: Placement, chains: dict[str, Chain], options: MeasureOptions) -> _Place:
    """Time a sample of the chains, predict the rest, and time that as well where the prediction fails."""
    names, values = list(chains), list(chains.values())
    groups = kin(values, placement.size, channel_block(bench.target.provider), options.extra)
    if options.tolerance <= 0.0:
        groups = (Kin(tuple(range(len(names))), (), ()),)
    chosen: dict[str, Chain | None] = {_LAYER: None}
    chosen |= {names[index]: values[index] for group in groups for index in (*group.sample, *group.held)}
    entries = bench.entries(placement, chosen)
    predicted: dict[str, float] = {}
    errors: list[float] = []
    for group in groups:
        if not group.rest:
            continue
        wanted = (*group.held, *group.rest)
        macs = {index: stage_macs(values[index], placement.size) for index in (*group.sample, *wanted)}
        ratios = predict(
            np.array([macs[index] for index in group.sample]),
            np.array([entries[names[index]].ratio for index in group.sample]),
            np.array([macs[index] for index in wanted]),
        )
        errors.append(float(ratios[0]) / entries[names[group.held[0]]].ratio - 1.0)
        if abs(errors[-1]) > options.tolerance:
            entries |= bench.entries(placement, {names[index]: values[index] for index in group.rest})
        else:
            predicted |= {names[index]: float(ratio) for index, ratio in zip(group.rest, ratios[1:], strict=True)}
    return _Place(entries, predicted, tuple(errors))


def _costs(task: Task, place: _Place, likely: float) -> LayerCosts:
    """Turn ratios into seconds, the neighbours taken off."""
    scale = place.layer * task.calls

    def cost(ratio: float, spread: float, *, timed: bool) -> Cost:
        seconds = max(ratio - place.context, _LEAST) * scale
        return Cost(seconds, spread * ratio * scale, timed, timed and spread > UNSTABLE)

    def of(chain: Chain) -> Cost:
        name = chain_key(chain)
        entry = place.entries.get(name)
        if entry is None:
            return cost(place.predicted[name], likely, timed=False)
        return cost(entry.ratio, entry.spread, timed=True)

    return LayerCosts(cost(1.0, 0.0, timed=True), tuple(of(chain) for chain in task.chains))
