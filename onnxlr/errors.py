"""What can go wrong by no fault of onnxlr, with the exit code each maps to. A bug is none of these."""

from __future__ import annotations

from typing import ClassVar


class OnnxlrError(Exception):
    """Something the user can act on: one line saying what and where, and a hint saying what to do next."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        """One line: what and where, then what to do next."""
        return f"{self.message}; {self.hint}" if self.hint else self.message


class UsageError(OnnxlrError):
    """An option or argument that cannot be honoured (exit code 2)."""

    exit_code = 2


class ModelError(OnnxlrError):
    """A model, its data or its target cannot be read, used or written (exit code 3)."""

    exit_code = 3


class BudgetError(OnnxlrError):
    """The asked budget cannot be met; nothing is written (exit code 4)."""

    exit_code = 4


class ValidationError(OnnxlrError):
    """The rewritten model failed its validation; nothing is written (exit code 5)."""

    exit_code = 5
