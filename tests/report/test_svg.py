"""The plot: well-formed, every point inside the frame, nothing of a name left unescaped."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest

from onnxlr.report.svg import HEIGHT, WIDTH, Point, scatter

SVG = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize(
    "points",
    [
        [Point(1.0, 0.0, 0.0, "one", bold=True)],
        [Point(1.0, 0.0, 0.0, "<a>", bold=True), Point(12.5, 3e-4, 1e-4, "b & c", bold=False)],
        [Point(1.0, 2.0, 0.5, "a", bold=True), Point(float("nan"), 2.0, 0.0, "lost", bold=True)],
        [],
    ],
)
def test_points_are_drawn_within_the_frame(points: list[Point]) -> None:
    root = ET.fromstring(scatter("net <x>", "speed", "loss", points))  # noqa: S314 - our own text
    circles = root.findall(f"{SVG}circle")
    assert len(circles) == sum(point.x == point.x for point in points)
    for circle in circles:
        assert 0 < float(circle.attrib["cx"]) < WIDTH
        assert 0 < float(circle.attrib["cy"]) < HEIGHT
    assert len(root.findall(f"{SVG}text")) >= 6


def test_higher_is_further_up_and_faster_further_right() -> None:
    text = scatter("t", "x", "y", [Point(1.0, 0.0, 0.0, "a", bold=True), Point(2.0, 1.0, 0.0, "b", bold=True)])
    low, high = ET.fromstring(text).findall(f"{SVG}circle")  # noqa: S314 - our own text
    assert float(high.attrib["cx"]) > float(low.attrib["cx"])
    assert float(high.attrib["cy"]) < float(low.attrib["cy"])
