"""How an optimizer looks: one colour, dash and marker, the same in every picture and table.

Colours are those of Okabe and Ito (2008), told apart under the common kinds of colour blindness; black
is a middle grey here and yellow is darker, since the page has light and dark grounds. Beyond eight
optimizers colours repeat with another dash and another marker.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

__all__ = ["Look", "looks", "swatch"]

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9", "#808080", "#b3a100")
_DASHES: tuple[tuple[int, ...], ...] = ((), (7, 3), (2, 2), (8, 3, 2, 3), (12, 3))
# The star is left for the library's default setting and the cross for runs that diverged.
_MARKERS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex")
_SHAPES = {
    "circle": "M3.6 0A3.6 3.6 0 1 1-3.6 0A3.6 3.6 0 1 1 3.6 0Z",
    "square": "M-3.3-3.3H3.3V3.3H-3.3Z",
    "triangle": "M0-4.2L4.2 3.2H-4.2Z",
    "diamond": "M0-4.6L3.8 0L0 4.6L-3.8 0Z",
    "inverted_triangle": "M0 4.2L4.2-3.2H-4.2Z",
    "hex": "M4 0L2-3.5H-2L-4 0L-2 3.5H2Z",
}


@dataclass(frozen=True)
class Look:
    """Colour, line dash (empty: solid) and marker."""

    colour: str
    dash: tuple[int, ...]
    marker: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """Give each name its look, by its place in the plan.

    Args:
        names: optimizers in the plan's order; looks are distinct for up to 120 of them.

    >>> looks(["sgd", "adam"])["adam"]
    Look(colour='#e69f00', dash=(7, 3), marker='square')
    """
    result = {}
    for i, name in enumerate(names):
        turn = i // len(_COLOURS)
        result[name] = Look(
            colour=_COLOURS[i % len(_COLOURS)],
            dash=_DASHES[(i + turn) % len(_DASHES)],
            marker=_MARKERS[i % len(_MARKERS)],
        )
    return result


def swatch(look: Look) -> Markup:
    """Draw the look as a small inline picture: a stretch of its line with its marker on it."""
    dash = " ".join(str(length) for length in look.dash)
    return Markup(
        '<svg class="swatch" width="30" height="12" viewBox="-15 -6 30 12" aria-hidden="true">'
        f'<path d="M-14 0H14" stroke="{look.colour}" stroke-width="2" stroke-dasharray="{dash}"/>'
        f'<path d="{_SHAPES[look.marker]}" fill="{look.colour}"/></svg>'
    )
