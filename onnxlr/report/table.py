"""Tables of one line a row at any width: columns are left out and names cut in the middle before anything wraps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console, ConsoleOptions, RenderResult

_GAP = 2
_LEAST = 20  # columns of the terminal a name keeps before other columns are left out
_CUT = ".."


@dataclass(frozen=True, slots=True)
class Cell:
    """Text with a style."""

    text: str
    style: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: ``right`` aligns numbers, ``shrinks`` lets long names be cut.

    Where the table is too wide, columns are left out, the highest ``spare`` first; those of 0 always stay.
    """

    head: str
    right: bool = False
    shrinks: bool = False
    spare: int = 0


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of as many cells as there are columns; fits the console that prints it."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Yield one line a row."""
        kept, widths = self._fit(options.max_width)
        yield from self._line([Cell(column.head, "bold") for column in self.columns], kept, widths)
        for row in self.rows:
            yield from self._line(row, kept, widths)

    def _fit(self, width: int) -> tuple[list[int], list[int]]:
        """Return the columns to show and the width of each."""
        natural = [
            max(cell_len(text) for text in (column.head, *(printable(row[index].text) for row in self.rows)))
            for index, column in enumerate(self.columns)
        ]
        kept = list(range(len(self.columns)))
        while True:
            least = [min(natural[i], _LEAST) if self.columns[i].shrinks else natural[i] for i in kept]
            over = sum(least) + _GAP * (len(kept) - 1) - width
            spare = max((self.columns[i].spare for i in kept), default=0)
            if over <= 0 or spare == 0:
                break
            kept = [i for i in kept if self.columns[i].spare < spare]
        room = max(0, -over)
        widths = []
        for i, small in zip(kept, least, strict=True):
            extra = min(room, natural[i] - small)
            room -= extra
            widths.append(small + extra)
        return kept, widths

    def _line(self, row: Sequence[Cell], kept: Sequence[int], widths: Sequence[int]) -> list[Segment]:
        segments: list[Segment] = []
        blank = ""
        for index, width in zip(kept, widths, strict=True):
            cell = row[index]
            text = shortened(printable(cell.text), width)
            padding = " " * (width - cell_len(text))
            before, blank_after = (padding, "") if self.columns[index].right else ("", padding)
            if text:  # what is blank to the end of a line is not printed
                segments += [Segment(blank + before), Segment(text, Style.parse(cell.style))]
                blank = ""
            else:
                blank_after = " " * width
            blank += blank_after + " " * _GAP
        return [*segments, Segment.line()]


def shortened(text: str, width: int) -> str:
    """Cut ``text`` in the middle to ``width`` columns: both ends of a node's name tell."""
    if cell_len(text) <= width:
        return text
    head = max(0, (width - len(_CUT)) // 3)
    tail = max(0, width - len(_CUT) - head)
    end = text[len(text) - tail :] if tail else ""
    return set_cell_size(f"{text[:head]}{_CUT}{end}", width).rstrip()


def printable(text: str) -> str:
    """Return ``text`` as one line that no control character leaves: names come out of files."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
