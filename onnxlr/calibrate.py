"""From calibration data to factors: what every layer sees, and chains fitted to it one after the other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onnxlr.calibration.observe import Place, Seen, looks_at, observe, places, wide_layer
from onnxlr.calibration.outlook import outlooks
from onnxlr.calibration.store import Batches, Store
from onnxlr.calibration.views import Views
from onnxlr.drafts import Drafts
from onnxlr.errors import ModelError, UsageError
from onnxlr.factorize import Factorized, check_choice, factorize
from onnxlr.layer_fit import FitOptions
from onnxlr.planning.candidates import read_layer
from onnxlr.prepare import only
from onnxlr.refit import refit
from onnxlr.schemes.base import relative_error
from onnxlr_passes.base import PassError
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from onnxlr.calibration import Source
    from onnxlr.calibration.memory import Memory
    from onnxlr.calibration.positions import Look
    from onnxlr.planning.plan import Choice
    from onnxlr.prepare import Prepared
    from onnxlr.target import Feeds, Target
    from onnxlr_passes.chain import Chain

BATCH = 32
"""Samples run at a time, at most."""

HELD_OUT = 8
"""One batch in this many is kept back to measure the output error on."""

MOST, WORK = 8, 3e12
"""Plans that are tried, at most, and the multiply-adds their fits may take together; two are always tried."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """What the original network did on the data.

    ``looks`` pairs every layer of the main graph with what is looked at, per batch of ``batches``; ``views`` has what
    it saw and answered there and what its fits go by. ``held`` are batches nothing is fitted to. ``drafts`` are chains
    fitted to what was seen.
    """

    batches: Sequence[Feeds]
    held: Sequence[Feeds]
    looks: tuple[tuple[Place, tuple[Look, ...]], ...]
    views: Views
    memory: Memory
    drafts: Drafts

    @property
    def seen(self) -> Mapping[str, Seen]:
        """What each layer saw and answered, by site key."""
        return self.views.seen

    @property
    def samples(self) -> int:
        """Samples that factors are fitted to."""
        return sum(len(next(iter(feeds.values()))) for feeds in self.batches)


def calibrate(
    prepared: Prepared,
    folder: Path | None,
    target: Target,
    source: Source,
    seed: int,
    progress: Callable[[float], None],
) -> Calibration:
    """Run the prepared original over ``source``.

    Raises
    ------
    UsageError
        When there are no samples, or none is left after some are held out.
    ModelError
        When the data do not fit the model, or it does not run.
    """
    size = min(BATCH, max(source.count // HELD_OUT, 1))  # so that of few samples, too, some are held out
    every = Batches.of(source.batches(size), Store(source.memory.samples))
    held = every.only([i for i in range(len(every)) if i % HELD_OUT == HELD_OUT - 1])
    batches = every.only([i for i in range(len(every)) if i % HELD_OUT != HELD_OUT - 1])
    if not batches:
        raise UsageError("the calibration data have no samples", "give at least one")
    counts = [len(next(iter(feeds.values()))) for feeds in batches]
    looks = tuple(
        (place, looks_at(place, counts, source.memory, seed))
        for place in places(prepared.proto, folder, [workload.site for workload in prepared.workloads])
    )
    seen = observe(prepared.proto, folder, target, batches, looks, source.memory, progress)
    try:
        views = Views(seen, outlooks(prepared.proto, folder, [place for place, _ in looks], seen))
    except PassError as error:
        raise ModelError(str(error), "leave the model's files alone meanwhile") from error
    return Calibration(batches, held, looks, views, source.memory, Drafts(views))


def affordable(calibration: Calibration) -> int:
    """Return how many plans are tried: fewer of networks whose layers have many columns."""
    shapes = [seen.mean.shape for seen in calibration.seen.values()]
    work = sum(float(groups) * float(columns) ** 3 for groups, columns in shapes)
    return int(np.clip(WORK / work, 2, MOST)) if work > 0.0 else 2


def fit_alone(prepared: Prepared, calibration: Calibration, choices: Sequence[Choice]) -> dict[str, Chain]:
    """Return, by site key, the chosen chains, each fitted to what its layer sees and answers in the original network.

    Layers that the data do not reach are factorized from their weights alone.
    """
    sites = {workload.site.key: workload.site for workload in prepared.workloads}
    blind = [choice for choice in choices if choice.site not in calibration.seen]
    made = factorize(only(prepared, [choice.site for choice in blind]), blind, lambda _: None)
    reached = [choice for choice in choices if choice.site in calibration.seen]
    return {one.choice.site: one.chain for one in made} | calibration.drafts.of(sites, reached, lambda _: None)


def fit_to_data(
    prepared: Prepared,
    folder: Path | None,
    target: Target,
    calibration: Calibration,
    choices: Sequence[Choice],
    progress: Callable[[float], None],
) -> tuple[tuple[Factorized, ...], dict[str, Chain]]:
    """Fit the chosen chains, and the layers behind them that stay dense, one after the other.

    Layers without a place in ``calibration.looks``, as those in bodies and functions, which the data are not followed
    into, are factorized from their weights alone.
    Returns the rewritten layers and, by site key, the refitted dense ones.

    Raises
    ------
    UsageError
        When a choice names an unknown scheme, or ranks the layer does not have.
    ModelError
        When a factor overflows the model's type.
    """
    workloads = {workload.site.key: workload for workload in prepared.workloads}
    for choice in choices:
        check_choice(choice, workloads[choice.site].shape)
    wanted = {choice.site: choice for choice in choices if choice.site in calibration.seen}
    blind = [choice for choice in choices if choice.site not in calibration.seen]
    made = list(factorize([workloads[choice.site] for choice in blind], blind, lambda _: None))
    narrow = [place.site for place, _ in calibration.looks if not wide_layer(place, calibration.memory)]
    sites = {site.key: site for site in narrow}
    drafted = [choice for choice in wanted.values() if choice.site in sites]
    drafts = calibration.drafts.of(sites, drafted, lambda share: progress(0.5 * share))
    try:
        found = refit(
            Decompose({one.choice.site: one.chain for one in made}, folder)(prepared.proto).model,
            folder,
            target,
            calibration.batches,
            calibration.looks,
            calibration.seen,
            calibration.views.outlooks,
            wanted,
            drafts,
            FitOptions(memory=calibration.memory),
            lambda share: progress(0.5 + 0.5 * share),
        )
    except PassError as fault:
        raise ModelError(str(fault), "exclude that layer with --exclude") from fault
    for key, choice in wanted.items():
        layer = read_layer(workloads[key].site)
        fitted = found[key]
        error = relative_error(layer.weight, fitted.chain.contract(layer.geometry))
        made.append(Factorized(workloads[key], choice, fitted.chain, error, fitted.error))
    order = {choice.site: index for index, choice in enumerate(choices)}
    made.sort(key=lambda one: order[one.choice.site])
    return tuple(made), {key: fitted.chain for key, fitted in found.items() if key not in wanted}
