"""How much input every site sees: batch and spatial sizes at given input shapes, from ONNX's shape inference."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import onnx
from onnx import helper, inliner, shape_inference

from onnxlr_passes.scopes import DEFAULT_DOMAINS, scopes
from onnxlr_passes.sites import REWRITABLE, site_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from onnxlr_passes.chain import Chain
    from onnxlr_passes.geometry import Geometry
    from onnxlr_passes.sites import Site

_TAG = "onnxlr.site"
_BIG = 4096  # bytes; smaller tensors may be shapes that inference reads


@dataclass(frozen=True, slots=True)
class Extent:
    """What one execution of a node sees: ``batch`` samples (rows, for a linear map) of spatial ``size``.

    ``calls`` counts how often the model holds the node: a local function called three times runs it three times. A
    body of Loop or Scan counts once.
    """

    batch: int
    size: tuple[int, ...]
    calls: int = 1

    def macs(self, chain: Chain) -> int:
        """Multiply-adds of ``chain`` here."""
        return chain.macs(self.size) * self.batch * self.calls

    def dense_macs(self, site: Site) -> int:
        """Multiply-adds of the site as it is."""
        return site.parameters * prod(site.geometry.output_size(self.size)) * self.batch * self.calls


def extents(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]], keys: Mapping[str, Geometry]
) -> dict[str, Extent]:
    """Return the extent of every site of ``keys`` whose input shape can be inferred and is one it can work on.

    ``shapes`` gives each graph input its full shape. Local functions are inlined (in a copy) to see what they are
    called with. A site seen with several sizes is given the one with most positions.
    """
    bare = without_weights(model, shapes)
    _tag(bare, keys)
    if bare.functions:
        bare = inliner.inline_local_functions(bare)
    try:
        bare = shape_inference.infer_shapes(bare, strict_mode=False, data_prop=True)
    except (shape_inference.InferenceError, ValueError):  # a graph it cannot walk: nothing is known
        return {}
    found: dict[str, Extent] = {}
    for scope in scopes(bare):
        if scope.graph is None:
            continue
        for node in scope.nodes:
            key = next((entry.value for entry in node.metadata_props if entry.key == _TAG), None)
            if key is None:
                continue
            home = scope.where(node.input[0])
            shape = None if home is None or home.graph is None else _shape(home.graph, node.input[0])
            extent = None if shape is None else _extent(node.op_type, shape, keys[key])
            if extent is not None:
                found[key] = _merge(found.get(key), extent)
    return found


def fixed_sizes(model: onnx.ModelProto, keys: Mapping[str, Geometry]) -> dict[str, tuple[int, ...]]:
    """Return the spatial input size of every site of ``keys`` that the model itself fixes, whatever the batch.

    Only of sites in the main graph: a function may be called with several sizes.
    """
    main = {site_key(scope, node) for scope in scopes(model) if not scope.path for node in scope.nodes}
    wanted = {key: geometry for key, geometry in keys.items() if key in main}
    first, second = (extents(model, _batches(model, batch), wanted) for batch in (1, 2))
    return {key: one.size for key, one in first.items() if key in second and second[key].size == one.size}


def _batches(model: onnx.ModelProto, batch: int) -> dict[str, tuple[int, ...]]:
    """Return full shapes for the inputs of which only the first dimension is free."""
    found = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        if dims and not dims[0].dim_value and all(dim.dim_value > 0 for dim in dims[1:]):
            found[value.name] = (batch, *(int(dim.dim_value) for dim in dims[1:]))
    return found


def _merge(before: Extent | None, new: Extent) -> Extent:
    if before is None:
        return new
    larger = max(before, new, key=lambda extent: extent.batch * prod(extent.size))
    return Extent(larger.batch, larger.size, before.calls + new.calls)


def _extent(op: str, shape: tuple[int, ...], geometry: Geometry) -> Extent | None:
    """Read batch and size off a full input shape; None when it does not fit the operator."""
    if op == "Conv":
        fits = len(shape) == 2 + geometry.rank and geometry.fits(shape[2:])
        return Extent(shape[0], shape[2:]) if fits else None
    return Extent(prod(shape[:-1]), ()) if shape else None


def _tag(model: onnx.ModelProto, keys: Mapping[str, Geometry]) -> None:
    """Write each site's key into its node, where inlining carries it along."""
    for scope in scopes(model):
        for node in scope.nodes:
            if node.op_type in REWRITABLE and site_key(scope, node) in keys:
                del node.metadata_props[:]
                entry = node.metadata_props.add()
                entry.key, entry.value = _TAG, site_key(scope, node)


def _shape(graph: onnx.GraphProto, name: str) -> tuple[int, ...] | None:
    for values in (graph.value_info, graph.input, graph.output):
        for value in values:
            if value.name == name:
                return full_shape(value.type)
    return None


def without_weights(model: onnx.ModelProto, shapes: Mapping[str, tuple[int, ...]]) -> onnx.ModelProto:
    """Copy the model for shape inference, which wants shapes and no weights: large tensors become inputs.

    ``shapes`` gives inputs their full shape.
    """
    bare = onnx.ModelProto()
    for field, value in model.ListFields():
        if field.name in {"ir_version", "producer_name"}:
            setattr(bare, field.name, value)
    bare.ir_version = max(model.ir_version, 10)  # node metadata, which carries the tags
    bare.opset_import.extend(model.opset_import)
    bare.functions.extend(model.functions)
    bare.graph.name = model.graph.name or "graph"
    bare.graph.node.extend(model.graph.node)
    _use_one_name(bare)
    bare.graph.output.extend(model.graph.output)
    listed = {value.name for value in model.graph.input}
    for value in model.graph.input:
        copy = bare.graph.input.add()
        copy.CopyFrom(value)
        if value.name in shapes and value.type.HasField("tensor_type"):
            element = value.type.tensor_type.elem_type
            copy.CopyFrom(helper.make_tensor_value_info(value.name, element, shapes[value.name]))
    for tensor in model.graph.initializer:
        if tensor.ByteSize() <= _BIG and not tensor.external_data:
            bare.graph.initializer.add().CopyFrom(tensor)
        elif tensor.name not in listed:
            info = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            bare.graph.input.append(info)
    for sparse in model.graph.sparse_initializer:
        bare.graph.sparse_initializer.add().CopyFrom(sparse)
    return bare


def _use_one_name(bare: onnx.ModelProto) -> None:
    """Call the default domain of nodes "": shape inference does not know that "ai.onnx" is the same one."""
    for node in bare.graph.node:
        if node.domain in DEFAULT_DOMAINS:
            node.domain = ""


def full_shape(kind: onnx.TypeProto) -> tuple[int, ...] | None:
    """Return the shape of a tensor type when every dimension is a known number."""
    if not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") and dim.dim_value > 0 for dim in dims):
        return None
    return tuple(int(dim.dim_value) for dim in dims)
