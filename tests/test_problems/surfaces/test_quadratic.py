"""Quadratics are what they say: matrix, eigenvalues, rotation, minimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad

from test_problems.surfaces.derivatives import hessian
from thalweg.errors import OptionError
from thalweg.test_problems import surfaces
from thalweg.test_problems.surfaces import Quadratic


def build(**options: object) -> Quadratic:
    surface = surfaces.get("quadratic", **options)
    assert isinstance(surface, Quadratic)
    return surface


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("seed", [None, 0, 7])
def test_matrix_eigenvalues_and_minimum(n: int, seed: int | None) -> None:
    bowl = build(n=n, condition=1000.0, seed=seed, centre=tuple(range(n)))
    assert np.array_equal(bowl.matrix, bowl.matrix.T)
    np.testing.assert_allclose(np.linalg.eigvalsh(bowl.matrix), bowl.eigenvalues, rtol=1e-12)
    np.testing.assert_allclose(bowl.eigenvectors.T @ bowl.eigenvectors, np.eye(n), atol=1e-13)
    np.testing.assert_allclose(
        bowl.matrix @ bowl.eigenvectors, bowl.eigenvectors * bowl.eigenvalues, atol=1e-11
    )
    assert bowl.condition == pytest.approx(1000.0 if n > 1 else 1.0)
    x = torch.linspace(-1, 2, n, dtype=torch.float64)
    d = x.numpy() - np.arange(n)
    assert bowl(x).item() == pytest.approx(0.5 * d @ bowl.matrix @ d, rel=1e-13)
    np.testing.assert_allclose(grad(bowl)(x).numpy(), bowl.matrix @ d, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(hessian(bowl)(x).numpy(), bowl.matrix, rtol=1e-13, atol=1e-13)
    assert bowl.minima[0].x == tuple(map(float, range(n)))


def test_the_start_is_equally_far_up_along_every_axis() -> None:
    bowl = build(n=4, condition=1e4, seed=2)
    along = bowl.eigenvectors.T @ (np.array(bowl.start) - np.array(bowl.centre))
    np.testing.assert_allclose(bowl.eigenvalues * along**2, 1.0, rtol=1e-9)


def test_seeds_decide_the_rotation_alone() -> None:
    one, same, another = build(n=3), build(n=3), build(n=3, seed=1)
    assert np.array_equal(one.matrix, same.matrix)
    assert np.array_equal(one.eigenvalues, another.eigenvalues)
    assert np.abs(one.matrix - another.matrix).max() > 0.1


def test_eigenvalues_of_ones_own() -> None:
    bowl = build(eigenvalues=(9.0, 1.0, 9.0))
    assert bowl.n == 3
    assert bowl.eigenvalues.tolist() == [1.0, 9.0, 9.0]
    pass_ = build(eigenvalues=(2.0, -1.0))
    assert pass_.minima == ()
    assert pass_.stationary[0].kind == "saddle"
    assert pass_.lowest == -np.inf
    way = torch.tensor(np.sign(pass_.limits[0].x) * np.abs(pass_.eigenvectors[:, 0]) * 1e3)
    assert pass_(way).item() == pytest.approx(-0.5e6)
    assert build(eigenvalues=(-2.0,)).stationary[0].kind == "maximum"


@pytest.mark.parametrize(
    "options",
    [
        {"condition": 0.5}, {"condition": float("nan")}, {"n": 0}, {"eigenvalues": ()},
        {"eigenvalues": (1, 0)}, {"eigenvalues": (1, float("inf"))}, {"centre": (1.0, 2.0, 3.0)},
        {"centre": float("inf")},
    ],
)  # fmt: skip
def test_refusals(options: dict[str, object]) -> None:
    with pytest.raises(OptionError, match="the surface 'quadratic' can't have"):
        build(**options)


def test_rotations_turn_every_way() -> None:
    """Householder's QR alone leaves the first entry of Q negative, whatever is drawn."""
    drawn = [surfaces.get("quadratic", n=4, seed=seed) for seed in range(100)]
    positive = sum(bool(one.eigenvectors[0, 0] > 0) for one in drawn if isinstance(one, Quadratic))
    assert 30 <= positive <= 70
