"""From a plan to chains: factors computed from the weights, and what each of them loses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.errors import UsageError
from onnxlr.parallel import side_by_side
from onnxlr.planning.candidates import read_layer
from onnxlr.schemes.base import relative_error
from onnxlr.schemes.registry import by_name
from onnxlr_passes.chain import Chain, Stage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from onnxlr.planning.candidates import Workload
    from onnxlr.planning.plan import Choice
    from onnxlr.schemes.base import Layer, LayerShape, Ranks, Scheme


@dataclass(frozen=True, slots=True, eq=False)
class Factorized:
    """One layer's chain; ``error`` is ||W - W^|| / ||W|| of the contracted chain.

    ``output_error`` is sqrt(E||y - y^||^2 / Var y) on the data the chain was fitted to, None for weights only.
    """

    workload: Workload
    choice: Choice
    chain: Chain
    error: float
    output_error: float | None = None

    @property
    def macs(self) -> int:
        """Multiply-adds of the chain in one run of the model."""
        return self.workload.extent.macs(self.chain)

    @property
    def pays(self) -> bool:
        """Whether the chain has fewer multiply-adds than the layer."""
        return self.macs < self.workload.macs

    @property
    def as_one(self) -> Chain:
        """The contracted chain as a single convolution: what the chain must compute."""
        geometry = self.workload.site.geometry
        return Chain(((Stage("dense", self.chain.contract(geometry), geometry),),), self.chain.bias)


def factorize(
    workloads: Sequence[Workload], choices: Sequence[Choice], progress: Callable[[float], None]
) -> tuple[Factorized, ...]:
    """Compute the chain of every choice, in the order of ``workloads``.

    Sites that share a kernel are decomposed once, and get the same factors where they get the same ranks.

    Raises
    ------
    UsageError
        When a choice names an unknown scheme, or ranks the layer does not have.
    """
    wanted = {choice.site: choice for choice in choices}
    groups: dict[str, list[Workload]] = {}
    for workload in workloads:
        if workload.site.key in wanted:
            groups.setdefault(workload.site.shared_key, []).append(workload)
    total = sum(len(group) for group in groups.values()) or 1
    count = 0

    def load(group: list[Workload]) -> tuple[Layer, list[Choice]]:
        return read_layer(group[0].site), [wanted[workload.site.key] for workload in group]

    def tell(group: list[Workload]) -> None:
        nonlocal count
        count += len(group)
        progress(count / total)

    every = list(groups.values())
    found: dict[str, Factorized] = {}
    for group, made in zip(
        every, side_by_side(every, load, _factorize, lambda group: group[0].site.parameters, tell), strict=True
    ):
        for workload, (chain, error) in zip(group, made, strict=True):
            key = workload.site.key
            found[key] = Factorized(workload, wanted[key], chain, error)
    return tuple(found[workload.site.key] for workload in workloads if workload.site.key in found)


def _factorize(given: tuple[Layer, list[Choice]]) -> list[tuple[Chain, float]]:
    """Return the chain and the error of every choice for a kernel."""
    layer, choices = given
    known: dict[tuple[str, Ranks], tuple[Chain, float]] = {}
    for choice in choices:
        if (choice.scheme, choice.ranks) not in known:
            chain = check_choice(choice, layer.shape).solver(layer).chain(choice.ranks)
            error = relative_error(layer.weight, chain.contract(layer.geometry))
            known[choice.scheme, choice.ranks] = chain, error
    return [known[choice.scheme, choice.ranks] for choice in choices]


def check_choice(choice: Choice, shape: LayerShape) -> Scheme:
    """Return the scheme a choice names, after making sure the layer can have it at those ranks.

    Raises
    ------
    UsageError
        When the scheme is unknown or does not apply, or the layer has no such ranks.
    """
    scheme = by_name(choice.scheme)
    refusal = scheme.refusal(shape)
    if refusal is not None:
        raise UsageError(
            f"{choice.node}: {scheme.name} does not apply ({refusal})", "choose another scheme in the plan"
        )
    full = scheme.full_rank(shape)
    fits = len(choice.ranks) == len(full) and all(r <= f for r, f in zip(choice.ranks, full, strict=True))
    still = scheme.family == "winograd" and set(choice.ranks) == {1}  # every output by itself is no tile
    if not fits or still or not any(choice.ranks) or (0 in choice.ranks and scheme.family != "mixed"):
        raise UsageError(
            f"{choice.node}: {scheme.name} has no ranks {list(choice.ranks)} here", f"at most {list(full)}"
        )
    return scheme
