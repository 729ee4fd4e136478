"""What was asked for, and the plan that meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError
from onnxlr.planning.candidates import Workload, enumerate_choices, read_layer
from onnxlr.planning.evbmf import evbmf_ranks
from onnxlr.planning.plan import Choice
from onnxlr.planning.rules import RULES
from onnxlr.planning.sharing import Sharing
from onnxlr.schemes.base import Unfolded, relative_error

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from onnxlr.planning.candidates import Candidate, Choices
    from onnxlr.schemes.base import Layer, Ranks, Scheme
    from onnxlr.schemes.observed import View


@dataclass(frozen=True, slots=True)
class KeepMacs:
    """Keep at most this share (0 to 1) of the multiply-adds of all Conv, Gemm and MatMul of the model."""

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share < 1.0:
            raise UsageError(
                f"--keep-macs {self.share:g} is not a share between 0 and 1", "for example --keep-macs 0.5"
            )

    def __str__(self) -> str:
        """Return the words of the report."""
        return f"keep {self.share:.4g} of the MACs"


@dataclass(frozen=True, slots=True)
class Energy:
    """Keep at least this share (0 to 1) of every rewritten kernel's squared norm."""

    share: float

    def __post_init__(self) -> None:
        if not 0.0 < self.share <= 1.0:
            raise UsageError(f"--energy {self.share:g} is not a share between 0 and 1", "for example --energy 0.95")

    def __str__(self) -> str:
        """Return the words of the report."""
        return f"keep {self.share:.4g} of every kernel's energy"


@dataclass(frozen=True, slots=True)
class Rank:
    """This rank on every layer a scheme applies to, clipped to the full rank, whether it pays or not."""

    rank: int

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise UsageError(f"--rank {self.rank} is below 1", "for example --rank 32")

    def __str__(self) -> str:
        """Return the words of the report."""
        return f"rank {self.rank} everywhere"


@dataclass(frozen=True, slots=True)
class Evbmf:
    """The rank that variational Bayes finds above the noise in every unfolding."""

    def __str__(self) -> str:
        """Return the words of the report."""
        return "ranks by EVBMF"


Budget = KeepMacs | Energy | Rank | Evbmf


def choose(
    budget: Budget,
    workloads: Sequence[Workload],
    schemes: Sequence[Scheme],
    *,
    other_macs: int,
    block: int,
    views: Mapping[str, View],
    progress: Callable[[float], None],
) -> tuple[Choice, ...]:
    """Return what to rewrite; ``other_macs`` are those of layers that stay whatever happens.

    ``views`` gives, by site key, what layers see in calibration data: their errors are then those of their outputs.

    Raises
    ------
    BudgetError
        When no choice of ranks meets the budget.
    """
    if isinstance(budget, KeepMacs):
        choices = enumerate_choices(workloads, schemes, block, views, progress)
        return tuple(share.choice for share in Sharing(choices, other_macs, budget.share).by(RULES[0], {}))
    if isinstance(budget, Energy):
        return _energy(budget, enumerate_choices(workloads, schemes, block, views, progress))
    return _literal(budget, workloads, schemes, progress)


def _energy(budget: Energy, choices: Sequence[Choices]) -> tuple[Choice, ...]:
    """Take, for every layer, the cheapest candidate that keeps the energy, where that is cheaper than the layer."""
    chosen = []
    for of in choices:
        enough = [c for c in of.candidates if 1.0 - c.error**2 >= budget.share - 1e-9]
        if enough:
            chosen.append(_choice(of.workload, min(enough, key=lambda c: (c.macs, c.error))))
    return tuple(chosen)


def _literal(
    budget: Rank | Evbmf, workloads: Sequence[Workload], schemes: Sequence[Scheme], progress: Callable[[float], None]
) -> tuple[Choice, ...]:
    """Take the asked ranks as they are; where several schemes apply, the one with the least error at that rank."""
    chosen: list[Choice] = []
    decided: dict[str, tuple[str, Ranks] | None] = {}
    for done, workload in enumerate(workloads, start=1):
        key = workload.site.shared_key
        if key not in decided:
            decided[key] = _best_at(budget, workload, schemes)
        found = decided[key]
        if found is not None:
            chosen.append(Choice(workload.site.key, workload.site.label, *found))
        progress(done / len(workloads))
    return tuple(chosen)


def _best_at(budget: Rank | Evbmf, workload: Workload, schemes: Sequence[Scheme]) -> tuple[str, Ranks] | None:
    able = [scheme for scheme in schemes if workload.refusal(scheme) is None]
    if isinstance(budget, Evbmf) and len(schemes) > 1:
        able = [scheme for scheme in able if isinstance(scheme, Unfolded)]
    if not able:
        return None
    if isinstance(budget, Rank) and len(able) == 1:
        return able[0].name, able[0].literal(budget.rank, workload.shape)
    layer = read_layer(workload.site)
    tried = []
    for order, scheme in enumerate(able):
        ranks = evbmf_ranks(scheme, layer) if isinstance(budget, Evbmf) else scheme.literal(budget.rank, workload.shape)
        macs = workload.extent.macs(scheme.template(workload.shape, ranks))
        tried.append((_error(scheme, layer, ranks), macs, order, scheme.name, ranks))
    best = min(tried)
    return best[3], best[4]


def _error(scheme: Scheme, layer: Layer, ranks: Ranks) -> float:
    """Return the error of the finished chain: literal ranks need no estimate."""
    return round(relative_error(layer.weight, scheme.solver(layer).chain(ranks).contract(layer.geometry)), 9)


def _choice(workload: Workload, candidate: Candidate) -> Choice:
    return Choice(workload.site.key, workload.site.label, candidate.scheme, candidate.ranks)
