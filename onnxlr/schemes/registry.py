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
from onnxlr.schemes.winograd import Winograd

if TYPE_CHECKING:
    from collections.abc import Sequence

    from onnxlr.schemes.base import Scheme


def all_schemes() -> tuple[Scheme, ...]:
    """Return every scheme of low rank; variants of one family stand together."""
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


def exact_schemes() -> tuple[Scheme, ...]:
    """Return the schemes that keep a layer as it is and only compute it otherwise."""
    return (Winograd(),)


def families() -> tuple[str, ...]:
    """Return the names of all families of low rank, in a fixed order."""
    return tuple(dict.fromkeys(scheme.family for scheme in all_schemes()))


def by_family(names: Sequence[str], *, measured: bool = False) -> tuple[Scheme, ...]:
    """Return the schemes of the named families; ``auto`` is all of them.

    What is exact is part of ``auto`` only where latency is ``measured``: that it has fewer multiplications says little.

    Raises
    ------
    UsageError
        When a name is no family.
    """
    known = (*families(), *(scheme.family for scheme in exact_schemes()))
    for name in names:
        if name != "auto" and name not in known:
            raise UsageError(f"no scheme is called {name!r}", f"choose from: auto, {', '.join(known)}")
    meant = (*(all_schemes() if "auto" in names else ()), *(exact_schemes() if "auto" in names and measured else ()))
    every = (*all_schemes(), *exact_schemes())
    return tuple(scheme for scheme in every if scheme in meant or scheme.family in names)


def by_name(name: str) -> Scheme:
    """Return the scheme a plan names.

    Raises
    ------
    UsageError
        When there is none of that name.
    """
    every = (*all_schemes(), *exact_schemes())
    for scheme in every:
        if scheme.name == name:
            return scheme
    raise UsageError(f"no scheme is called {name!r}", f"choose from: {', '.join(s.name for s in every)}")
