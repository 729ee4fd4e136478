"""A scatter plot as an SVG file, drawn with nothing but text."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from math import ceil, floor, isfinite, log10
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, HEIGHT = 640, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 52


@dataclass(frozen=True, slots=True)
class Point:
    """A point with the half-length of its vertical error bar (0: none), and a text to show under the pointer."""

    x: float
    y: float
    error: float
    text: str
    bold: bool


@dataclass(frozen=True, slots=True)
class _Axis:
    """Maps ``low`` to ``start`` and ``high`` to ``end``, in pixels."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values, 3 to 10 of them."""
        step = 10.0 ** floor(log10((self.high - self.low) / 2))
        while (self.high - self.low) / step > 9:
            step *= 2
        return [i * step for i in range(ceil(self.low / step - 1e-9), floor(self.high / step + 1e-9) + 1)]


def scatter(title: str, x_label: str, y_label: str, points: Sequence[Point]) -> str:
    """Return a plot of the finite points; the bold ones are joined by a line, from left to right."""
    shown = [point for point in points if isfinite(point.x) and isfinite(point.y)]
    x = _axis([point.x for point in shown], _LEFT, WIDTH - _RIGHT)
    y = _axis([v for p in shown for v in (p.y - p.error, p.y + p.error)], HEIGHT - _BOTTOM, _TOP)
    line = " ".join(f"{x.at(p.x):.1f},{y.at(p.y):.1f}" for p in sorted(shown, key=lambda p: p.x) if p.bold)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" '
            f'font-size="12" role="img"><title>{escape(title)}</title>'
        ),
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        f'<text x="{WIDTH / 2}" y="20" text-anchor="middle" font-size="14">{escape(title)}</text>',
        *(_x_tick(x.at(value), value) for value in x.ticks()),
        *(_y_tick(y.at(value), value) for value in y.ticks()),
        f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">{escape(x_label)}</text>',
        f'<text transform="translate(16 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(y_label)}</text>',
        f'<polyline points="{line}" fill="none" stroke="#1f6f8b" stroke-width="2"/>',
        *(_mark(x.at(p.x), y.at(p.y), y.at(p.y - p.error), y.at(p.y + p.error), p) for p in shown),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _axis(values: Sequence[float], start: float, end: float) -> _Axis:
    finite = [value for value in values if isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    room = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    return _Axis(low - room, high + room, start, end)


def _x_tick(at: float, value: float) -> str:
    return (
        f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}" stroke="#ddd"/>'
        f'<text x="{at:.1f}" y="{HEIGHT - _BOTTOM + 16}" text-anchor="middle">{value:g}</text>'
    )


def _y_tick(at: float, value: float) -> str:
    return (
        f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#ddd"/>'
        f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>'
    )


def _mark(x: float, y: float, low: float, high: float, point: Point) -> str:
    colour = "#1f6f8b" if point.bold else "#aaa"
    bar = "" if point.error <= 0.0 or not isfinite(point.error) else _bar(x, low, high, colour)
    dot = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 if point.bold else 3}" fill="{colour}">'
    return f"{bar}{dot}<title>{escape(point.text)}</title></circle>"


def _bar(x: float, low: float, high: float, colour: str) -> str:
    return f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}" stroke="{colour}"/>'
