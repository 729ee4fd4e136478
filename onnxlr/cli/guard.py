"""Errors a user can act on become one line and an exit code; a bug keeps its traceback."""

from __future__ import annotations

from functools import wraps
from typing import TYPE_CHECKING, ParamSpec

import typer

from onnxlr.errors import OnnxlrError

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
INTERRUPTED = 130


def guard(command: Callable[P, int | None]) -> Callable[P, None]:
    """Wrap a command: what it returns is its exit code, None for 0."""

    @wraps(command)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            code = command(*args, **kwargs)
        except OnnxlrError as error:
            typer.echo(f"onnxlr: {_one_line(str(error))}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("onnxlr: interrupted; no file was left half-written", err=True)
            raise typer.Exit(INTERRUPTED) from None
        raise typer.Exit(code or 0)

    return guarded


def _one_line(text: str) -> str:
    """Escape control characters: names in messages come out of files."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
