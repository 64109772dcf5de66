"""What holds for every surface: its formula, its derivatives, and everything listed about it."""

from __future__ import annotations

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.func import grad, jacrev, vmap

from test_problems.surfaces import twins
from test_problems.surfaces.derivatives import hessian
from thalweg.errors import OptionError
from thalweg.test_problems import surfaces
from thalweg.test_problems.surfaces import LeastSquares, Point, Surface

VARIANTS = [
    *((name, {}) for name in surfaces.names()),
    *(("chebyquad", {"n": n}) for n in (1, 2, 3, 4, 5, 6, 7, 9, 10)),
    *((name, {"n": n}) for name in ("broyden-tridiagonal", "broyden-banded") for n in (1, 3, 40)),
    *((name, {"n": n}) for name in ("discrete-boundary-value", "discrete-integral") for n in (1, 2, 33)),
    *(("brown-almost-linear", {"n": n}) for n in (2, 3, 4, 5)),
    *((name, {"n": 10}) for name in ("penalty-1", "penalty-2")),
    *(("watson", {"n": n}) for n in (9, 12)),
    ("penalty-1", {"n": 1}),
    ("chained-rosenbrock", {"n": 4}),
    ("extended-rosenbrock", {"n": 100}),
    ("extended-powell-singular", {"n": 20}),
    ("linear-full-rank", {"n": 6, "m": 6}),
    ("linear-rank-1", {"n": 3, "m": 20}),
    ("linear-rank-1-zero", {"n": 3, "m": 9}),
    ("rastrigin", {"n": 5}),
    ("ravine", {"steepness": 1e4}),
    ("gulf", {"m": 10}),
    ("box-3d", {"m": 30}),
    ("trigonometric", {"n": 3}),
    ("variably-dimensioned", {"n": 25}),
    ("quadratic", {"n": 7, "condition": 1e6, "seed": 3, "centre": 2.0}),
    ("quadratic", {"eigenvalues": (-1.0, 2.0, 3.0)}),
    ("quadratic", {"eigenvalues": (-1.0, -2.0), "seed": None}),
]


@pytest.fixture(params=VARIANTS, ids=lambda one: "-".join([one[0], *map(str, one[1].values())]))
def surface(request: pytest.FixtureRequest) -> Surface:
    name, options = request.param
    return surfaces.get(name, **options)


def around(surface: Surface, count: int, seed: int = 0) -> Tensor:
    """The start, and points near it."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count - 1, surface.n, generator=generator, dtype=torch.float64)
    start = surface.initial()
    return torch.cat((start[None], start + 0.2 * (start.abs() + 0.1) * noise))


def points(surface: Surface) -> list[Point]:
    return [*surface.minima, *surface.stationary]


def at(point: Point) -> Tensor:
    return torch.tensor(point.x, dtype=torch.float64)


@pytest.mark.parametrize("name", surfaces.names("more-garbow-hillstrom"))
def test_residuals_against_loops_from_the_paper(name: str) -> None:
    surface = surfaces.get(name)
    assert isinstance(surface, LeastSquares)
    assert surface.number is not None
    twin = twins.RESIDUALS[surface.number - 1]
    assert twin.__name__.replace("_", "-") == name
    for x in around(surface, 12):
        expected = np.array(twin(x.tolist()))
        np.testing.assert_allclose(
            surface.residuals(x).numpy(), expected, rtol=1e-12, atol=1e-13 * np.abs(expected).max()
        )
        np.testing.assert_allclose(surface(x).item(), twins.squares(expected.tolist()), rtol=1e-12)


# f at the standard start, as the paper's formulas give it by hand or in other implementations
STARTS = {
    "rosenbrock": 24.2, "freudenstein-roth": 400.5, "powell-badly-scaled": 1.1352617173483783,
    "brown-badly-scaled": 999998000003.0, "beale": 14.203125, "helical-valley": 2500.0, "wood": 19192.0,
    "powell-singular": 215.0, "box-3d": 1031.1538106093983, "extended-rosenbrock": 121.0,
    "watson": 30.0, "linear-full-rank": 5 * 1.0 + 5 * 4.0, "biggs-exp6": 0.7790700756559702,
    "kowalik-osborne": 0.0053131722721, "osborne-1": 0.8790262935446,
    "osborne-2": 2.0934195142120644, "broyden-tridiagonal": 21.0, "brown-dennis": 7926693.336997432,
    "meyer": 1693607809.4361, "gaussian": 3.8881069911668e-06, "bard": 41.6816958616780,
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), STARTS.items())
def test_values_at_the_standard_start(name: str, value: float) -> None:
    surface = surfaces.get(name)
    assert surface(surface.initial()).item() == pytest.approx(value, rel=1e-11)


@pytest.mark.parametrize("name", twins.VALUES)
def test_values_against_loops(name: str) -> None:
    surface = surfaces.get(name)
    for x in around(surface, 12):
        assert surface(x).item() == pytest.approx(twins.VALUES[name](x.tolist()), rel=1e-11)


def test_every_surface_has_a_twin() -> None:
    families = {name for family in ("plane", "valley") for name in surfaces.names(family)}
    assert families == set(twins.VALUES)
    assert [surfaces.get(name).number for name in surfaces.names("more-garbow-hillstrom")] == [*range(1, 36)]


def test_value_is_the_sum_of_squares(surface: Surface) -> None:
    if not isinstance(surface, LeastSquares):
        return
    x = around(surface, 5)
    residuals = surface.residuals(x)
    assert residuals.shape == (5, surface.m)
    torch.testing.assert_close(surface(x), (residuals * residuals).sum(-1), rtol=1e-14, atol=0.0)


def test_jacobian_against_differences(surface: Surface) -> None:
    f = surface.residuals if isinstance(surface, LeastSquares) else surface
    x = around(surface, 3, seed=1)[1]
    jacobian = jacrev(f)(x).reshape(-1, surface.n)
    for j in range(surface.n):
        h = 1e-5 * max(1e-3, abs(x[j].item()))
        step = torch.zeros_like(x)
        step[j] = h
        near = (f(x + step) - f(x - step)) / (2 * h)
        wide = (f(x + 2 * step) - f(x - 2 * step)) / (4 * h)
        size = max(f(x).abs().max().item() * 1e-16 / h * 1e3, jacobian[:, j].abs().max().item() * 1e-7)
        torch.testing.assert_close(
            jacobian[:, j], ((4 * near - wide) / 3).reshape(-1), rtol=1e-6, atol=max(size, 1e-9)
        )


def test_second_derivatives_against_differences(surface: Surface) -> None:
    x = around(surface, 3, seed=2)[2]
    second = hessian(surface)(x)
    assert torch.isfinite(second).all()
    torch.testing.assert_close(second, second.T, rtol=1e-9, atol=1e-9 * second.abs().max().item())
    direction = x.abs() + 0.01
    h = 1e-5
    slope = grad(surface)
    change = (slope(x + h * direction) - slope(x - h * direction)) / (2 * h)
    expected = second @ direction
    torch.testing.assert_close(change, expected, rtol=1e-5, atol=2e-6 * expected.abs().max().item() + 1e-9)


def test_batches_dtypes_and_vmap(surface: Surface) -> None:
    x = around(surface, 6)
    each = torch.stack([surface(one) for one in x])
    tight = {"rtol": 1e-12, "atol": 1e-28}
    torch.testing.assert_close(surface(x.reshape(2, 3, -1)), each.reshape(2, 3), **tight)
    torch.testing.assert_close(vmap(surface)(x), each, **tight)
    assert surface(x[:0]).shape == (0,)
    single = surface(x.float())
    assert single.dtype == torch.float32
    assert torch.isfinite(single).all()
    assert surface(surface.initial(dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_listed_values(surface: Surface) -> None:
    assert [point.value for point in surface.minima] == sorted(point.value for point in surface.minima)
    for point in points(surface):
        assert len(point.x) == surface.n
        found = surface(at(point)).item()
        assert found == pytest.approx(point.value, rel=1e-12, abs=rounding(surface, at(point)))


def rounding(surface: Surface, x: torch.Tensor) -> float:
    """What the value may be off by: a residual by a few ulps of what it is summed from, |J||x| + 1."""
    if not isinstance(surface, LeastSquares):
        return 1e-20
    r = surface.residuals(x).abs()
    j = torch.autograd.functional.jacobian(surface.residuals, x).abs()
    off = 8 * torch.finfo(x.dtype).eps * (j @ x.abs() + 1)
    return float((2 * r * off + off * off).sum())


def test_gradients_are_zero_at_listed_points(surface: Surface) -> None:
    for point in points(surface):
        x = at(point)
        # coordinates are known to their last digit, products within the gradient to theirs
        size = hessian(surface)(x).abs() @ x.abs()
        if isinstance(surface, LeastSquares):
            size += 2 * jacrev(surface.residuals)(x).abs().T @ (surface.residuals(x).abs() + 1e-16)
        assert (grad(surface)(x).abs() <= 64 * 2.3e-16 * size + 1e-300).all(), point


def test_curvatures_at_listed_points(surface: Surface) -> None:
    for point in points(surface):
        second = hessian(surface)(at(point))
        scale = second.diagonal().abs().clamp_min(1e-300).rsqrt()
        values = torch.linalg.eigvalsh(scale[:, None] * second * scale).tolist()
        if point.kind == "minimum":
            assert values[0] > -1e-11, point
        elif point.kind == "maximum":
            assert values[-1] < 0, point
        else:
            assert values[0] < 0 or "flat" in point.note or "zero" in point.note, point


def test_kinds(surface: Surface) -> None:
    assert {point.kind for point in surface.minima} <= {"minimum"}
    assert {point.kind for point in surface.stationary} <= {"saddle", "maximum"}
    assert {point.kind for point in surface.limits} <= {"limit"}
    for point in surface.limits:
        assert len(point.x) == surface.n
        assert any(math.isinf(one) for one in point.x)
    lowest = surface.lowest
    if lowest is not None:
        assert (surface(around(surface, 50)) >= lowest).all()


def test_pictures_show_start_and_minima(surface: Surface) -> None:
    assert surface.bounds is None or surface.n == 2
    assert surface.bounds is not None or surface.n != 2 or "n" in surface.options
    if surface.bounds is not None:
        shown = [
            surface.start,
            *(one.x for one in surface.minima[:1]),
            *(one.x for one in surface.stationary),
        ]
        for x in shown:
            assert all(low <= one <= high for one, (low, high) in zip(x, surface.bounds, strict=True)), x


def test_copies_are_made_from_their_options(surface: Surface) -> None:
    for again in (pickle.loads(pickle.dumps(surface)), copy.deepcopy(surface)):
        assert (again.name, again.n, again.minima) == (surface.name, surface.n, surface.minima)
        x = around(surface, 3)
        assert torch.equal(again(x), surface(x))


def test_descriptions_are_single_lines(surface: Surface) -> None:
    for text in (surface.title, surface.summary, surface.source):
        assert text
        assert "\n" not in text
        assert not text.endswith(".")


# paths on which the limits are approached: a point for each large t
LIMITS = {
    "beale": (lambda t: (-t, 1 + 111 / 112 / t), True),
    "jennrich-sampson": (lambda t: (-math.log(t), 0.33148527792223215), False),
    "kowalik-osborne": (
        lambda t: (t, -14.075884271651827, -45.257195472257045 * t, -28.23149846971015 * t),
        True,
    ),
    "bard": (lambda t: (0.1888920198628154, -t, t + 3.629650689231605), True),
    "cliff": (lambda t: (-(t ** (1 / 6)), -(t ** (-9 / 6))), True),
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_approached(name: str) -> None:
    path, above = LIMITS[name]
    surface = surfaces.get(name)
    heights = [surface(torch.tensor(path(t), dtype=torch.float64)).item() for t in (1e3, 1e4, 1e5)]
    gaps = [height - surface.limits[0].value for height in heights]
    assert all((gap > 0) == above for gap in gaps)
    assert abs(gaps[0]) > abs(gaps[1]) > abs(gaps[2])
    assert gaps[2] == pytest.approx(0, abs=2e-4 * abs(surface.limits[0].value))


def test_second_limit_of_bard() -> None:
    surface = surfaces.get("bard")
    _, level = surface.limits
    gaps = [surface(torch.tensor((level.x[0], -t, -t))).item() - level.value for t in (1e2, 1e3, 1e4)]
    assert gaps[0] > gaps[1] > gaps[2] > -1e-4


@pytest.mark.parametrize(
    ("name", "listed"),
    {
        "freudenstein-roth": [48.9842], "jennrich-sampson": [124.362], "bard": [8.21487e-3, 17.4286],
        "gaussian": [1.12793e-8], "meyer": [87.9458], "kowalik-osborne": [3.07505e-4, 1.02734e-3],
        "brown-dennis": [85822.2], "osborne-1": [5.46489e-5], "biggs-exp6": [0, 5.65565e-3],
        "osborne-2": [4.01377e-2], "watson": [2.28767e-3], "penalty-1": [2.24997e-5],
        "penalty-2": [9.37629e-6], "trigonometric": [0, 2.79506e-5], "brown-almost-linear": [0, 1],
        "linear-full-rank": [5], "linear-rank-1": [10 * 9 / (2 * 21)],
        "linear-rank-1-zero": [(100 + 30 - 6) / (2 * 17)], "chebyquad": [3.51687e-3],
    }.items(),
)  # fmt: skip
def test_values_that_the_paper_prints(name: str, listed: list[float]) -> None:
    surface = surfaces.get(name)
    ours = [point.value for point in (*points(surface), *surface.limits)]
    for value in listed:
        # the paper cuts off digits, or rounds
        assert any(one == pytest.approx(value, rel=1.1e-5, abs=1e-12) for one in ours), value


@pytest.mark.parametrize(
    ("name", "n", "listed"),
    [
        ("watson", 9, 1.39976e-6), ("watson", 12, 4.72238e-10), ("penalty-1", 10, 7.08765e-5),
        ("penalty-2", 10, 2.93660e-4), ("chebyquad", 10, 6.50395e-3), ("chebyquad", 9, 0.0),
    ],
)  # fmt: skip
def test_values_that_the_paper_prints_for_other_dimensions(name: str, n: int, listed: float) -> None:
    values = [point.value for point in surfaces.get(name, n=n).minima]
    assert any(value == pytest.approx(listed, rel=1.1e-5, abs=1e-20) for value in values)


def test_unknown_names_and_options() -> None:
    for call, message in (
        (lambda: surfaces.get("himelblau"), "did you mean 'himmelblau'"),
        (lambda: surfaces.get("beale", n=3), "no option 'n'; it has none"),
        (lambda: surfaces.get("quadratic", conditon=3), "did you mean 'condition'"),
        (lambda: surfaces.get("extended-rosenbrock", n=7), "a multiple of 2 from 2 on"),
        (lambda: surfaces.get("watson", n=40), "from 2 to 31"),
        (lambda: surfaces.get("chebyquad", n=5, m=3), "m = 3; give a whole number from 5 on"),
        (lambda: surfaces.get("broyden-banded", n=2.5), "n = 2.5"),
        (lambda: surfaces.get("ravine", steepness=-1.0), "positive"),
        (lambda: surfaces.names("plain"), "did you mean 'plane'"),
        (lambda: surfaces.get("beale")(torch.zeros(3)), "shape \\[..., 2\\], not \\[3\\]"),
        (lambda: surfaces.get("beale")(torch.tensor(1.0)), "not \\[\\]"),
        (lambda: surfaces.get("beale")(torch.zeros(2, dtype=torch.int64)), "floating-point"),
    ):
        with pytest.raises(OptionError, match=message):
            call()
