"""Remove what a rewrite left without a use, and nothing that was unused before it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

from onnxlr_passes.base import Change, PassResult
from onnxlr_passes.scopes import scopes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from onnxlr_passes.scopes import Scope


@dataclass(frozen=True, slots=True)
class Cleanup:
    """Remove those of ``candidates`` (value names a rewrite orphaned) that nothing reads any more, in any scope.

    An initializer goes with its entry in the main graph's inputs, a node when none of its outputs is read, and then
    what only it read. Descriptions (value_info, quantization annotations) of values that are gone go too. Everything
    else stays, used or not: it is the model's own.
    """

    candidates: frozenset[str]

    @property
    def name(self) -> str:
        """How messages call this pass."""
        return "cleanup"

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Give a copy of ``model`` without its orphans, or ``model`` itself when there are none."""
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        changes = remove_orphans(copy, self.candidates)
        return PassResult(copy, tuple(changes)) if changes else PassResult(model)


def remove_orphans(model: onnx.ModelProto, candidates: Collection[str]) -> list[Change]:
    """Do what :class:`Cleanup` does, in place: for a pass that already works on its own copy."""
    names = frozenset(candidates) - {""}
    everywhere = scopes(model)
    orphans = _Orphans(everywhere)
    for scope in everywhere:
        for name in sorted(names):
            if scope.where(name) is scope:
                orphans.visit(scope, name)
    changes = [change for scope in everywhere for change in _apply(scope, orphans)]
    # The applied removals are not in the scopes' lookups: ask the orphans what is gone beside what was never there.
    for scope in (scope for scope in everywhere if not orphans.took(scope)):
        gone = orphans.values.get(scope.path, set()) | {name for name in names if scope.where(name) is None}
        changes.extend(_remove_descriptions(scope, gone))
    return changes


@dataclass(frozen=True, slots=True, eq=False)
class _Orphans:
    """What is to go, decided before anything is removed; nodes by identity, values by the path of their scope."""

    everywhere: list[Scope]
    nodes: dict[int, onnx.NodeProto] = field(default_factory=dict)
    values: dict[str, set[str]] = field(default_factory=dict)

    def visit(self, scope: Scope, name: str) -> None:
        """Mark ``name``, a value of ``scope``, when nothing reads it, and then whatever only it needed."""
        waiting = [(scope, name)]
        while waiting:
            home, value = waiting.pop()
            if self._is_read(home, value):
                continue
            node = home.producer(value)
            if node is not None:
                outputs = [output for output in node.output if output]
                if id(node) not in self.nodes and not any(self._is_read(home, output) for output in outputs):
                    self.values.setdefault(home.path, set()).update(outputs)
                    waiting.extend(self._remove(home, node))
            elif value not in home.inputs or (home.parent is None and home.initializer(value) is not None):
                self.values.setdefault(home.path, set()).add(value)

    def took(self, scope: Scope) -> bool:
        """Whether ``scope`` is a subgraph that goes with the node that holds it."""
        inner: Scope | None = scope
        while inner is not None and not (inner.owner is not None and id(inner.owner) in self.nodes):
            inner = inner.parent
        return inner is not None

    def _is_read(self, home: Scope, value: str) -> bool:
        return home.is_output(value) or any(id(node) not in self.nodes for node in home.consumers(value))

    def _remove(self, home: Scope, node: onnx.NodeProto) -> Iterator[tuple[Scope, str]]:
        self.nodes[id(node)] = node
        read = [(home, value) for value in node.input]
        for scope in self.everywhere:
            if _is_inside(scope, node):
                for inner in scope.nodes:
                    self.nodes[id(inner)] = inner
                    read.extend((scope, value) for value in inner.input)
                read.extend((scope, value) for value in scope.index.outputs)
        for scope, value in read:
            defining = scope.where(value) if value else None
            if defining is not None and not _is_inside(defining, node):
                yield defining, value


def _is_inside(scope: Scope, node: onnx.NodeProto) -> bool:
    inner: Scope | None = scope
    while inner is not None and inner.owner is not node:
        inner = inner.parent
    return inner is not None


def _apply(scope: Scope, orphans: _Orphans) -> Iterator[Change]:
    if orphans.took(scope):
        return
    for position in reversed(range(len(scope.nodes))):
        node = scope.nodes[position]
        if id(node) in orphans.nodes:
            yield Change(node.name or next(filter(None, node.output), ""), f"{node.op_type} removed: nothing reads it")
            del scope.nodes[position]
    values = orphans.values.get(scope.path, set())
    if scope.graph is not None and values:
        yield from _remove_tensors(scope.graph, values, listed=scope.parent is None)


def _remove_tensors(graph: onnx.GraphProto, values: set[str], *, listed: bool) -> Iterator[Change]:
    for tensors in (graph.initializer, graph.sparse_initializer):
        for position in reversed(range(len(tensors))):
            tensor = tensors[position]
            name = tensor.values.name if isinstance(tensor, onnx.SparseTensorProto) else tensor.name
            if name in values:
                yield Change(name, "initializer removed: nothing reads it")
                del tensors[position]
    for position in reversed(range(len(graph.input))) if listed else ():
        name = graph.input[position].name
        if name in values:
            yield Change(name, "input of a removed initializer removed")
            del graph.input[position]


def _remove_descriptions(scope: Scope, gone: set[str]) -> Iterator[Change]:
    owner = scope.graph if scope.graph is not None else scope.function
    assert owner is not None
    for position in reversed(range(len(owner.value_info))):
        if owner.value_info[position].name in gone:
            yield Change(owner.value_info[position].name, "value_info of a value that is gone removed")
            del owner.value_info[position]
    if scope.graph is None:
        return
    annotations = scope.graph.quantization_annotation
    for position in reversed(range(len(annotations))):
        if annotations[position].tensor_name in gone:
            yield Change(annotations[position].tensor_name, "quantization annotation of a value that is gone removed")
            del annotations[position]
