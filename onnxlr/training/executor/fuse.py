"""Two depthwise convolutions in a row run as one: a pass over the activations less, in both directions.

A CP chain has one along the height and one along the width. A kernel of (h, 1) and one of (1, w) are together the
kernel of (h, w) whose entries are their products; the gradient reaches both through that product.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from onnxlr.training.executor.conv import conv

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import torch
    from torch import Tensor

    from onnxlr.training.executor.call import Call, Node


def fused(nodes: Sequence[Node], shapes: Mapping[str, torch.Size], kept: Collection[str]) -> Iterator[Node]:
    """Yield the nodes of a graph with such pairs replaced by one node each, of type ``ConvPair``.

    Parameters
    ----------
    nodes
        In the order they run.
    shapes
        Shapes of the weights, by name.
    kept
        Values that somebody asks for and that a pair must not swallow.
    """
    uses = Counter(name for node in nodes for name in node.inputs)
    depthwise = [node for node in nodes if _is_depthwise(node, shapes)]
    makers = {node.outputs[0]: node for node in depthwise if uses[node.outputs[0]] == 1 and len(node.inputs) == 2}
    pairs: dict[str, Node] = {}
    gone: set[str] = set()
    for second in depthwise:
        value = second.inputs[0]
        first = makers.get(value)
        if first is None or value in kept or first.inputs[0] in gone or not _apart(first, second, shapes):
            continue
        gone.add(value)
        pairs[second.outputs[0]] = _joined(first, second)
    for node in nodes:
        if node.outputs[0] not in gone:
            yield pairs.get(node.outputs[0], node)


def conv_pair(call: Call) -> Tensor:
    """Run a node made by :func:`fused`: input, both kernels, and the bias of the second."""
    value, first, second, *bias = call.values
    assert first is not None
    assert second is not None
    return conv(replace(call, values=(value, first * second, *bias)))


def _is_depthwise(node: Node, shapes: Mapping[str, torch.Size]) -> bool:
    shape = shapes.get(node.inputs[1]) if node.op == "Conv" else None
    plain = node.text("auto_pad", "NOTSET") == "NOTSET"
    return shape is not None and plain and len(shape) == 4 and node.integer("group", 1) == shape[0] and shape[1] == 1


def _apart(first: Node, second: Node, shapes: Mapping[str, torch.Size]) -> bool:
    """Whether along each axis one of the two does nothing."""
    one, other = _idle(first, shapes), _idle(second, shapes)
    return all(a or b for a, b in zip(one, other, strict=True))


def _idle(node: Node, shapes: Mapping[str, torch.Size]) -> tuple[bool, bool]:
    kernel = shapes[node.inputs[1]][2:]
    strides, dilations = node.integers("strides") or (1, 1), node.integers("dilations") or (1, 1)
    pads = node.integers("pads") or (0, 0, 0, 0)
    height, width = (
        kernel[axis] == strides[axis] == dilations[axis] == 1 and pads[axis] == pads[2 + axis] == 0 for axis in (0, 1)
    )
    return height, width


def _joined(first: Node, second: Node) -> Node:
    """Return the node of a pair: what an axis gets from the one that does something there."""
    attributes: dict[str, object] = {"group": second.integer("group", 1)}
    for name, idle, length in (("strides", 1, 2), ("dilations", 1, 2), ("pads", 0, 4)):
        one, other = (node.integers(name) or (idle,) * length for node in (first, second))
        attributes[name] = tuple(b if a == idle else a for a, b in zip(one, other, strict=True))
    inputs = (first.inputs[0], first.inputs[1], *second.inputs[1:])
    return replace(second, op="ConvPair", inputs=inputs, attributes=attributes)
