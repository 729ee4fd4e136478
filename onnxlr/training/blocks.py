"""The rewritten layers of a model: what stands where one layer was, and which weights are its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnxlr.training.executor import TorchGraph
    from onnxlr.training.executor.call import Node

_INNER = re.compile(r"/lr(?:\d+_|_concat)")  # how the rewrite names the values inside of a chain
_TILING = re.compile(r"/lr\d+_tile_(?:take_\d|given)")  # what takes and gives tiles: numbers of the algorithm
_LINEAR = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
_SCALED = frozenset({"PRelu", "InstanceNormalization", "LayerNormalization", "GroupNormalization"})


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """A chain: ``output`` is the value that the layer gave too, ``nodes`` its linear maps in order."""

    output: str
    nodes: tuple[Node, ...]
    weights: tuple[str, ...]
    is_cp: bool

    @property
    def factors(self) -> tuple[str, ...]:
        """Names of the linear maps' weights, one per node."""
        return tuple(node.inputs[1] for node in self.nodes)

    @property
    def basis(self) -> str | None:
        """Name of the basis filters, of a ``basis`` chain."""
        first = self.nodes[0]
        return first.inputs[1] if re.search(r"/lr0_basis(_\d+)?$", first.outputs[0]) else None


def find_blocks(graph: TorchGraph) -> tuple[Block, ...]:
    """Find the chains of a rewritten model, in the order they run."""
    inside: dict[str, list[Node]] = {}
    for node in graph.nodes:
        match = _INNER.search(node.outputs[0])
        output = node.outputs[0][: match.start()] if match else node.outputs[0]
        inside.setdefault(output, []).append(node)
    blocks = []
    for output, nodes in inside.items():
        linear = tuple(node for node in nodes if node.op in _LINEAR)
        ends = linear and linear[-1].outputs[0] == output
        if len(linear) > 1 and ends and all(node.inputs[1] in graph.weights for node in linear):
            weights = dict.fromkeys(name for node in linear for name in _weights(node, graph))
            blocks.append(Block(output, linear, tuple(weights), _is_cp(linear, graph)))
    return tuple(blocks)


def trainable(graph: TorchGraph, *, batchnorm: bool) -> tuple[str, ...]:
    """Return the names of all weights that training may change, in the order of the graph.

    Of a convolution by tiles these are its transformed filters.
    """
    from_matmul = {node.outputs[0] for node in graph.nodes if node.op == "MatMul"}
    found: set[str] = set()
    for node in graph.nodes:
        if _TILING.search(node.outputs[0]):
            continue
        if node.op in _LINEAR or node.op in _SCALED:
            found.update(_weights(node, graph))
        elif node.op == "Add" and from_matmul & set(node.inputs):
            found.update(name for name in node.inputs if name in graph.weights)
        elif node.op == "BatchNormalization" and batchnorm:
            found.update(name for name in node.inputs[1:3] if name in graph.weights)
    return tuple(name for name in graph.weights if name in found)


def statistics(graph: TorchGraph) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield the label of every BatchNormalization whose statistics are weights, and their names."""
    for node in graph.nodes:
        if node.op == "BatchNormalization" and set(node.inputs[3:5]) <= set(graph.weights):
            yield node.label, (node.inputs[3], node.inputs[4])


def _weights(node: Node, graph: TorchGraph) -> list[str]:
    return [name for name in node.inputs if name in graph.weights]


def _is_cp(nodes: tuple[Node, ...], graph: TorchGraph) -> bool:
    """Whether depthwise convolutions stand between two pointwise ones, which makes every channel a rank-1 term."""
    if len(nodes) < 3 or any(node.op != "Conv" for node in nodes):
        return False
    shapes = [graph.weight(node.inputs[1]).shape for node in nodes]
    rank = shapes[0][0]
    pointwise = all(shape[2:].numel() == 1 for shape in (shapes[0], shapes[-1]))
    between = zip(nodes[1:-1], shapes[1:-1], strict=True)
    return pointwise and all(node.integer("group", 1) == rank == shape[0] and shape[1] == 1 for node, shape in between)
