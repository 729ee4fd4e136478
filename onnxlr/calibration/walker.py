"""Run a model piece by piece over a calibration set, each node once, while its layers are being replaced.

A refit needs the input of every layer in the network rewritten so far. Running that network from its inputs again for
every layer costs as many forward passes as there are layers; walking it costs one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx
from onnx import helper

from onnxlr.calibration.store import Column, Shelf, Store
from onnxlr.model_io import runnable
from onnxlr.target import run
from onnxlr_passes.decompose import Decompose
from onnxlr_passes.scopes import DEFAULT_DOMAINS, subgraphs

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    import numpy as np

    from onnxlr.calibration.memory import Memory
    from onnxlr.target import Feeds, Target
    from onnxlr_passes.chain import Chain

    Array = np.ndarray[Any, np.dtype[Any]]

# What may stand between a stored tensor and a weight; a weight must stay a constant in every piece that reads it.
_FIXED = frozenset(
    {"Cast", "Constant", "ConstantOfShape", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)


class Walker:
    """The state of a walk: ``known`` tensors by name, one array per batch, and the nodes still to run.

    Arrays beyond a part of ``memory`` are on disk, and read at every look. Only tensors that a node not yet run will
    read are kept, and those named in ``hold``. Constants are not among them: they are part of every piece that reads
    them.
    """

    def __init__(
        self,
        model: onnx.ModelProto,
        folder: Path | None,
        target: Target,
        batches: Sequence[Feeds],
        memory: Memory,
    ) -> None:
        self.known: dict[str, Sequence[Array]] = {name: Column(batches, name) for name in batches[0]}
        self.hold: set[str] = set()
        self._store = Store(memory.activations)
        self._model = model
        self._folder = folder
        self._target = target
        self._batches = len(batches)
        self._chains: dict[str, Chain] = {}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._fixed = fixed_nodes(model.graph)
        self._left = [node for node in model.graph.node if node.output[0] not in self._fixed]

    def replace(self, key: str, chain: Chain) -> None:
        """From now on run ``chain`` where the site ``key`` stands; it must not have run yet."""
        self._chains[key] = chain

    def needs(self, name: str) -> set[str]:
        """Return the outputs of all nodes that would have to run to know ``name``."""
        return {output for node in self._segment([name]) for output in node.output}

    def advance(self, names: Sequence[str]) -> None:
        """Run what is needed to know ``names``, and no more."""
        segment = self._segment([name for name in names if name not in self.known])
        if segment:
            taken = {id(node) for node in segment}
            self._left = [node for node in self._left if id(node) not in taken]
            later = self._later()
            made = [output for node in segment for output in node.output if output]
            outputs = [output for output in made if output in later or output in names]
            self.known.update(zip(outputs, self._made(segment, outputs, self._chains), strict=True))
        self._drop(keep=names)

    def outcome(self, names: Sequence[str], chains: Mapping[str, Chain]) -> list[list[Array]]:
        """Return what ``names`` would be, batch by batch, with ``chains`` at sites not yet run; the walk stays here."""
        missing = [name for name in names if name not in self.known]
        shelves = self._made(self._segment(missing), missing, self._chains | dict(chains))
        made = {name: list(shelf) for name, shelf in zip(missing, shelves, strict=True)}
        for shelf in shelves:
            shelf.clear()
        return [made[name] if name in made else list(self.known[name]) for name in names]

    def _drop(self, keep: Sequence[str]) -> None:
        later = self._later() | set(keep)
        for name in [name for name in self.known if name not in later]:
            dropped = self.known.pop(name)
            if isinstance(dropped, Shelf):
                dropped.clear()

    def _later(self) -> set[str]:
        outputs = {value.name for value in self._model.graph.output}
        return {name for node in self._left for name in reads(node)} | outputs | self.hold

    def _segment(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        producers = {output: node for node in self._left for output in node.output if output}
        stack, wanted = list(names), set()
        while stack:
            name = stack.pop()
            node = producers.get(name)
            if name in self.known or node is None or id(node) in wanted:
                continue
            wanted.add(id(node))
            stack.extend(reads(node))
        return [node for node in self._left if id(node) in wanted]

    def _made(
        self, segment: Sequence[onnx.NodeProto], outputs: Sequence[str], chains: Mapping[str, Chain]
    ) -> list[Shelf]:
        """Run ``segment`` over all batches; returns its ``outputs``."""
        made = {output for node in segment for output in node.output}
        segment = [*_behind(segment, self._fixed), *segment]
        used = dict.fromkeys(name for node in segment for name in sorted(reads(node)) if name not in made)
        feeds = [name for name in used if name in self.known]
        piece = onnx.ModelProto(ir_version=max(self._model.ir_version, 4), opset_import=self._model.opset_import)
        piece.functions.extend(self._model.functions)
        piece.graph.name = "segment"
        piece.graph.node.extend(segment)
        piece.graph.initializer.extend(self._constants[name] for name in used if name in self._constants)
        sparse = self._model.graph.sparse_initializer
        piece.graph.sparse_initializer.extend(one for one in sparse if one.values.name in used)
        for name in feeds:
            first = self.known[name][0]
            element = helper.np_dtype_to_tensor_dtype(first.dtype)
            piece.graph.input.append(helper.make_tensor_value_info(name, element, [None] * first.ndim))
        piece.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        piece = Decompose({key: chain for key, chain in chains.items() if key in made}, self._folder)(piece).model
        with runnable(piece, self._folder) as source:
            session = self._target.session(source)
        shelves = [Shelf(self._store) for _ in outputs]
        for i in range(self._batches):
            found = run(session, {name: self.known[name][i] for name in feeds})
            for shelf, array in zip(shelves, found, strict=True):
                shelf.append(array)
        return shelves


def fixed_nodes(graph: onnx.GraphProto) -> dict[str, onnx.NodeProto]:
    """Return the nodes that reshape or convert stored tensors only, by output."""
    known = {tensor.name for tensor in graph.initializer}
    found: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.domain in DEFAULT_DOMAINS and node.op_type in _FIXED and {n for n in node.input if n} <= known:
            found[node.output[0]] = node
            known.add(node.output[0])
    return found


def _behind(segment: Sequence[onnx.NodeProto], fixed: Mapping[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Return the fixed nodes a segment reads, those they read included, in order."""
    wanted: set[str] = set()
    stack = [name for node in segment for name in reads(node)]
    while stack:
        name = stack.pop()
        if name in fixed and name not in wanted:
            wanted.add(name)
            stack.extend(fixed[name].input)
    return [node for name, node in fixed.items() if name in wanted]


def reads(node: onnx.NodeProto) -> set[str]:
    """Return every name a node reads, those its subgraphs capture included."""
    names = {name for name in node.input if name}
    for _, graph in subgraphs(node):
        own = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
        for inner in graph.node:
            names |= reads(inner) - own
            own.update(inner.output)
        names |= {value.name for value in graph.output} - own
    return names
