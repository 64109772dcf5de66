from __future__ import annotations

import itertools

from report.synthetic import SEVEN
from thalweg.report.palette import looks, swatch


def luminance(colour: str) -> float:
    """WCAG 2.1 relative luminance."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_looks_are_distinct():
    names = [f"o{i}" for i in range(120)]
    assert len({(x.colour, x.dash, x.marker) for x in looks(names).values()}) == 120


def test_the_usual_seven_differ_in_colour_alone_and_their_neighbours_in_dash_too():
    found = looks(SEVEN)
    assert len({x.colour for x in found.values()}) == 7
    assert all(a.dash != b.dash and a.marker != b.marker for a, b in itertools.pairwise(found.values()))


def test_a_look_depends_on_the_place_in_the_plan_alone():
    assert looks(["a", "b", "c"])["b"] == looks(["x", "b"])["b"]


def test_colours_are_seen_on_light_and_on_dark_ground():
    for look in looks([f"o{i}" for i in range(8)]).values():
        on_white = 1.05 / (luminance(look.colour) + 0.05)
        on_dark = (luminance(look.colour) + 0.05) / (luminance("#14171b") + 0.05)
        assert on_white > 2, look
        assert on_dark > 3, look


def test_swatch_draws_line_and_marker():
    look = looks(["a", "b"])["b"]
    drawn = str(swatch(look))
    assert drawn.count(look.colour) == 2
    assert 'stroke-dasharray="7 3"' in drawn
