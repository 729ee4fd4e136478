"""Whether a parsed model is one: what ONNX Runtime forgives is forgiven, anything else is one clear error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from onnxlr.errors import ModelError
from onnxlr.model_io.walk import (
    copy_without_weights,
    every_graph,
    every_tensor,
    is_external,
    raw_size,
    sparse_parts,
    sparse_tensors,
)

if TYPE_CHECKING:
    from onnx import ModelProto

OLDEST_OPSET = 7  # the first that ONNX Runtime promises to run
_DEFAULT_DOMAINS = ("", "ai.onnx")
_FOREIGN = "onnxlr.foreign"  # stands in for operators that only the runtime knows
_SMALL = 1024


def check_model(proto: ModelProto, name: str) -> None:
    """Check versions, stored sizes and structure of the model that messages call ``name``; reads no external data.

    Raises
    ------
    ModelError
        With the first thing found wrong.
    """
    if not proto.HasField("graph") or not (proto.graph.node or proto.graph.output):
        raise ModelError(f"{name} has no graph", "it is not an ONNX model, or it was cut short: export it again")
    bad = _broken_text(proto)
    if bad is not None:
        raise ModelError(f"{name} is damaged: field {bad} is not text", "export or download the model again")
    _check_versions(proto, name)
    _check_sizes(proto, name)
    try:
        onnx.checker.check_model(_for_checker(proto))
    except onnx.checker.ValidationError as error:
        reason = next(iter(str(error).splitlines()), "no reason given").rstrip(" .:")
        raise ModelError(f"{name} is not a valid model: {reason}", "export it again, or repair that node") from error


def _broken_text(message: Any) -> str | None:
    """Name the first field that should be UTF-8 and is not; protobuf parses such fields, as bytes instead of str."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_STRING:
            if any(isinstance(one, bytes) for one in ([value] if isinstance(value, str | bytes) else value)):
                return str(field.full_name)
        elif field.type == field.TYPE_MESSAGE:
            for one in [value] if hasattr(value, "ListFields") else value:
                bad = _broken_text(one)
                if bad is not None:
                    return bad
    return None


def _check_versions(proto: ModelProto, name: str) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{name} has IR version {proto.ir_version}, newer than {onnx.IR_VERSION} of onnx {onnx.__version__}",
            "upgrade the onnx package, or export for an older IR version",
        )
    opsets = {one.version for one in proto.opset_import if one.domain in _DEFAULT_DOMAINS}
    if not opsets and any(node.domain in _DEFAULT_DOMAINS for node in proto.graph.node):
        raise ModelError(f"{name} names no opset", "it was cut short, or not made by an ONNX exporter: export it again")
    newest = onnx.defs.onnx_opset_version()
    for version in sorted(opsets):
        if version > newest:
            raise ModelError(
                f"{name} has opset {version}, newer than {newest} of onnx {onnx.__version__}",
                "upgrade the onnx package, or export for an older opset",
            )
        if version < OLDEST_OPSET:
            raise ModelError(
                f"{name} has opset {version}, older than {OLDEST_OPSET}",
                "convert it with onnx.version_converter, or export it again",
            )


def _check_sizes(proto: ModelProto, name: str) -> None:
    for tensor in every_tensor(proto):
        what = f"tensor {tensor.name!r} of {name}"
        if any(size < 0 for size in tensor.dims):
            raise ModelError(f"{what} has shape {list(tensor.dims)}", "export the model again")
        needed = raw_size(tensor)
        if is_external(tensor) or needed is None or not tensor.HasField("raw_data"):
            continue
        stored = len(tensor.raw_data)
        if stored != needed:
            raise ModelError(f"{what} holds {stored} bytes, its shape needs {needed}", "export the model again")


def _for_checker(proto: ModelProto) -> ModelProto:
    """Copy the model for onnx.checker: without the weights, and without what ONNX Runtime forgives.

    The checker would look for external data in the current folder, reject hard links, and cannot take 2 GB. It also
    rejects what runs: operators of the default domain known to ONNX Runtime only (LayerNormalization before opset 17),
    nodes that call that domain ai.onnx, domains not imported, initializers of IR version 3 that are not inputs, an
    unnamed graph, inputs and outputs without a shape, outputs without a type.
    """
    bare = copy_without_weights(proto)
    bare.ir_version = max(bare.ir_version, 4)
    bare.ClearField("metadata_props")
    for sparse in sparse_tensors(bare):  # the checker counts: as many indices as values
        if any(_is_bulk(part) for part in sparse_parts(sparse)):
            for part in sparse_parts(sparse):
                _blank(part)
    for tensor in every_tensor(bare):
        if _is_bulk(tensor):
            _blank(tensor)
    _use_one_name(bare)
    _forgive_nodes(bare)
    for value in bare.graph.output:
        if value.type.WhichOneof("value") is None:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in (*bare.graph.input, *bare.graph.output):
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return bare


def _use_one_name(bare: ModelProto) -> None:
    """Call the default domain "" in imports and nodes: the runtime takes "ai.onnx" for the same, the checker does not.

    Where both are imported, "" counts. Bodies and local functions stay: there the runtime tells the two apart itself.
    """
    named = {one.domain for one in bare.opset_import}
    for one in bare.opset_import:
        if one.domain == "ai.onnx" and "" not in named:
            one.domain = ""
    for node in bare.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""


def _forgive_nodes(bare: ModelProto) -> None:
    """Give the nodes that only the runtime can judge a domain that the checker does not."""
    versions = {one.domain: one.version for one in bare.opset_import}
    opset = versions.get("", OLDEST_OPSET)
    local = {(function.domain, function.name) for function in bare.functions}
    for graph in every_graph(bare):
        graph.name = graph.name or "graph"
        for node in graph.node:
            if (node.domain, node.op_type) in local:
                continue
            if not node.domain and not _known(node.op_type, opset):
                node.domain = _FOREIGN
            if node.domain not in versions:
                versions[node.domain] = 1
                bare.opset_import.add(domain=node.domain, version=1)


def _is_bulk(tensor: TensorProto) -> bool:
    """Whether the data of a tensor are large, in another file, or left out already."""
    stored = any(field.name.endswith("_data") for field, _ in tensor.ListFields())
    return is_external(tensor) or len(tensor.raw_data) > _SMALL or not stored


def _blank(tensor: TensorProto) -> None:
    """Make a tensor one of no elements; all its sizes but the first stay, for indices of a sparse tensor need them."""
    for field in [field.name for field, _ in tensor.ListFields() if field.name.endswith("_data")]:
        tensor.ClearField(field)
    tensor.ClearField("data_location")
    tensor.dims[:] = [0, *tensor.dims[1:]]


def _known(operator: str, opset: int) -> bool:
    return onnx.defs.has(operator, opset, "")
