"""Where a low-rank chain could go: every Conv, Gemm and MatMul of a model, as a Site or as Skipped with a reason."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING

import numpy as np
from onnx import helper

from onnxlr_passes.constants import FLOAT_TYPES, Constant, Constants
from onnxlr_passes.geometry import Geometry
from onnxlr_passes.scopes import DEFAULT_DOMAINS, Scope, scopes

if TYPE_CHECKING:
    from pathlib import Path

    import onnx
    from numpy.typing import NDArray

REWRITABLE = frozenset({"Conv", "Gemm", "MatMul"})
_RELATED = {
    "ConvTranspose": "transposed convolutions are not covered",
    "DeformConv": "deformable convolutions are not covered",
    "ConvInteger": "already quantised",
    "QLinearConv": "already quantised",
    "MatMulInteger": "already quantised",
    "QLinearMatMul": "already quantised",
}
_AUTO_PADS = frozenset({"NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"})


@dataclass(frozen=True, slots=True, eq=False)
class Site:
    """A node that a chain may replace, in normal form.

    ``key`` is unique in the model: the node's output name, behind the scope's path where it is not the main graph.
    ``label`` is the node's own name, or its output where it has none. ``weight`` is the constant as the model holds
    it; :meth:`kernel` reads it in the normal form (T, S / group, *kernel), which for Gemm and MatMul is (out, in).
    ``adds`` says that the node's third input is no bias but something else to add, which a new bias must not replace.
    """

    key: str
    label: str
    op: str
    scope: str
    output: str
    weight: Constant
    geometry: Geometry
    out_channels: int
    in_channels: int
    transposed: bool = False
    scale: float = 1.0
    adds: bool = False

    @property
    def biased(self) -> bool:
        """Whether a chain here may have a bias: a MatMul cannot, and what is added otherwise must stay."""
        return self.op != "MatMul" and not self.adds

    @property
    def dtype(self) -> int:
        """The ``TensorProto`` data type of the weight."""
        return self.weight.dtype

    @property
    def shared_key(self) -> str:
        """Equal for sites that hold the same kernel in the same form."""
        return f"{self.weight.key}|{self.transposed}|{self.scale}|{self.geometry}"

    @property
    def parameters(self) -> int:
        """Weights, without bias."""
        return self.out_channels * self.in_channels // self.geometry.group * self.geometry.taps

    def kernel(self) -> NDArray[np.float64]:
        """Read the kernel, shape (T, S / group, *kernel), float64, scaled by Gemm's alpha.

        Raises
        ------
        PassError
            When the tensor's data cannot be read.
        """
        array = self.weight.array
        if self.transposed:
            array = array.T
        kernel = array.astype(np.float64, order="C")  # one copy: the largest are 0.8 GB
        if self.scale != 1.0:
            kernel *= self.scale
        return kernel


@dataclass(frozen=True, slots=True, eq=False)
class Skipped:
    """A node that stays as it is, and why; ``site`` says what it is where that much is known, for counting."""

    key: str
    label: str
    op: str
    reason: str
    site: Site | None = None


def locate(model: onnx.ModelProto, folder: Path | None = None) -> tuple[tuple[Site, ...], tuple[Skipped, ...]]:
    """Find every site of ``model``, in every scope, in node order; what is skipped is named with its reason.

    ``folder`` is where external data lies; no weight is read.
    """
    constants = Constants(model, folder)
    sites: list[Site] = []
    skipped: list[Skipped] = []
    for scope in scopes(model):
        for node in scope.nodes:
            found = _examine(constants, scope, node)
            if isinstance(found, Site):
                sites.append(found)
            elif found is not None:
                skipped.append(found)
    return tuple(sites), tuple(skipped)


def site_key(scope: Scope, node: onnx.NodeProto) -> str:
    """Name a node for good: by its first output, which no other node of its scope has."""
    output = node.output[0] if node.output else node.name
    return f"{scope.path}:{output}" if scope.path else output


def attribute(node: onnx.NodeProto, name: str, default: object) -> object:
    """Return an attribute's value; a reference to a function's attribute is answered by None."""
    for entry in node.attribute:
        if entry.name == name:
            return None if entry.ref_attr_name else helper.get_attribute_value(entry)
    return default


def _examine(constants: Constants, scope: Scope, node: onnx.NodeProto) -> Site | Skipped | None:
    """Return the node as a site, or why it is none; None for nodes that are no business of ours."""
    refused = _foreign(constants, node)
    if refused is None and (node.domain not in DEFAULT_DOMAINS or node.op_type not in REWRITABLE):
        return None
    key = site_key(scope, node)
    found = refused or _site(constants, scope, node)
    if isinstance(found, str):
        return Skipped(key, node.name or key, node.op_type, found)
    if found.geometry.group > 1 and found.in_channels == found.geometry.group:
        return Skipped(key, node.name or key, node.op_type, "depthwise", found)
    return found


def _foreign(constants: Constants, node: onnx.NodeProto) -> str | None:
    """Return why an operator that is related to the rewritable ones is not one of them."""
    if node.domain in DEFAULT_DOMAINS:
        return _RELATED.get(node.op_type)
    called = any((f.domain, f.name) == (node.domain, node.op_type) for f in constants.model.functions)
    like = any(word in node.op_type for word in ("Conv", "Gemm", "MatMul"))
    return f"operator of the custom domain {node.domain}" if like and not called else None


def _site(constants: Constants, scope: Scope, node: onnx.NodeProto) -> Site | str:
    if len(node.input) < 2:
        return "no weight"
    if any(entry.ref_attr_name for entry in node.attribute):
        return "an attribute is a parameter of the function"
    weight = constants.resolve(scope, node.input[1])
    if isinstance(weight, str):
        return _dynamic_weight(constants, scope, node, weight)
    if weight.dtype not in FLOAT_TYPES or 0 in weight.shape:
        return "weights are not floating-point" if 0 not in weight.shape else "an empty weight"
    build = {"Conv": _conv, "Gemm": _gemm, "MatMul": _matmul}[node.op_type]
    found = build(scope, node, weight)
    return replace(found, adds=True) if isinstance(found, Site) and _adds(constants, scope, node) else found


def _adds(constants: Constants, scope: Scope, node: onnx.NodeProto) -> bool:
    """Whether a node has a third input that is not a constant of one number a channel, the same for every sample."""
    name = node.input[2] if len(node.input) > 2 else ""
    found = constants.resolve(scope, name) if name else None
    return isinstance(found, str) or (found is not None and prod(found.shape[:-1]) != 1)


def _dynamic_weight(constants: Constants, scope: Scope, node: onnx.NodeProto, why: str) -> str:
    if why == "output of DequantizeLinear":
        return "weights behind DequantizeLinear: already quantised"
    if node.op_type == "MatMul" and not isinstance(constants.resolve(scope, node.input[0]), str):
        return "the constant is the left operand"
    return f"dynamic weights ({why})"


def _conv(scope: Scope, node: onnx.NodeProto, weight: Constant) -> Site | str:
    if len(weight.shape) < 3:
        return "a weight without spatial axes"
    geometry = _conv_geometry(node, weight.shape)
    if isinstance(geometry, str):
        return geometry
    if weight.shape[0] % geometry.group:
        return f"{weight.shape[0]} output channels do not divide into {geometry.group} groups"
    return Site(
        key=site_key(scope, node),
        label=node.name or site_key(scope, node),
        op="Conv",
        scope=scope.path,
        output=node.output[0],
        weight=weight,
        geometry=geometry,
        out_channels=weight.shape[0],
        in_channels=weight.shape[1] * geometry.group,
    )


def _conv_geometry(node: onnx.NodeProto, shape: tuple[int, ...]) -> Geometry | str:
    """Read the attributes; SAME pads are resolved where they do not depend on the input size (stride 1)."""
    kernel = shape[2:]
    n = len(kernel)
    group = attribute(node, "group", 1)
    strides = _integers(node, "strides", (1,) * n)
    dilations = _integers(node, "dilations", (1,) * n)
    flat = _integers(node, "pads", (0,) * (2 * n))
    stated = _integers(node, "kernel_shape", kernel)
    if not isinstance(group, int) or group < 1:
        return "a group that is not a positive number"
    if stated != kernel or len(strides) != n or len(dilations) != n or len(flat) != 2 * n:
        return "attributes do not fit the weight's shape"
    if min(strides, default=1) < 1 or min(dilations, default=1) < 1:
        return "strides or dilations below 1"
    raw = attribute(node, "auto_pad", b"NOTSET")
    mode = raw.decode() if isinstance(raw, bytes) else str(raw)
    if mode not in _AUTO_PADS:
        return f"auto_pad {mode!r} is unknown"
    pads = tuple(zip(flat[:n], flat[n:], strict=True)) if mode == "NOTSET" else ((0, 0),) * n
    if min(flat, default=0) < 0:
        return "negative pads"
    if mode in {"SAME_UPPER", "SAME_LOWER"} and set(strides) <= {1}:
        pads = tuple(_same(k, d, upper=mode == "SAME_UPPER") for k, d in zip(kernel, dilations, strict=True))
        mode = "NOTSET"
    return Geometry(kernel, strides, dilations, pads, group, "NOTSET" if mode == "VALID" else mode)


def _same(kernel: int, dilation: int, *, upper: bool) -> tuple[int, int]:
    """Return (begin, end) for a stride of 1, where the total does not depend on the input size."""
    total = (kernel - 1) * dilation
    less = total // 2
    return (less, total - less) if upper else (total - less, less)


def _integers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    value = attribute(node, name, default)
    return tuple(int(v) for v in value) if isinstance(value, (list, tuple)) else default


def _gemm(scope: Scope, node: onnx.NodeProto, weight: Constant) -> Site | str:
    if scope.opset < 7:
        return "Gemm before opset 7"
    if attribute(node, "transA", 0):
        return "Gemm with transA"
    if len(weight.shape) != 2:
        return "a weight that is not a matrix"
    alpha = attribute(node, "alpha", 1.0)
    return _linear(scope, node, weight, transposed=not attribute(node, "transB", 0), scale=float(str(alpha)))


def _matmul(scope: Scope, node: onnx.NodeProto, weight: Constant) -> Site | str:
    if len(weight.shape) != 2:
        return "a weight that is not a matrix"
    return _linear(scope, node, weight, transposed=True, scale=1.0)


def _linear(scope: Scope, node: onnx.NodeProto, weight: Constant, *, transposed: bool, scale: float) -> Site:
    out_channels, in_channels = weight.shape[::-1] if transposed else weight.shape
    return Site(
        key=site_key(scope, node),
        label=node.name or site_key(scope, node),
        op=node.op_type,
        scope=scope.path,
        output=node.output[0],
        weight=weight,
        geometry=Geometry.plain(()),
        out_channels=out_channels,
        in_channels=in_channels,
        transposed=transposed,
        scale=scale,
    )
