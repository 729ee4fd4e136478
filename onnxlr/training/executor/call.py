"""A node, and a call of it: what an operator function is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from onnx import helper

from onnxlr.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import onnx
    from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node of an ONNX graph: ``label`` is its name, or its first output where it has none."""

    label: str
    op: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, object]

    def integer(self, name: str, default: int) -> int:
        """Return an integer attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int):
            raise self.refusal(f"its attribute {name} is not an integer")
        return value

    def number(self, name: str, default: float) -> float:
        """Return a floating-point attribute."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int | float):
            raise self.refusal(f"its attribute {name} is not a number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """Return a string attribute."""
        value = self.attributes.get(name, default)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)

    def integers(self, name: str) -> tuple[int, ...] | None:
        """Return a list of integers, or None where the node has no such attribute."""
        value = self.attributes.get(name)
        if value is None:
            return None
        if not isinstance(value, list | tuple):
            raise self.refusal(f"its attribute {name} is not a list")
        return tuple(int(entry) for entry in value)

    def refusal(self, why: str) -> ModelError:
        """Return the error that names this node."""
        return ModelError(f"node {self.label} ({self.op}): {why}", "this model cannot be trained as it is")


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """A node with the values of its inputs; ``training``: BatchNormalization learns from this batch."""

    node: Node
    values: tuple[Tensor | None, ...]
    training: bool = False

    def __getitem__(self, index: int) -> Tensor:
        value = self.get(index)
        if value is None:
            raise self.node.refusal(f"its input {index} is missing")
        return value

    def get(self, index: int) -> Tensor | None:
        """Return an optional input."""
        return self.values[index] if index < len(self.values) else None

    def given(self) -> list[Tensor]:
        """Return all inputs of an operator that takes any number."""
        return [value for value in self.values if value is not None]

    def integers(self, index: int) -> list[int] | None:
        """Return the elements of an optional integer input."""
        value = self.get(index)
        return None if value is None else [int(entry) for entry in value.reshape(-1).tolist()]

    def axes(self, index: int, name: str = "axes") -> list[int] | None:
        """Return a list that older opsets have as an attribute and newer ones as input ``index``."""
        stated = self.node.integers(name)
        return list(stated) if stated is not None else self.integers(index)


Operator: TypeAlias = "Callable[[Call], Tensor | tuple[Tensor, ...]]"


def read_node(node: onnx.NodeProto, opset: int) -> Node:
    """Return a node with its attributes read; graphs in attributes are left as they are."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    label = node.name or next((name for name in node.output if name), node.op_type)
    return Node(label, node.op_type, opset, tuple(node.input), tuple(node.output), attributes)
