"""Tables at every width: one line a row, nothing over the edge, names cut in the middle."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from onnxlr.report.table import Cell, Column, Table, printable, shortened

COLUMNS = (Column("node", shrinks=True), Column("MACs", right=True, spare=1), Column("ranks", right=True))
LONG = "/features/block.12/expand/Conv"
ROWS = ((Cell(LONG), Cell("1.2 G"), Cell("64 64")), (Cell("fc"), Cell("7"), Cell("")))


TABLE = Table(COLUMNS, ROWS)


def lines(width: int, table: Table = TABLE) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width, markup=False, highlight=False).print(table)
    return file.getvalue().splitlines()


def test_what_it_looks_like() -> None:
    assert lines(80) == [
        "node                             MACs  ranks",
        "/features/block.12/expand/Conv  1.2 G  64 64",
        "fc                                  7",
    ]
    assert lines(30) == ["node                     ranks", "/featur..12/expand/Conv  64 64", "fc"]


@given(width=st.integers(30, 120))
def test_one_line_a_row_within_the_width(width: int) -> None:
    found = lines(width)
    assert len(found) == 3
    assert all(cell_len(line) <= width and line == line.rstrip() for line in found)


@given(text=st.text(max_size=60), width=st.integers(8, 40))
def test_shortened_fits_and_keeps_both_ends(text: str, width: int) -> None:
    clean = printable(text)
    cut = shortened(clean, width)
    assert cell_len(cut) <= width
    if cell_len(clean) <= width:
        assert cut == clean


@given(text=st.text())
def test_printable_is_printable(text: str) -> None:
    assert printable(text).isprintable()
    if text.isprintable():
        assert printable(text) == text


@pytest.mark.parametrize("name", ["[bold]x[/bold]", ":tada:", "a[0]", "x\n\x1b[31my"])
def test_names_are_shown_as_they_are(name: str) -> None:
    found = lines(80, Table((Column("node"),), ((Cell(name),),)))
    assert found == ["node", name.replace("\n", "\\n").replace("\x1b", "\\x1b")]
