"""What differs between two models, field by field: the check that a rewrite left alone what it did not rewrite."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

_SHOWN = 60  # characters of a value in a message


def differences(before: onnx.ModelProto, after: onnx.ModelProto, *, rewritten: Collection[str] = ()) -> tuple[str, ...]:
    """Compare two models field by field, unknown fields and order included.

    ``rewritten`` names what may change, vanish or appear: nodes by name or output, initializers, value_info and
    quantization annotations by name, each also with a name that starts with one of these and a slash (what a pass adds
    is named after what it replaces). Nodes in subgraphs and functions are excused alike; inputs and outputs of a graph
    never, but for the input of a named initializer. Each difference is one line,
    ``graph.node[conv1].attribute[pads].ints: [0, 0] became [1, 1]``; elements are keyed by name, nodes by first output.
    """
    return tuple(_messages("", before, after, _Excuse(frozenset(rewritten))))


@dataclass(frozen=True, slots=True)
class _Excuse:
    names: frozenset[str]

    def covers(self, message: Any) -> bool:
        if isinstance(message, onnx.NodeProto):
            return any(self._one(name) for name in (message.name, *message.output))
        if isinstance(message, onnx.TensorProto | onnx.ValueInfoProto):
            return self._one(message.name)
        if isinstance(message, onnx.TensorAnnotation):
            return self._one(message.tensor_name)
        return isinstance(message, onnx.SparseTensorProto) and self._one(message.values.name)

    def _one(self, name: str) -> bool:
        if not name:
            return False
        # "a/b/lr0" is excused by "a/b" and by "a"
        parts = name.split("/")
        return any("/".join(parts[:end]) in self.names for end in range(1, len(parts) + 1))


def _node_key(node: Any) -> str:
    return str(next((name for name in node.output if name), node.name or node.op_type))


def _name(message: Any) -> str:
    return str(message.name)


# How elements of a repeated field are told apart; input and output of a graph as well, their order is compared apart.
_KEYS: dict[str, Callable[[Any], str]] = {
    "NodeProto": _node_key,
    "TensorProto": _name,
    "ValueInfoProto": _name,
    "AttributeProto": _name,
    "SparseTensorProto": lambda message: str(message.values.name),
    "TensorAnnotation": lambda message: str(message.tensor_name),
    "StringStringEntryProto": lambda message: str(message.key),
    "OperatorSetIdProto": lambda message: str(message.domain),
    "FunctionProto": lambda message: ":".join(filter(None, (message.domain, message.name, message.overload))),
}


def _messages(path: str, before: Any, after: Any, excuse: _Excuse) -> Iterator[str]:
    if before.SerializeToString(deterministic=True) == after.SerializeToString(deterministic=True):
        return
    for field in before.DESCRIPTOR.fields:
        here = f"{path}.{field.name}" if path else field.name
        old, new = getattr(before, field.name), getattr(after, field.name)
        if not field.has_presence:  # a repeated field: every single one of ONNX has presence
            if field.message_type is None:
                yield from _scalars(here, list(old), list(new))
            else:
                yield from _elements(here, old, new, _excuse_for(field.name, before, excuse))
        elif before.HasField(field.name) != after.HasField(field.name):
            yield f"{here}: {'appeared' if after.HasField(field.name) else 'vanished'}"
        elif field.message_type is not None:
            yield from _messages(here, old, new, excuse)
        else:
            yield from _scalars(here, old, new)
    if _unknown_fields(before) != _unknown_fields(after):
        yield f"{path or 'model'}: its unknown fields changed"


def _excuse_for(field: str, message: Any, excuse: _Excuse) -> _Excuse:
    """Restrict the excuse for a graph's signature: of it only a listed initializer may go."""
    if not isinstance(message, onnx.GraphProto) or field not in {"input", "output"}:
        return excuse
    if field == "output":
        return _Excuse(frozenset())
    return _Excuse(frozenset(tensor.name for tensor in message.initializer if excuse.covers(tensor)))


def _scalars(path: str, old: Any, new: Any) -> Iterator[str]:
    if isinstance(old, bytes):
        if old != new:
            yield f"{path}: its {len(old)} bytes changed"
    elif repr(old) != repr(new):  # repr: NaN equals itself, and 0.0 is not -0.0
        yield f"{path}: {_short(old)} became {_short(new)}"


def _elements(path: str, before: Sequence[Any], after: Sequence[Any], excuse: _Excuse) -> Iterator[str]:
    old, new = _keyed(before, excuse), _keyed(after, excuse)
    for key in old:
        if key not in new:
            yield f"{path}[{key}]: vanished"
    for key in new:
        if key not in old:
            yield f"{path}[{key}]: appeared"
    for key, element in old.items():
        if key in new:
            yield from _messages(f"{path}[{key}]", element, new[key], excuse)
    order = [key for key in old if key in new]
    if order != [key for key in new if key in old]:
        yield f"{path}: its order changed"


def _keyed(elements: Sequence[Any], excuse: _Excuse) -> dict[str, Any]:
    seen: Counter[str] = Counter()
    keyed: dict[str, Any] = {}
    for position, element in enumerate(elements):
        if excuse.covers(element):
            continue
        key_of = _KEYS.get(element.DESCRIPTOR.name)
        key = str(position) if key_of is None else key_of(element)
        seen[key] += 1
        keyed[key if seen[key] == 1 else f"{key}#{seen[key]}"] = element
    return keyed


def _unknown_fields(message: Any) -> bytes:
    rest = type(message)()
    rest.CopyFrom(message)
    for field in message.DESCRIPTOR.fields:
        rest.ClearField(field.name)
    unknown: bytes = rest.SerializeToString(deterministic=True)
    return unknown


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
