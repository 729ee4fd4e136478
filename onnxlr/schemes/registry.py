"""Every scheme, and the families they are asked for by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnxlr.errors import UsageError
from onnxlr.schemes.asym3d import Asym3d
from onnxlr.schemes.basis import Basis
from onnxlr.schemes.cp import Cp3, Cp4
from onnxlr.schemes.mixed import Mixed
from onnxlr.schemes.projection import Projection
from onnxlr.schemes.separable import Separable
from onnxlr.schemes.tucker2 import Tucker2Scheme

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.schemes.base import Scheme


def all_schemes() -> tuple[Scheme, ...]:
    """Return every scheme; variants of one family stand together."""
    return (
        Basis(),
        Projection(),
        Separable("vh"),
        Separable("hv"),
        Tucker2Scheme(),
        Cp3(),
        Cp4(),
        Mixed(),
        Asym3d("vh"),
        Asym3d("hv"),
    )


def families() -> tuple[str, ...]:
    """Return the names of all families, in a fixed order."""
    return tuple(dict.fromkeys(scheme.family for scheme in all_schemes()))


def by_family(names: Sequence[str]) -> tuple[Scheme, ...]:
    """Return the schemes of the named families; ``auto`` is all of them.

    Raises
    ------
    UsageError
        When a name is no family.
    """
    for name in names:
        if name != "auto" and name not in families():
            raise UsageError(f"no scheme is called {name!r}", f"choose from: auto, {', '.join(families())}")
    return tuple(scheme for scheme in all_schemes() if "auto" in names or scheme.family in names)


def by_name(name: str) -> Scheme:
    """Return the scheme a plan names.

    Raises
    ------
    UsageError
        When there is none of that name.
    """
    for scheme in all_schemes():
        if scheme.name == name:
            return scheme
    raise UsageError(f"no scheme is called {name!r}", f"choose from: {', '.join(s.name for s in all_schemes())}")
