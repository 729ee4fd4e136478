"""The rewrite itself: put a chain in the place of a Conv, Gemm or MatMul. Decides nothing, computes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxlr_passes.base import Change, PassError, PassResult
from onnxlr_passes.cleanup import remove_orphans
from onnxlr_passes.constants import Constants
from onnxlr_passes.extents import fixed_sizes
from onnxlr_passes.scopes import Scope, fresh_name, scopes, value_names
from onnxlr_passes.sites import Site, locate, site_key
from onnxlr_passes.tiled import Tiled, conv_attributes
from onnxlr_passes.unlist_initializers import allow_unlisted_initializers

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from onnxlr_passes.chain import Chain, Stage


@dataclass(frozen=True, slots=True, eq=False)
class Decompose:
    """Replace the sites named by the keys of ``chains``; ``folder`` is where the model's external data lies.

    The last node of a chain gives the output of the node it replaces, and takes over its doc string, its metadata and
    its bias, or what else it adds. Weights no longer read by anything are removed; equal factors are written once a
    scope.
    """

    chains: Mapping[str, Chain]
    folder: Path | None = None
    name: str = "decompose"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Rewrite a copy of ``model``.

        Raises
        ------
        PassError
            When a key names no site, a chain does not fit its site, a chain with a bias would replace what is none, or
            a factor overflows the model's type.
        """
        if not self.chains:
            return PassResult(model)
        sites = {site.key: site for site in locate(model, self.folder)[0]}
        sizes = self._sizes(model, sites)
        missing = sorted(set(self.chains) - set(sites))
        if missing:
            raise PassError(f"no such site in the model: {', '.join(missing)}")
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        names = _Names(value_names(changed), _node_names(changed))
        constants = Constants(model, self.folder)
        orphans: set[str] = set()
        changes: list[Change] = []
        for scope in scopes(changed):
            writer = _Writer(scope, names, constants)
            for node in list(scope.nodes):
                site = sites.get(site_key(scope, node))
                if site is None or site.key not in self.chains or node.op_type != site.op:
                    continue
                chain = self.chains[site.key]
                own = chain.bias is None and chain.steps[0][0].tile is None  # the bias is read as it was
                orphans.update(node.input[1 : 2 if own else 3])
                writer.replace(node, site, chain, sizes.get(site.key, ()))
                changes.append(Change(site.label, f"{site.op} replaced by {len(chain.stages)} stages"))
        changes += allow_unlisted_initializers(changed)
        changes += remove_orphans(changed, orphans)
        return PassResult(changed, tuple(changes))

    def _sizes(self, model: onnx.ModelProto, sites: Mapping[str, Site]) -> dict[str, tuple[int, ...]]:
        """Return the spatial size of what comes into the sites to be tiled, by key."""
        tiled = [key for key, chain in self.chains.items() if key in sites and chain.steps[0][0].tile is not None]
        if not tiled:
            return {}
        found = fixed_sizes(model, {key: sites[key].geometry for key in tiled})
        missing = [sites[key].label for key in tiled if key not in found]
        if missing:
            raise PassError(f"{missing[0]}: it cannot be tiled, for the size of its input is not fixed in the model")
        return found


@dataclass(frozen=True, slots=True)
class _Names:
    """Every name in use, of values and of nodes."""

    values: set[str]
    nodes: set[str]


@dataclass(slots=True, eq=False)
class _Writer:
    """Writes chains into one scope."""

    scope: Scope
    names: _Names
    constants: Constants
    written: dict[bytes, str] = field(default_factory=dict)

    def replace(self, node: onnx.NodeProto, site: Site, chain: Chain, size: tuple[int, ...]) -> None:
        """Put ``chain`` where ``node`` stands; ``size`` is that of its input, where it is tiled."""
        last = chain.steps[-1][0]
        if last.out_channels != site.out_channels or chain.steps[0][0].in_channels != site.in_channels:
            raise PassError(
                f"{site.label}: the chain is not one from {site.in_channels} to {site.out_channels} channels"
            )
        if chain.bias is not None and site.adds:
            raise PassError(f"{site.label}: a new bias would replace its third input, which is not a bias")
        made: list[onnx.NodeProto] = []
        value, number = node.input[0], 0
        for step in chain.steps[:-1]:
            outputs = []
            for stage in step:
                name = self._value(f"{site.output}/lr{number}_{stage.suffix}")
                made += self._stage(site, stage, [value], name)
                outputs.append(name)
                number += 1
            value = outputs[0] if len(step) == 1 else self._concat(site, outputs, made)
        if last.tile is None:
            ends = self._stage(site, last, [value, *self._bias(node, site, chain, made)], site.output, number)
        else:
            ends = self._tiled(site, chain, node, size)
        ends[-1].doc_string = node.doc_string
        ends[-1].metadata_props.extend(node.metadata_props)
        if site.op == "Gemm" and chain.bias is None:
            ends[-1].attribute.extend(entry for entry in node.attribute if entry.name == "beta")
        made += ends
        at = next(i for i, other in enumerate(self.scope.nodes) if other is node or other.output[:1] == node.output[:1])
        del self.scope.nodes[at]
        for offset, one in enumerate(made):
            self.scope.nodes.insert(at + offset, one)

    def _stage(
        self, site: Site, stage: Stage, inputs: list[str], output: str, number: int | None = None
    ) -> list[onnx.NodeProto]:
        """Return the node of one stage, preceded by its Constant where the scope holds no initialisers."""
        base = output if number is None else f"{site.output}/lr{number}_{stage.suffix}"
        name = fresh_name(base, self.names.nodes)
        before: list[onnx.NodeProto] = []
        if site.op == "Conv":
            weight = self._constant(f"{base}_weight", stage.weight, site, before)
            made = helper.make_node("Conv", [inputs[0], weight, *inputs[1:]], [output], name)
            made.attribute.extend(conv_attributes(stage.geometry))
        elif site.op == "Gemm" and (len(inputs) > 1 or self.scope.opset >= 11):
            weight = self._constant(f"{base}_weight", stage.weight, site, before)
            made = helper.make_node("Gemm", [inputs[0], weight, *inputs[1:]], [output], name, transB=1)
        else:  # before opset 11 Gemm cannot do without a bias
            weight = self._constant(f"{base}_weight", stage.weight.T, site, before)
            made = helper.make_node("MatMul", [inputs[0], weight], [output], name)
        return [*before, made]

    def _tiled(self, site: Site, chain: Chain, node: onnx.NodeProto, size: tuple[int, ...]) -> list[onnx.NodeProto]:
        """Return the nodes of a chain that is one convolution by tiles."""
        ((stage,),) = chain.steps
        if stage.tile is None:
            raise PassError(f"{site.label}: no tile")
        bias = self._known_bias(node, chain)
        tiled = Tiled(stage.weight, stage.geometry, stage.tile, size, bias, self.scope.opset)
        base = f"{site.output}/lr0_{stage.suffix}"
        return list(tiled.nodes(node.input[0], site.output, base, _TileNames(self, site)))

    def _known_bias(self, node: onnx.NodeProto, chain: Chain) -> NDArray[np.float64] | str | None:
        """Return the bias as numbers; the name of one that is only known at run time."""
        if chain.bias is not None or len(node.input) < 3 or not node.input[2]:
            return chain.bias
        found = self.constants.resolve(self.scope, node.input[2])
        return node.input[2] if isinstance(found, str) else found.array.astype(np.float64)

    def _concat(self, site: Site, outputs: list[str], made: list[onnx.NodeProto]) -> str:
        name = self._value(f"{site.output}/lr_concat")
        made.append(helper.make_node("Concat", outputs, [name], fresh_name(name, self.names.nodes), axis=1))
        return name

    def _bias(self, node: onnx.NodeProto, site: Site, chain: Chain, made: list[onnx.NodeProto]) -> list[str]:
        """Return the last stage's third input: a new bias where the chain has one, else the node's own."""
        if chain.bias is not None:
            if site.op == "MatMul":
                raise PassError(f"{site.label}: a MatMul has no bias to write")
            return [self._constant(f"{site.output}/lr_bias", chain.bias, site, made)]
        return [node.input[2]] if len(node.input) > 2 and node.input[2] else []

    def _constant(self, wanted: str, array: NDArray[np.float64], site: Site, made: list[onnx.NodeProto]) -> str:
        """Write an array in the site's type."""
        return self.constant(wanted, _cast(array, site), made)

    def constant(self, wanted: str, cast: NDArray[np.generic], made: list[onnx.NodeProto]) -> str:
        """Write an array; the same bytes in the same scope get the same name."""
        digest = sha256(repr((cast.dtype.name, cast.shape)).encode() + cast.tobytes()).digest()
        if digest in self.written:
            return self.written[digest]
        name = self._value(wanted)
        tensor = numpy_helper.from_array(cast, name)
        if self.scope.graph is not None:
            self.scope.graph.initializer.append(tensor)
            self.written[digest] = name
        else:
            tensor.name = ""
            made.append(helper.make_node("Constant", [], [name], fresh_name(name, self.names.nodes), value=tensor))
        return name

    def _value(self, wanted: str) -> str:
        return fresh_name(wanted, self.names.values)


@dataclass(frozen=True, slots=True, eq=False)
class _TileNames:
    """Names and constants for one site's tiles, which are in the main graph."""

    writer: _Writer
    site: Site

    def value(self, wanted: str) -> str:
        return fresh_name(wanted, self.writer.names.values)

    def node(self, wanted: str) -> str:
        return fresh_name(wanted, self.writer.names.nodes)

    def numbers(self, wanted: str, array: NDArray[np.float64]) -> str:
        return self.writer.constant(wanted, _cast(array, self.site), [])

    def integers(self, wanted: str, values: Sequence[int]) -> str:
        return self.writer.constant(wanted, np.array(values, np.int64), [])


def _cast(array: NDArray[np.float64], site: Site) -> NDArray[np.generic]:
    """Return the array in the site's type, contiguous, refusing what it cannot hold."""
    dtype = helper.tensor_dtype_to_np_dtype(site.dtype)
    with np.errstate(over="ignore"):
        cast = np.ascontiguousarray(array).astype(dtype)
    if not np.isfinite(cast.astype(np.float64)).all():
        raise PassError(f"{site.label}: a factor overflows {dtype}")
    return cast


def _node_names(model: onnx.ModelProto) -> set[str]:
    return {node.name for scope in scopes(model) for node in scope.nodes if node.name}
