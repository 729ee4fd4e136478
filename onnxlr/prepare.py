"""From a model as it was exported to what planning works on: sites in normal form, and what each of them sees."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from onnxlr.errors import ModelError, UsageError
from onnxlr.planning.candidates import Workload
from onnxlr.target import resolve_shapes
from onnxlr_passes.base import PassError, run_passes
from onnxlr_passes.extents import extents
from onnxlr_passes.fold_batchnorm import FoldBatchNorm
from onnxlr_passes.fold_pad import FoldPad
from onnxlr_passes.simplify import Simplify
from onnxlr_passes.sites import Skipped, locate
from onnxlr_passes.tiled import tileable
from onnxlr_passes.unlist_initializers import UnlistInitializers

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx

    from onnxlr.model_io import Model
    from onnxlr.target import Target
    from onnxlr_passes.base import Change, Pass
    from onnxlr_passes.sites import Site


@dataclass(frozen=True, slots=True)
class Selection:
    """Which nodes may be rewritten: shell patterns on node names; an empty ``include`` is every node."""

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def refusal(self, site: Site) -> str | None:
        """Return why a site is left out, or None."""
        if any(fnmatchcase(site.label, pattern) for pattern in self.exclude):
            return "excluded"
        if self.include and not any(fnmatchcase(site.label, pattern) for pattern in self.include):
            return "not included"
        return None


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A model ready to be rewritten.

    ``workloads`` are the sites that may be replaced; ``skipped`` everything else that was looked at. ``other_macs``
    counts what stays whatever happens, as far as it can be counted. All counts hold for the input shapes ``shapes``.
    ``changes`` come with the name of the pass that made them.
    """

    proto: onnx.ModelProto
    workloads: tuple[Workload, ...]
    skipped: tuple[Skipped, ...]
    other_macs: int
    shapes: dict[str, tuple[int, ...]]
    changes: tuple[tuple[str, Change], ...]

    @property
    def macs(self) -> int:
        """Multiply-adds of all Conv, Gemm and MatMul that can be counted."""
        return sum(workload.macs for workload in self.workloads) + self.other_macs


def prepare(model: Model, target: Target, selection: Selection, *, simplify: bool) -> Prepared:
    """Fold, simplify, locate and count.

    Raises
    ------
    UsageError
        When an input's shape must be given, or a pattern matches no node.
    ModelError
        When a pass cannot work on the model.
    """
    shapes = resolve_shapes(model.proto, target)
    passes: list[Pass] = [FoldPad(model.folder), FoldBatchNorm(model.folder)]
    if simplify:
        passes = [UnlistInitializers(), Simplify(model.folder), *passes]
    proto = model.proto
    changes: list[tuple[str, Change]] = []
    try:
        for one in passes:
            result = run_passes(proto, (one,))
            proto = result.model
            changes += [(one.name, change) for change in result.changes]
        sites, skipped = locate(proto, model.folder)
    except PassError as error:
        raise ModelError(f"{model.path or 'the model'}: {error}") from error
    _check_patterns(selection, [*(site.label for site in sites), *(other.label for other in skipped)])
    counted = [*sites, *(other.site for other in skipped if other.site is not None)]
    seen = extents(proto, shapes, {site.key: site.geometry for site in counted})
    able = tileable(proto, sites)
    workloads: list[Workload] = []
    left = list(skipped)
    for site in sites:
        reason = selection.refusal(site)
        if site.key not in seen:
            left.append(
                Skipped(
                    site.key, site.label, site.op, "its input size cannot be inferred, or is too small for its kernel"
                )
            )
        elif reason is not None:
            left.append(Skipped(site.key, site.label, site.op, reason, site))
        else:
            workloads.append(Workload(site, seen[site.key], site.key in able))
    other = sum(seen[o.site.key].dense_macs(o.site) for o in left if o.site is not None and o.site.key in seen)
    return Prepared(proto, tuple(workloads), tuple(left), other, shapes, tuple(changes))


def only(prepared: Prepared, keys: Sequence[str]) -> tuple[Workload, ...]:
    """Return the workloads of the named sites, in node order.

    Raises
    ------
    UsageError
        When a key names no site that can be rewritten.
    """
    wanted = set(keys)
    found = tuple(workload for workload in prepared.workloads if workload.site.key in wanted)
    missing = sorted(wanted - {workload.site.key for workload in found})
    if missing:
        reasons = {other.key: other.reason for other in prepared.skipped}
        why = f" ({reasons[missing[0]]})" if missing[0] in reasons else ""
        raise UsageError(
            f"the plan names {missing[0]!r}, which is not a layer of this model that can be rewritten{why}",
            "replay a plan on the model it was made for, with the same --no-simplify",
        )
    return found


def _check_patterns(selection: Selection, labels: Sequence[str]) -> None:
    for option, patterns in (("--include", selection.include), ("--exclude", selection.exclude)):
        for pattern in patterns:
            if not any(fnmatchcase(label, pattern) for label in labels):
                known = ", ".join(labels[:3]) + (", ..." if len(labels) > 3 else "")
                raise UsageError(f"{option} {pattern!r} matches no node", f"nodes are called {known or '(none)'}")
