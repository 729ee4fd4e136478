"""Every scope of a model: its graph, the subgraphs in node attributes at any depth, and local functions.

A scope is where a value name means one thing. Subgraphs (bodies of If, Loop, Scan) also see the names of the scopes
around them; a function sees only its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import onnx

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, MutableSequence

DEFAULT_DOMAINS = frozenset({"", "ai.onnx"})


@dataclass(frozen=True, slots=True, eq=False)
class ScopeIndex:
    """What a scope defines itself, and who reads it there and in the subgraphs below."""

    inputs: frozenset[str]
    outputs: frozenset[str]
    initializers: dict[str, onnx.TensorProto]
    sparse: frozenset[str]
    producers: dict[str, onnx.NodeProto]
    consumers: dict[str, list[onnx.NodeProto]] = field(default_factory=dict)

    def defines(self, name: str) -> bool:
        """Whether ``name`` is an input, an initializer or a node output of the scope."""
        return name in self.producers or name in self.initializers or name in self.inputs or name in self.sparse


@dataclass(frozen=True, slots=True, eq=False)
class Scope:
    """One scope; its lookups answer for the moment :func:`scopes` was called, so call that again after an edit.

    ``path`` is unique and readable: ``""`` for the main graph, ``If_3/then_branch``, ``function my.domain:Block``.
    ``graph`` is None for a function's body and ``function`` for a graph; ``parent`` is the enclosing scope, which the
    main graph and functions do not have; ``owner`` is the node that holds a subgraph. ``opset`` is the version of the
    default domain in force here (functions import their own).
    """

    path: str
    graph: onnx.GraphProto | None
    function: onnx.FunctionProto | None
    parent: Scope | None
    owner: onnx.NodeProto | None
    opset: int
    index: ScopeIndex = field(repr=False)

    @property
    def nodes(self) -> MutableSequence[onnx.NodeProto]:
        """The nodes, in order: the protobuf field itself, so an edit of it edits the model."""
        owner: onnx.GraphProto | onnx.FunctionProto | None = self.graph if self.graph is not None else self.function
        assert owner is not None
        nodes: MutableSequence[onnx.NodeProto] = owner.node
        return nodes

    @property
    def inputs(self) -> frozenset[str]:
        """Names of this scope's declared inputs."""
        return self.index.inputs

    def where(self, name: str) -> Scope | None:
        """Give the innermost scope, this one or one around it, that defines ``name``; None when there is none."""
        scope: Scope | None = self
        while scope is not None and not scope.index.defines(name):
            scope = scope.parent
        return scope

    def producer(self, name: str) -> onnx.NodeProto | None:
        """Give the node that computes ``name`` as seen from here, also when it stands in an enclosing scope."""
        scope = self.where(name)
        return None if scope is None else scope.index.producers.get(name)

    def initializer(self, name: str) -> onnx.TensorProto | None:
        """Give the dense initializer ``name`` of this very scope."""
        return self.index.initializers.get(name)

    def is_sparse_initializer(self, name: str) -> bool:
        """Whether ``name`` is a sparse initializer of this very scope."""
        return name in self.index.sparse

    def is_output(self, name: str) -> bool:
        """Whether ``name`` is a declared output of this very scope."""
        return name in self.index.outputs

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """Give the nodes that read the value ``name`` means here: a node once per use, enclosing and nested ones too.

        A subgraph that hands an outer value out as its own output counts as a use by the node that holds it. The
        output of the defining scope itself does not count: ask :meth:`is_output`.
        """
        scope = self.where(name)
        return [] if scope is None else list(scope.index.consumers.get(name, ()))

    def visible(self) -> set[str]:
        """All value names defined here or around here."""
        names: set[str] = set()
        scope: Scope | None = self
        while scope is not None:
            index = scope.index
            names.update(index.inputs, index.initializers, index.sparse, index.producers)
            scope = scope.parent
        return names


def scopes(model: onnx.ModelProto) -> list[Scope]:
    """List every scope of ``model``: main graph first, each scope before those inside it, functions last."""
    opset = default_opset(model.opset_import)
    paths: set[str] = set()
    found: list[Scope] = []
    main = Scope("", model.graph, None, None, None, 1 if opset is None else opset, _graph_index(model.graph))
    _walk(main, found, paths)
    for function in model.functions:
        label = f"function {function.domain}:{function.name}"
        if function.overload:
            label += f":{function.overload}"
        own = default_opset(function.opset_import)
        index = ScopeIndex(
            frozenset(function.input), frozenset(function.output), {}, frozenset(), _producers(function.node)
        )
        version = main.opset if own is None else own
        _walk(Scope(_unique(label, paths), None, function, None, None, version, index), found, paths)
    for scope in found:
        _count_uses(scope)
    return found


def default_opset(imports: Iterable[onnx.OperatorSetIdProto]) -> int | None:
    """Version of the default domain among ``imports``; None when it is not imported."""
    return next((entry.version for entry in imports if entry.domain in DEFAULT_DOMAINS), None)


def value_names(model: onnx.ModelProto) -> set[str]:
    """Every value name written anywhere in ``model``: a new value must take none of them."""
    names: set[str] = set()
    for scope in scopes(model):
        index = scope.index
        names.update(index.inputs, index.outputs, index.initializers, index.sparse, index.producers)
        for node in scope.nodes:
            names.update(node.input)
    return names - {""}


def fresh_name(wanted: str, taken: set[str]) -> str:
    """Give ``wanted``, or ``wanted_2``, ``wanted_3``, ... when it is taken; the name given is added to ``taken``."""
    return _unique(wanted, taken)


def subgraphs(node: onnx.NodeProto) -> Iterator[tuple[str, onnx.GraphProto]]:
    """Graphs held in the attributes of ``node`` (not deeper), each with the name of its place."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.name, attribute.g
        elif attribute.type == onnx.AttributeProto.GRAPHS:
            for position, graph in enumerate(attribute.graphs):
                yield f"{attribute.name}[{position}]", graph


def _walk(scope: Scope, found: list[Scope], paths: set[str]) -> None:
    found.append(scope)
    for position, node in enumerate(scope.nodes):
        for place, graph in subgraphs(node):
            label = f"{node.name or f'{node.op_type}_{position}'}/{place}"
            path = _unique(f"{scope.path}/{label}" if scope.path else label, paths)
            _walk(Scope(path, graph, None, scope, node, scope.opset, _graph_index(graph)), found, paths)


def _graph_index(graph: onnx.GraphProto) -> ScopeIndex:
    return ScopeIndex(
        inputs=frozenset(value.name for value in graph.input),
        outputs=frozenset(value.name for value in graph.output),
        initializers={tensor.name: tensor for tensor in graph.initializer},
        sparse=frozenset(tensor.values.name for tensor in graph.sparse_initializer),
        producers=_producers(graph.node),
    )


def _producers(nodes: Iterable[onnx.NodeProto]) -> dict[str, onnx.NodeProto]:
    return {name: node for node in nodes for name in node.output if name}


def _count_uses(scope: Scope) -> None:
    for node in scope.nodes:
        for name in node.input:
            _count_use(scope, name, node)
    if scope.owner is not None:
        for name in scope.index.outputs:
            if not scope.index.defines(name):
                _count_use(scope, name, scope.owner)


def _count_use(scope: Scope, name: str, node: onnx.NodeProto) -> None:
    defining = scope.where(name) if name else None
    if defining is not None:
        defining.index.consumers.setdefault(name, []).append(node)


def _unique(wanted: str, taken: set[str]) -> str:
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    taken.add(name)
    return name
