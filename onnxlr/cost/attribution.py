"""Which node of the model a kernel of the optimised session stands for.

ONNX Runtime fuses, changes layouts and renames before it runs. With every node named like its first output
(``name_by_output``) the names in its trace still hold that output, in one of these forms::

    y                                 the node as it is
    y_nchwc                           Conv or pooling in the blocked layout, y being what the fused whole gives
    fused y, y/MatMulAddFusion, ...   a fusion that keeps the name of the node it began with
    InsertedPrecisionFreeCast_y       half precision computed in single
    _inlfunc_F_y, _inlfunc_F_token_3_y  a node of the local function F, inlined

A fused Conv that is named by the output of the Relu behind it is found by walking back from there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx

from onnxlr_passes.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Mapping

_PREFIX = re.compile(r"^(fused |InsertedPrecisionFreeCast_)")
_SUFFIX = re.compile(r"(_nchwc|/\w+Fusion/?|_token_\d+|_\d+)$")
_INLINED = re.compile(r"_token_\d+_|_")
_MAX_AFFIXES = 8


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """A node and the path of the scope it stands in (``""`` for the main graph)."""

    scope: str
    node: onnx.NodeProto

    @property
    def output(self) -> str:
        """First output of the node that has a name: what identifies it in its scope."""
        return node_output(self.node)


Producers = dict[str, Place]


@dataclass(frozen=True, slots=True, eq=False)
class Attribution:
    """Finds nodes by the names of kernels; ``graphs`` indexes the main graph and all bodies, ``functions`` by name."""

    graphs: Producers
    functions: Mapping[str, Producers]

    def find(self, kernel: str, op_type: str) -> Place | None:
        """Find the node that ``kernel``, an ``op_type`` in the trace, stands for; None for one of the runtime's own."""
        for function, producers in self.functions.items():
            inner = kernel.removeprefix(f"_inlfunc_{function}")
            match = _INLINED.match(inner) if inner != kernel else None
            if match:
                return _resolve(inner[match.end() :], op_type, producers)
        return _resolve(kernel, op_type, self.graphs)


def attribution(model: onnx.ModelProto) -> Attribution:
    """Index the nodes of ``model`` by the tensors they produce.

    A tensor name used in both branches of an If counts as the first one's.
    """
    graphs: Producers = {}
    functions: dict[str, Producers] = {}
    for scope in scopes(model):
        producers = graphs if scope.function is None else functions.setdefault(scope.function.name, {})
        for node in scope.nodes:
            for output in node.output:
                producers.setdefault(output, Place(scope.path, node))
    return Attribution(graphs, functions)


def name_by_output(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy the model and give every node, in every scope, the name of its first output."""
    named = onnx.ModelProto()
    named.CopyFrom(model)
    for scope in scopes(named):
        for node in scope.nodes:
            node.name = node_output(node)
    return named


def node_output(node: onnx.NodeProto) -> str:
    """Return the first output of ``node`` that has a name."""
    return next((output for output in node.output if output), "")


def _resolve(kernel: str, op_type: str, producers: Producers) -> Place | None:
    name = kernel
    for _ in range(_MAX_AFFIXES):
        if name and name in producers:
            return _walk_back(producers[name], _family(op_type), producers)
        shorter = _PREFIX.sub("", name)
        name = shorter if shorter != name else _SUFFIX.sub("", name)
    return None


def _walk_back(start: Place, family: frozenset[str], producers: Producers) -> Place:
    """Find the one node of ``family`` whose result reaches ``start`` through others; else ``start`` itself."""
    if not family or start.node.op_type in family:
        return start
    seen = {start.output}
    found: list[Place] = []
    pending = [start]
    while pending:
        for tensor in pending.pop().node.input:
            place = producers.get(tensor) if tensor else None
            if place is None or place.output in seen:
                continue
            seen.add(place.output)
            (found if place.node.op_type in family else pending).append(place)
    return found[0] if len(found) == 1 else start


def _family(op_type: str) -> frozenset[str]:
    """List the operators that a kernel of ``op_type`` may have been before it was fused."""
    if "Conv" in op_type:
        return frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv"})
    if "Gemm" in op_type or "MatMul" in op_type:
        return frozenset({"Gemm", "MatMul"})
    return frozenset()
