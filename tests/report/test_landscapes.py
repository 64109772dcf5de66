"""Pictures of curvature: what they draw lies where the numbers say, and the words say the numbers."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from bokeh.models import ColumnDataSource, Label, MultiLine, MultiPolygons, Span
from bokeh.plotting import figure
from torch import nn

from report import chromium
from thalweg.curvature import (
    Eigenpair,
    ExtremeEigenvalues,
    Interpolation,
    LossSurface,
    NoiseScale,
    SpectralDensity,
    TrajectoryPlane,
)
from thalweg.diagnosis import Setup
from thalweg.diagnosis.facts import gather
from thalweg.diagnosis.signals import signal_of
from thalweg.errors import OptionError
from thalweg.report import caption_of, picture_of, write_picture
from thalweg.report.canvas import canvas
from thalweg.report.numbers import general
from thalweg.report.svg import as_svg

AXIS = np.linspace(-1, 1, 21)
BOWL = np.add.outer(AXIS**2, 4 * AXIS**2) + 0.5
SVG = "{http://www.w3.org/2000/svg}"


def surface(losses: Any = BOWL) -> LossSurface:
    return LossSurface(
        first=AXIS, second=AXIS, losses=losses, scores=np.full_like(losses, np.nan), centre=0.5,
        normalized=True, statistics="estimated", passes=3,
    )  # fmt: skip


def plane() -> TrajectoryPlane:
    return TrajectoryPlane(
        first=AXIS, second=AXIS, losses=BOWL, scores=np.full_like(BOWL, np.nan),
        path=np.array([[0.8, 0.4], [0.3, 0.6], [0.0, 0.0]]), path_losses=np.array([3.0, 2.0, 0.5]),
        off=np.array([0.1, 0.25, 0.0]), shares=(0.7, 0.2), statistics="none", passes=9,
    )  # fmt: skip


def line() -> Interpolation:
    at = np.linspace(-0.25, 1.25, 7)
    return Interpolation(
        at=at, losses=(1 - at) ** 2 + 1, scores=np.full(7, np.nan), distance=2.5, statistics="none", passes=7
    )


def density() -> SpectralDensity:
    return SpectralDensity(
        points=np.array([[-1.0, 0.0, 10.0]]), weights=np.array([[0.1, 0.7, 0.2]]), size=50, products=3
    )


def ends() -> ExtremeEigenvalues:
    def pair(value: float) -> Eigenpair:
        return Eigenpair(value=value, vector=[], residual=0.0, error=0.0, converged=True)

    return ExtremeEigenvalues(
        largest_pairs=(pair(10.5),), smallest_pairs=(pair(-1.5),), products=9, complete=True
    )


def noise(high: float = 40.0, value: float = 20.0) -> NoiseScale:
    return NoiseScale(
        value=value, low=10.0, high=high, trace=20.0, squared_norm=1.0, examples=128.0, batches=8, level=0.95
    )


ALL: tuple[tuple[Any, dict[str, Any]], ...] = (
    (surface(), {}),
    (plane(), {"names": ("start", "result")}),
    (line(), {}),
    (density(), {"ends": ends(), "limit": 12.0}),
    (density(), {"limit": 1e6}),
    (noise(), {"batch_size": 32}),
    (noise(math.inf, math.inf), {"batch_size": 32}),
)


def renderers(plot: figure, kind: type) -> list[Any]:
    return [each for each in plot.renderers if isinstance(each.glyph, kind)]


def test_lines_of_a_surface_have_their_loss_and_areas_lie_above_it() -> None:
    plot = picture_of(surface())
    (lines,) = renderers(plot, MultiLine)
    data = lines.data_source.data
    assert len(data["xs"]) >= 8
    for xs, ys in zip(data["xs"], data["ys"], strict=True):
        # the first direction is across: columns of the losses
        found = 4 * np.array(xs) ** 2 + np.array(ys) ** 2 + 0.5
        assert np.ptp(found) < 0.06
    areas = renderers(plot, MultiPolygons)
    assert len(areas) >= 8
    # the outermost area of all reaches the corners, and the innermost line isn't filled
    for area in areas:
        xs = area.data_source.data["xs"][0]
        ys = area.data_source.data["ys"][0]
        values = [
            4 * x**2 + y**2 + 0.5
            for rings_x, rings_y in zip(xs, ys, strict=True)
            for ring_x, ring_y in zip(rings_x, rings_y, strict=True)
            for x, y in zip(ring_x, ring_y, strict=True)
        ]
        assert min(values) > 0.5
        assert max(values) == pytest.approx(5.5)


def test_what_isnt_finite_is_left_blank() -> None:
    losses = BOWL.copy()
    losses[:, 15:] = np.inf
    plot = picture_of(surface(losses))
    for area in renderers(plot, MultiPolygons):
        for rings in area.data_source.data["xs"][0]:
            assert max(max(ring) for ring in rings) <= AXIS[14] + 1e-9
    assert as_svg(picture_of(surface(np.full_like(BOWL, np.nan))), said="nothing")
    assert as_svg(picture_of(surface(np.full_like(BOWL, 2.0))), said="flat")


def test_a_trajectory_lies_on_its_plane_with_both_ends_named() -> None:
    plot = picture_of(plane(), names=("start", "result"))
    paths = [r for r in plot.renderers if r.data_source.data.get("off")]
    assert paths[0].data_source.data["x"] == [0.8, 0.3, 0.0]
    labels = {each.text: (each.x, each.y) for each in plot.center if isinstance(each, Label)}
    assert labels == {"start": (0.8, 0.4), "result": (0.0, 0.0)}


@pytest.mark.parametrize(
    ("found", "beside", "said"),
    [
        (surface(), {}, ("from 0.5 to 5.5", "each filter moves by its own length", "estimated anew")),
        (plane(), {}, ("holds 90 %", "up to 0.25 off it", "from 3 to 0.5", "distance of 1")),
        (line(), {}, ("distance of 2.5", "rises by 0 ")),
        (density(), {"limit": 12.0}, ("50 eigenvalues", "10 % lie below \N{MINUS SIGN}0.1", "not beyond 12")),
        (density(), {"limit": 2.0}, ("beyond 2,",)),
        (noise(), {"batch_size": 60}, ("20 (95 % interval from 10 to 40)", "makes 75 %")),
        (noise(math.inf), {}, ("without an upper end",)),
    ],
)
def test_captions_say_the_numbers(found: Any, beside: dict[str, Any], said: tuple[str, ...]) -> None:
    text = caption_of(found, **beside)
    for each in said:
        assert each in text


def test_the_curves_of_noise_are_those_of_the_scale_and_its_interval() -> None:
    plot = picture_of(noise(), batch_size=32)
    data = plot.renderers[0].data_source.data
    x = np.array(data["x"])
    np.testing.assert_allclose(data["y"], [noise().progress(b) for b in x])
    np.testing.assert_allclose(data["low"], 1 / (1 + 40 / x))
    np.testing.assert_allclose(data["high"], 1 / (1 + 10 / x))
    falling = plot.renderers[2].data_source.data
    np.testing.assert_allclose(falling["y"], [noise().efficiency(b) for b in x])


def test_a_bound_far_away_is_said_and_a_near_one_is_drawn() -> None:
    near, far = (picture_of(density(), limit=limit) for limit in (12.0, 1e6))
    assert near.x_range.end > 12.0
    assert far.x_range.end < 20.0
    (label,) = (each for each in far.center if isinstance(each, Label))
    assert "10⁶" in label.text


# As SVG --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("found", "beside"), ALL)
def test_an_svg_is_small_and_says_what_it_shows(found: Any, beside: dict[str, Any], tmp_path: Path) -> None:
    place = write_picture(found, tmp_path / "picture.svg", **beside)
    text = place.read_text(encoding="utf-8")
    assert len(text) < 30_000
    root = ElementTree.fromstring(text)
    words = {key: value for key, value in beside.items() if key in ("limit", "batch_size")}
    title = root.find(f"{SVG}title")
    assert title is not None
    assert title.text == caption_of(found, **words)
    assert root.get("role") == "img"
    assert "nan" not in text.replace("anew", "")
    # nothing is fetched, and no ground is painted
    assert "href" not in text
    assert not [each for each in root.iter(f"{SVG}rect") if each.get("fill")]


def test_an_svg_places_what_it_draws_by_the_axes() -> None:
    plot = canvas(height=300, x="x", y="y", y_axis_type="log", x_range=(0.0, 10.0), y_range=(1.0, 100.0))
    source = ColumnDataSource({"x": [0.0, 5.0, 10.0], "y": [1.0, 10.0, 1.0]})
    plot.line("x", "y", source=source, line_color="#123456")
    plot.add_layout(Span(location=5.0, dimension="height", line_color="#654321"))
    root = ElementTree.fromstring(as_svg(plot, said="a tip", width=640))
    ways = {each.get("stroke"): each.get("d") or "" for each in root.iter(f"{SVG}path")}
    numbers = [float(each) for each in re.findall(r"-?[\d.]+", ways["#123456"])]
    left, right, top, bottom = 66.0, 626.0, 12.0, 254.0
    assert numbers[:2] == [left, bottom]
    assert numbers[2:] == [(right - left) / 2, -(bottom - top) / 2, (right - left) / 2, (bottom - top) / 2]
    assert ways["#654321"].startswith(f"M{(left + right) / 2:g} ")
    texts = [each.text for each in root.iter(f"{SVG}text")]
    assert {"1", "10", "100", "x", "y"} <= set(texts)


def test_a_line_as_svg_is_as_coarse_as_the_eye_allows() -> None:
    plot = canvas(height=300, x="x", y="y", x_range=(0.0, 1.0), y_range=(-1.0, 1.0))
    x = np.linspace(0, 1, 2000)
    y = np.sin(6 * x)
    plot.line("x", "y", source=ColumnDataSource({"x": x.tolist(), "y": y.tolist()}), line_color="#123456")
    root = ElementTree.fromstring(as_svg(plot, said="a wave"))
    (way,) = (each.get("d") for each in root.iter(f"{SVG}path") if each.get("stroke") == "#123456")
    assert way is not None
    numbers = np.array([float(each) for each in re.findall(r"-?[\d.]+", way)]).reshape(-1, 2)
    points = np.cumsum(numbers, axis=0)
    assert len(points) < 60
    # in pixels back to values
    back_x, back_y = (points[:, 0] - 66) / 560, 1 - (points[:, 1] - 12) / 121
    assert np.abs(np.sin(6 * back_x) - back_y).max() < 0.02
    between = np.interp(x, back_x, back_y)
    assert np.abs(between - y).max() * 121 < 1.0


def test_a_line_breaks_where_it_isnt_finite() -> None:
    plot = canvas(height=300, x="x", y="y", x_range=(0.0, 1.0), y_range=(0.0, 1.0))
    source = ColumnDataSource({"x": [0.0, 0.2, 0.5, 0.8, 1.0], "y": [0.1, 0.2, math.nan, 0.4, 0.1]})
    plot.line("x", "y", source=source, line_color="#123456")
    root = ElementTree.fromstring(as_svg(plot, said="a gap"))
    (way,) = (each.get("d") for each in root.iter(f"{SVG}path") if each.get("stroke") == "#123456")
    assert way is not None
    assert way.count("M") == 2


def test_what_each_layer_lets_through_is_drawn_alone_too(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    x = torch.randn(60, 3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    signal = signal_of(gather(Setup.of(model, (x, x[:, :1]), nn.MSELoss(), optimizer), seed=0))
    assert signal is not None
    text = write_picture(signal, tmp_path / "layers.svg").read_text(encoding="utf-8")
    assert general(signal.ratio) in text
    assert "0.weight" in text
    lines = [each.data_source.data["y"] for each in picture_of(signal).renderers][::2]
    assert lines == [signal.spreads, signal.slopes]


def test_another_ending_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"\.html or \.svg"):
        write_picture(line(), tmp_path / "picture.png")
    with pytest.raises(OptionError, match="can't be written"):
        write_picture(line(), tmp_path / "nowhere" / "picture.svg")


@pytest.mark.browser
@pytest.mark.skipif(chromium.find() is None, reason="no Chromium on this machine")
def test_pages_open_from_disk_and_complain_of_nothing(tmp_path: Path) -> None:
    executable = chromium.find()
    assert executable is not None
    with chromium.Page(executable) as page:
        for number, (found, beside) in enumerate(ALL[:1]):
            place = write_picture(found, tmp_path / f"{number}.html", title="<b>", **beside)
            page.open(place)
            assert page.evaluate("document.querySelector('h1').textContent") == "<b>"
        assert page.complaints == []
        assert len(page.requests) == 1
