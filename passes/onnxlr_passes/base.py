"""What a graph pass is: a frozen dataclass whose fields are its options, from model to model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    import onnx


class PassError(ValueError):
    """A pass cannot work on this model; the message names the pass and the node."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing a pass did, in words: ``node`` is the name (or first output) of the node it concerns."""

    node: str
    what: str


@dataclass(frozen=True, slots=True, eq=False)
class PassResult:
    """A model and, truthfully, every change made to get it; no changes means the model is the input itself."""

    model: onnx.ModelProto
    changes: tuple[Change, ...] = ()

    @property
    def modified(self) -> bool:
        """Whether anything changed."""
        return bool(self.changes)


class Pass(Protocol):
    """A graph pass never changes its argument: it returns it, or a changed copy."""

    @property
    def name(self) -> str:
        """How messages call this pass."""
        ...

    def __call__(self, model: onnx.ModelProto) -> PassResult:
        """Run the pass.

        Raises
        ------
        PassError
            When the model is outside of what the pass can work on.
        """
        ...


def run_passes(model: onnx.ModelProto, passes: Sequence[Pass]) -> PassResult:
    """Run ``passes`` in order; an error names the pass that failed and those that had run."""
    changes: list[Change] = []
    done: list[str] = []
    for one in passes:
        try:
            result = one(model)
        except PassError as error:
            ran = ", ".join(done) or "none"
            raise PassError(f"pass {one.name} failed: {error} (passes already run: {ran})") from error
        model = result.model
        changes.extend(result.changes)
        done.append(one.name)
    return PassResult(model, tuple(changes))
