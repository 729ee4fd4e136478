"""Models whose layers are each fitted alone, to what the original network shows them, and the baseline made that way.

What bench_accuracy.py compares a rewrite with: no layer takes up what those before it have lost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from onnxlr.build import build
from onnxlr.calibrate import Calibration, calibrate, fit_alone
from onnxlr.calibration.views import Views
from onnxlr.drafts import Drafts
from onnxlr.errors import BudgetError
from onnxlr.planning.candidates import enumerate_choices, read_layer
from onnxlr.planning.knapsack import knapsack
from onnxlr.planning.plan import Choice
from onnxlr.planning.rules import RULES
from onnxlr.planning.sharing import Sharing
from onnxlr.prepare import Prepared, Selection, prepare
from onnxlr.schemes.basis import Basis
from onnxlr.schemes.fitted import FittedBasis
from onnxlr.schemes.registry import by_family
from onnxlr.target import channel_block
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxlr.calibration import Source
    from onnxlr.model_io import Model
    from onnxlr.planning.candidates import Choices
    from onnxlr.target import Target


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A model in normal form, and what its layers see in the calibration data."""

    model: Model
    prepared: Prepared
    calibration: Calibration


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A model and the share of the original's multiply-adds that it keeps."""

    proto: onnx.ModelProto
    kept: float


def look(model: Model, target: Target, source: Source, seed: int) -> Subject:
    """Run the original over the calibration data once."""
    prepared = prepare(model, target, Selection(), simplify=True)
    return Subject(model, prepared, calibrate(prepared, model.folder, target, source, seed, lambda _: None))


def alike(subject: Subject) -> Subject:
    """Return the subject with errors in all of a layer's answers alike, whatever is made of them."""
    calibration = subject.calibration
    views = Views(calibration.seen, {})
    return replace(subject, calibration=replace(calibration, views=views, drafts=Drafts(views)))


def balf_choices(subject: Subject, keep: float) -> tuple[Choice, ...]:
    """Return the ranks of BALF (Gonzalez-Martinez 2025): ``basis`` on every layer, energy kept within the MACs.

    The sum over the layers of their outputs' normalised energy is maximised. Every rank is a candidate, and the
    knapsack is solved exactly where the paper relaxes it: the baseline is no weaker than the paper's rule.

    Raises
    ------
    BudgetError
        When no ranks are within ``keep`` of the MACs.
    """
    views, scheme = alike(subject).calibration.views, Basis()
    able = [w for w in subject.prepared.workloads if w.site.key in views and scheme.refusal(w.shape) is None]
    costs: list[list[float]] = []
    losses: list[list[float]] = []
    for workload in able:
        solver = FittedBasis(scheme, views[workload.site.key].of(read_layer(workload.site)))
        (full,) = scheme.full_rank(workload.shape)
        macs = [workload.extent.macs(scheme.template(workload.shape, (rank,))) for rank in range(1, full + 1)]
        costs.append([float(workload.macs), *map(float, macs)])
        losses.append([0.0, *(solver.error((rank,)) ** 2 for rank in range(1, full + 1))])
    fixed = subject.prepared.macs - sum(workload.macs for workload in able)
    picks = knapsack(costs, losses, keep * subject.prepared.macs - fixed)
    if picks is None:
        raise BudgetError(f"basis alone cannot keep as little as {keep:g} of the MACs")
    return tuple(
        Choice(workload.site.key, workload.site.label, scheme.name, (rank,))
        for workload, rank in zip(able, picks, strict=True)
        if rank > 0
    )


def candidates_of(subject: Subject, scheme: str) -> Sequence[Choices]:
    """Return all candidates of a family for the layers, with their errors; of ``auto``, of all families."""
    return enumerate_choices(
        subject.prepared.workloads,
        by_family((scheme,)),
        channel_block("cpu"),
        subject.calibration.views,
        lambda _: None,
    )


def within_macs(subject: Subject, candidates: Sequence[Choices], keep: float) -> tuple[Choice, ...]:
    """Return the plan of least summed squared errors of the layers' outputs within ``keep`` of the MACs.

    Raises
    ------
    BudgetError
        When no plan is within it.
    """
    sharing = Sharing(candidates, subject.prepared.other_macs, keep)
    return tuple(share.choice for share in sharing.by(RULES[0], {}))


def refitted(subject: Subject, choices: Sequence[Choice], target: Target) -> Made:
    """Return the model with its layers fitted one after the other to what they then receive."""
    built = build(subject.prepared, subject.model.folder, target, subject.calibration, choices, lambda _: None)
    saved = sum(one.workload.macs - one.macs for one in built.made)
    return Made(built.proto, 1.0 - saved / subject.prepared.macs)


def fitted_alone(subject: Subject, choices: Sequence[Choice]) -> Made:
    """Return the model with every chosen chain fitted to its layer's inputs in the original network.

    Each layer's bias makes up for the mean of its error. Layers that the data do not reach are factorized from their
    weights alone.
    """
    workloads = {workload.site.key: workload for workload in subject.prepared.workloads}
    chains = fit_alone(subject.prepared, subject.calibration, choices)
    saved = sum(workloads[key].macs - workloads[key].extent.macs(chain) for key, chain in chains.items())
    proto = Decompose(chains, subject.model.folder)(subject.prepared.proto).model
    return Made(proto, 1.0 - saved / subject.prepared.macs)
