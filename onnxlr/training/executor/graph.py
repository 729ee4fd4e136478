"""An ONNX graph as a torch module whose parameters are the graph's own weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from onnx import TensorProto, inliner
from torch import Tensor, nn

from onnxlr.errors import ModelError
from onnxlr.training.executor.call import Call, Node, read_node
from onnxlr.training.executor.constants import to_torch
from onnxlr.training.executor.fuse import conv_pair, fused
from onnxlr.training.executor.table import operators
from onnxlr_passes.scopes import DEFAULT_DOMAINS, default_opset

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    import onnx

    from onnxlr.training.executor.call import Operator

OLDEST = 7
"""The first opset whose operators broadcast as they do today."""


class Steps:
    """Nodes in the order they run, their functions, and after which of them a value is used no more."""

    def __init__(self, nodes: tuple[Node, ...], table: Mapping[str, Operator]) -> None:
        self.nodes = nodes
        self.calls = tuple(table[node.op] for node in nodes)
        self.last = {name: at for at, node in enumerate(nodes) for name in node.inputs}


class TorchGraph(nn.Module):
    """The main graph of ``proto``, run node by node; everything stays where autograd can see it.

    Floating-point initializers are parameters under their own names (see :meth:`weight`), initially without gradient;
    all other initializers are constants. Local functions are inlined. Running statistics of BatchNormalization are
    among the parameters and are changed in place when ``learning`` holds the node's label.

    Raises
    ------
    ModelError
        When an operator is not covered, with the name of the node, or the opset is too old.
    """

    def __init__(self, proto: onnx.ModelProto, folder: Path | None = None) -> None:
        super().__init__()
        opset = default_opset(proto.opset_import) or 1
        if opset < OLDEST:
            raise ModelError(f"the model is of opset {opset}", f"convert it to opset {OLDEST} or later first")
        graph = inliner.inline_local_functions(proto).graph if proto.functions else proto.graph
        self.inputs = tuple(value.name for value in graph.input)
        self.outputs = tuple(value.name for value in graph.output)
        self.learning: frozenset[str] = frozenset()
        self._constants: dict[str, Tensor] = {}
        self._slots: dict[str, str] = {}
        self._read(graph, folder)
        self.inputs = tuple(name for name in self.inputs if name not in self._slots and name not in self._constants)
        table = operators()
        self.nodes: tuple[Node, ...] = tuple(_checked(node, opset) for node in graph.node)
        missing = [node for node in self.nodes if node.op not in table]
        if missing:
            raise ModelError(
                f"node {missing[0].label}: the operator {missing[0].op} is not among those that can be trained",
                "train it in the framework it came from",
            )
        self._plain = Steps(self.nodes, table)
        shapes = {name: self.weight(name).shape for name in self._slots}
        quick = tuple(fused(self.nodes, shapes, self.outputs))
        self._quick = Steps(quick, {**table, "ConvPair": conv_pair})
        self._swallowed = {name for node in self.nodes for name in node.outputs}
        self._swallowed -= {name for node in quick for name in node.outputs}

    def weight(self, name: str) -> nn.Parameter:
        """Return the parameter of a floating-point initializer."""
        return self.get_parameter(self._slots[name])

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the floating-point initializers, in the order of the graph."""
        return tuple(self._slots)

    def forward(
        self, feeds: Mapping[str, Tensor], wanted: Collection[str] = (), cut: Collection[str] = ()
    ) -> dict[str, Tensor]:
        """Run the graph.

        Parameters
        ----------
        feeds
            The inputs by name, and nothing else.
        wanted
            Names of the values to give; by default the graph's outputs.
        cut
            Values that are handed on detached, so that no gradient goes through them to what comes before. What is
            returned under such a name is not detached.
        """
        wanted = frozenset(wanted or self.outputs)
        steps = self._quick if self._swallowed.isdisjoint((*wanted, *cut)) else self._plain
        known: dict[str, Tensor] = {"": torch.empty(0), **self._constants}
        known.update((name, _laid_out(value)) for name, value in feeds.items())
        known.update((name, self.get_parameter(slot)) for name, slot in self._slots.items())
        found = {name: known[name] for name in wanted if name in known}
        for at, (node, call) in enumerate(zip(steps.nodes, steps.calls, strict=True)):
            values = tuple(known[name] if name else None for name in node.inputs)
            made = call(Call(node, values, node.label in self.learning))
            for name, value in zip(node.outputs, made if isinstance(made, tuple) else (made,), strict=False):
                if name in wanted:
                    found[name] = value
                known[name] = value.detach() if name in cut else value
            for name in node.inputs:
                if name and steps.last[name] == at and name not in self._slots:
                    known.pop(name, None)
            if len(found) == len(wanted):
                break
        return found

    def _read(self, graph: onnx.GraphProto, folder: Path | None) -> None:
        if graph.sparse_initializer:
            raise ModelError("the model has sparse weights", "make them dense first")
        for tensor in graph.initializer:
            value = to_torch(tensor, folder)
            if value is None:
                kind = TensorProto.DataType.Name(tensor.data_type)
                raise ModelError(f"initializer '{tensor.name}' is of type {kind}", "this model cannot be trained")
            if value.is_floating_point():
                slot = f"w{len(self._slots)}"
                self._slots[tensor.name] = slot
                self.register_parameter(slot, nn.Parameter(value, requires_grad=False))
            else:
                self._constants[tensor.name] = value


def _laid_out(value: Tensor) -> Tensor:
    """Return an image batch with its channels innermost: depthwise and 1x1 convolutions are faster on that."""
    return value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value


def _checked(node: onnx.NodeProto, opset: int) -> Node:
    read = read_node(node, opset)
    if node.domain not in DEFAULT_DOMAINS:
        raise ModelError(
            f"node {read.label}: the operator {node.domain}.{node.op_type} is not among those that can be trained",
            "train it in the framework it came from",
        )
    return read
