"""A metric of the user's own, named as module:function."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from onnxlr.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

_HINT = "write it as module:function, a function of (outputs, labels) that can be imported from here"


def load_function(text: str) -> Callable[[Any, Any], float]:
    """Import ``module:function``, looking in the current folder first.

    What the module itself raises, other than being no module, keeps its traceback.

    Raises
    ------
    UsageError
        When there is no such module or function.
    """
    module, _, name = text.partition(":")
    if not module or not name.isidentifier():
        raise UsageError(f"{text!r} names no function", _HINT)
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = getattr(importlib.import_module(module), name, None)
    except (ImportError, SyntaxError) as error:
        raise UsageError(f"cannot import the metric {text}: {' '.join(str(error).split())}", _HINT) from error
    if not callable(found):
        raise UsageError(f"the module {module} has no function {name!r}", _HINT)
    return cast("Callable[[Any, Any], float]", found)
