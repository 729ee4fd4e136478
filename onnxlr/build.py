"""From choices to a rewritten model: factors fitted, chains put in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from onnxlr.calibrate import fit_alone, fit_to_data
from onnxlr.errors import ModelError
from onnxlr.factorize import factorize
from onnxlr.prepare import only
from onnxlr_passes.base import PassError
from onnxlr_passes.decompose import Decompose

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import onnx

    from onnxlr.calibrate import Calibration
    from onnxlr.factorize import Factorized
    from onnxlr.planning.plan import Choice
    from onnxlr.prepare import Prepared
    from onnxlr.target import Target
    from onnxlr_passes.chain import Chain


@dataclass(frozen=True, slots=True, eq=False)
class Built:
    """A rewritten model with its chains; ``refitted`` are dense layers with new weights, by site key."""

    proto: onnx.ModelProto
    made: tuple[Factorized, ...]
    refitted: Mapping[str, Chain]


def build(
    prepared: Prepared,
    folder: Path | None,
    target: Target,
    calibration: Calibration | None,
    choices: Sequence[Choice],
    progress: Callable[[float], None],
) -> Built:
    """Fit the chosen chains, to the data where there are some, and write them into a copy of the prepared model.

    Raises
    ------
    UsageError
        When a choice names no layer of the model, an unknown scheme, or ranks that the layer does not have.
    ModelError
        When a factor overflows the model's type.
    """
    workloads = only(prepared, [choice.site for choice in choices])
    refitted: dict[str, Chain] = {}
    if calibration is None:
        made = factorize(workloads, choices, progress)
    else:
        made, refitted = fit_to_data(prepared, folder, target, calibration, choices, progress)
    chains = refitted | {one.choice.site: one.chain for one in made}
    return Built(_written(prepared, folder, chains), made, refitted)


def build_alone(
    prepared: Prepared, folder: Path | None, calibration: Calibration, choices: Sequence[Choice]
) -> onnx.ModelProto:
    """Return the model with every chosen chain fitted to what its layer sees and answers in the original.

    Raises
    ------
    ModelError
        When a factor overflows the model's type.
    """
    return _written(prepared, folder, fit_alone(prepared, calibration, choices))


def _written(prepared: Prepared, folder: Path | None, chains: Mapping[str, Chain]) -> onnx.ModelProto:
    try:
        return Decompose(chains, folder)(prepared.proto).model
    except PassError as error:
        raise ModelError(str(error), "exclude that layer with --exclude") from error
