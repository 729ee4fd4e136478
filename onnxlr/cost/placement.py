"""What is timed: a layer's place in a model, and the chains that could stand there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxlr_passes.chain import Chain, Stage
    from onnxlr_passes.extents import Extent
    from onnxlr_passes.geometry import Geometry
    from onnxlr_passes.sites import Site


@dataclass(frozen=True, slots=True)
class Placement:
    """All that a layer's latency depends on, its weights apart: equal placements are timed once.

    ``dtype`` is the ``TensorProto`` type of the weights, which is the precision of the layer. ``batch`` samples (rows,
    for a linear map) of spatial ``size`` come in.
    """

    op: str
    dtype: int
    in_channels: int
    out_channels: int
    geometry: Geometry
    batch: int
    size: tuple[int, ...]

    def key(self) -> str:
        """Return a text that only equal placements share."""
        return (
            f"{self.op} type {self.dtype} {self.in_channels}->{self.out_channels} {_geometry(self.geometry)} "
            f"on {self.batch}x{'x'.join(map(str, self.size))}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A layer and the chains to be timed in its place, whose weights may be blank.

    ``calls`` is how often one run of the model runs the layer.
    """

    placement: Placement
    chains: tuple[Chain, ...]
    calls: int = 1


def placement_of(site: Site, extent: Extent) -> Placement:
    """Return the placement of a site that sees ``extent``."""
    return Placement(site.op, site.dtype, site.in_channels, site.out_channels, site.geometry, extent.batch, extent.size)


def chain_key(chain: Chain) -> str:
    """Return a text that only chains of equal stages share, whatever their weights."""
    steps = (
        " | ".join(
            f"{'x'.join(map(str, stage.weight.shape))} {_geometry(stage.geometry)}{_tile(stage)}" for stage in step
        )
        for step in chain.steps
    )
    return "; ".join(steps)


def _tile(stage: Stage) -> str:
    return "" if stage.tile is None else f" tile {'x'.join(map(str, stage.tile.outputs))}"


def _geometry(geometry: Geometry) -> str:
    return (
        f"k{list(geometry.kernel)} s{list(geometry.strides)} d{list(geometry.dilations)} "
        f"p{[list(pad) for pad in geometry.pads]} g{geometry.group} {geometry.auto_pad}"
    )
