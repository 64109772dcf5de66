"""The gallery: pages that a browser shows without an error, pictures that show the numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from report import chromium
from thalweg import claims
from thalweg.claims import gallery
from thalweg.claims.picture import Dots, Lines, alternative, draw

_ROOT = Path(__file__).parents[2]
_SVG = "{http://www.w3.org/2000/svg}"


def _shapes(svg: str, kind: str) -> Iterator[ElementTree.Element]:
    return ElementTree.fromstring(svg).iter(f"{_SVG}{kind}")


def test_dots_stand_where_their_values_are() -> None:
    numbers = {"": [{"a": 1.0, "b": 3.0}, {"a": 2.0, "b": 3.0}]}
    svg = draw(Dots(values={"a": "first", "b": "second"}, axis="length, m"), numbers, "A trial")
    places = [float(dot.get("cx", "")) for dot in _shapes(svg, "circle")]
    one, two, mean, three, same, other = places
    # equal steps of the value are equal steps on the axis
    assert two - one == pytest.approx(three - two, abs=0.3)
    assert mean == pytest.approx((one + two) / 2, abs=0.2)
    assert three == same == other
    texts = [text.text for text in _shapes(svg, "text")]
    assert {"first", "second"} <= set(texts)
    assert any(text and text.startswith("length, m") for text in texts)


def test_a_logarithmic_axis_has_equal_decades() -> None:
    numbers = {"": [{"a": value} for value in (1.0, 10.0, 100.0)]}
    svg = draw(Dots(values={"a": "x"}, axis="x", log=True), numbers, "A trial")
    one, ten, hundred, mean = (float(dot.get("cx", "")) for dot in _shapes(svg, "circle"))
    assert ten - one == pytest.approx(hundred - ten, abs=0.3)
    assert mean == pytest.approx(ten, abs=0.3)


def test_lines_go_through_medians_and_leave_out_what_isnt_finite() -> None:
    rows = [{"y": [0.0, 1.0, float("nan")]}, {"y": [0.0, 3.0, None]}, {"y": [0.0, 2.0, 2.0]}]
    svg = draw(Lines(curves={"y": "y"}, axis="loss", across="steps"), {"": rows}, "A trial")
    *thin, thick = [line.get("points", "").split() for line in _shapes(svg, "polyline")]
    assert [len(points) for points in thin] == [2, 2, 3]
    assert len(thick) == 3
    assert thick[1] == thin[2][1]


def test_what_is_infinite_is_counted_not_drawn() -> None:
    rows = [{"a": 1.0}, {"a": None}, {"a": float("inf")}]
    svg = draw(Dots(values={"a": "x"}, axis="x"), {"": rows}, "A trial")
    assert "2 of 3 not finite" in svg


def test_names_with_signs_of_markup_are_escaped() -> None:
    svg = draw(Dots(values={"a": "x < y & z"}, axis="a < b"), {"p > q": [{"a": 1.0}]}, "A & B")
    assert "x < y & z" in [text.text for text in _shapes(svg, "text")]


def test_alternative_texts_say_the_numbers() -> None:
    picture = Dots(values={"a": "first"}, axis="length")
    said = alternative(picture, {"here": [{"a": 1.0}, {"a": 2.0}]}, "A trial")
    assert said == "A trial. Length: here: first 1.5."


def test_results_and_pages_of_the_docs_agree() -> None:
    """Pages are made of the results that lie beside them, by the rules as they are."""
    folder = _ROOT / "docs" / "claims"
    for name in claims.names():
        place = folder / "results" / f"{name}.json"
        assert place.exists(), f"{name} has no result; measure it: make claims"
        value = json.loads(place.read_text(encoding="utf-8"))
        assert value["digest"] == claims.get(name).digest(), f"{name} has changed; measure it: make claims"
        result = gallery.from_plain(value)
        assert (folder / f"{name}.md").read_text(encoding="utf-8") == gallery.page(result), "make docs"
        assert (folder / f"{name}.svg").read_text(encoding="utf-8") == gallery.picture(result), "make docs"
    pages = {path.stem for path in folder.glob("*.md")} - {"index"}
    assert pages == set(claims.names())


@pytest.mark.browser
@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine")
@pytest.mark.parametrize(("width", "dark"), [(1280, False), (400, True)])
def test_a_browser_shows_the_gallery(tmp_path: Path, width: int, dark: bool) -> None:
    place = tmp_path / "out"
    quiet = claims.ClaimsWatcher()
    claims.run("one-step", "fourth-point", out=place, seeds=8, processes=1, watcher=quiet)
    executable = chromium.find()
    assert executable is not None
    with chromium.Page(executable, width=width, dark=dark) as page:
        page.open(place / "gallery.html")
        assert page.evaluate("[...document.querySelectorAll('h3')].length") == 2
        assert page.evaluate(
            "[...document.querySelectorAll('figure svg')].every(s => s.getBBox().width > 100)"
        )
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        assert page.requests == [(place / "gallery.html").resolve().as_uri()]
        assert page.complaints == []


@pytest.mark.browser
@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine")
def test_a_browser_shows_each_picture_of_the_docs(tmp_path: Path) -> None:
    pictures = sorted((_ROOT / "docs" / "claims").glob("*.svg"))
    assert len(pictures) == len(claims.names())
    page_of_all = tmp_path / "all.html"
    page_of_all.write_text("".join(path.read_text(encoding="utf-8") for path in pictures), encoding="utf-8")
    executable = chromium.find()
    assert executable is not None
    # no text of a picture lies outside of it, and no two texts of one lie on each other
    overlaps = """
    [...document.querySelectorAll('svg')].flatMap(svg => {
      const frame = svg.getBoundingClientRect();
      const boxes = [...svg.querySelectorAll('text')].map(t => [t.textContent, t.getBoundingClientRect()]);
      const out = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1
        || b.bottom > frame.bottom + 1 || b.top < frame.top - 1);
      const on = boxes.filter(([, a], i) => boxes.some(([, b], j) => j > i && a.left < b.right - 2
        && b.left < a.right - 2 && a.top < b.bottom - 3 && b.top < a.bottom - 3));
      const title = svg.querySelector('title').textContent.slice(0, 40);
      return [...out, ...on].map(([text]) => title + ': ' + text);
    })
    """
    with chromium.Page(executable) as page:
        page.open(page_of_all)
        assert page.evaluate(overlaps) == []
        assert page.complaints == []


def test_a_digest_follows_what_is_measured_and_no_text() -> None:
    claim = claims.get("one-step")
    assert replace(claim, about="Another text.", title="Another").digest() == claim.digest()
    for changes in ({"conditions": {"": {}}}, {"quick": claims.Size(seeds=1, changes={"power": 3.0})}):
        assert replace(claim, **changes).digest() != claim.digest()
