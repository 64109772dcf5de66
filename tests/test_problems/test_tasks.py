"""Tasks: losses against scikit-learn, SciPy, NIST and closed forms; functions, modules and batches agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares, minimize
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.func import grad, vmap

from thalweg.errors import OptionError
from thalweg.test_problems import tasks
from thalweg.test_problems.tasks import SmallProblem

SQUARES = ("autoencoder-digits", "factorization-digits", "misra1a", "thurber")


@pytest.fixture(params=tasks.names(), scope="module")
def problem(request: pytest.FixtureRequest) -> SmallProblem:
    return tasks.get(request.param)


def moved(problem: SmallProblem, seed: int = 0) -> list[Tensor]:
    """Parameters a little beside the start."""
    generator = torch.Generator().manual_seed(seed)
    return [
        p + 0.01 * (p.abs() + 0.1 * p.abs().max()) * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        if p.abs().max() > 0
        else 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for p in problem.parameters()
    ]


def flat(
    problem: SmallProblem,
) -> tuple[np.ndarray[Any, Any], Callable[[np.ndarray[Any, Any]], list[Tensor]]]:
    start = problem.parameters()

    def apart(vector: np.ndarray[Any, Any]) -> list[Tensor]:
        pieces = torch.tensor(vector).split([p.numel() for p in start])
        return [piece.reshape(p.shape) for piece, p in zip(pieces, start, strict=True)]

    return torch.cat([p.flatten() for p in start]).numpy(), apart


def lowered(problem: SmallProblem, iterations: int) -> tuple[float, list[Tensor]]:
    """SciPy's L-BFGS from the start."""
    start, apart = flat(problem)

    def both(vector: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
        parameters = [p.requires_grad_() for p in apart(vector)]
        loss = problem.loss(parameters)
        slopes = torch.autograd.grad(loss, parameters)
        return loss.item(), torch.cat([g.flatten() for g in slopes]).numpy()

    options = {"maxiter": iterations, "maxfun": 2 * iterations, "ftol": 0.0, "gtol": 1e-10}
    found = minimize(both, start, jac=True, method="L-BFGS-B", options=options)
    return float(found.fun), apart(found.x)


def test_module_and_functions_agree(problem: SmallProblem) -> None:
    parameters = moved(problem)
    module = problem.module()
    with torch.no_grad():
        for own, given in zip(module.parameters(), parameters, strict=True):
            assert own.shape == given.shape
            own.copy_(given)
    torch.testing.assert_close(module(problem.inputs), problem.outputs(parameters), rtol=0, atol=0)
    again = problem.module()
    for own, start in zip(again.parameters(), problem.parameters(), strict=True):
        assert torch.equal(own, start)
    assert all(p.requires_grad for p in again.parameters())
    assert not any(p.requires_grad for p in problem.parameters())


def test_batches_average_to_the_loss(problem: SmallProblem) -> None:
    parameters = moved(problem)
    whole = problem.loss(parameters)
    everything = torch.arange(problem.examples)
    torch.testing.assert_close(problem.batch_loss(parameters, everything), whole, rtol=1e-13, atol=0)
    parts = everything.split(math.ceil(problem.examples / 4))
    weighted = [len(part) / problem.examples * problem.batch_loss(parameters, part) for part in parts]
    torch.testing.assert_close(torch.stack(weighted).sum(), whole, rtol=1e-12, atol=0)


def test_residuals_square_to_the_loss(problem: SmallProblem) -> None:
    parameters = moved(problem)
    assert problem.least_squares == (problem.name in SQUARES)
    if not problem.least_squares:
        with pytest.raises(OptionError, match="no sum of squares"):
            problem.residuals(parameters)
        return
    some = torch.tensor([0, 5, 3])
    for indices, loss in ((None, problem.loss(parameters)), (some, problem.batch_loss(parameters, some))):
        residuals = problem.residuals(parameters, indices)
        assert residuals.ndim == 1
        torch.testing.assert_close(residuals.square().sum(), loss, rtol=1e-13, atol=0)


def test_two_builds_are_the_same_and_seeds_differ(problem: SmallProblem) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    again, other = tasks.get(problem.name), tasks.get(problem.name, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(again.targets, problem.targets)
    for a, b in zip(again.parameters(), problem.parameters(), strict=True):
        assert torch.equal(a, b)
    fixed = problem.name in ("misra1a", "thurber")
    assert torch.equal(other.inputs.double(), problem.inputs.double()) == (
        fixed or problem.name == "factorization-digits"
    )
    assert torch.equal(other.targets, problem.targets) == fixed


def test_starting_tensors_are_ones_own(problem: SmallProblem) -> None:
    for p in problem.parameters():
        p.add_(1.0)
    loss = problem.loss(problem.parameters())
    assert torch.equal(loss, tasks.get(problem.name).loss(tasks.get(problem.name).parameters()))


def test_single_precision_follows(problem: SmallProblem) -> None:
    single = tasks.get(problem.name, dtype=torch.float32)
    loss = single.loss(single.parameters())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(problem.loss(problem.parameters()).item(), rel=1e-5)


def test_lanes_and_slopes(problem: SmallProblem) -> None:
    several = [moved(problem, seed) for seed in range(3)]
    stacked = [torch.stack(same) for same in zip(*several, strict=True)]
    torch.testing.assert_close(
        vmap(problem.loss)(stacked), torch.stack([problem.loss(one) for one in several]), rtol=1e-12, atol=0
    )
    slope = grad(problem.loss)(several[0])
    direction = [0.1 * p.abs() + 1e-6 for p in several[0]]
    h = 1e-5
    ahead, behind = ([p + s * h * d for p, d in zip(several[0], direction, strict=True)] for s in (1, -1))
    change = (problem.loss(ahead) - problem.loss(behind)) / (2 * h)
    expected = sum((g * d).sum() for g, d in zip(slope, direction, strict=True))
    torch.testing.assert_close(change, torch.as_tensor(expected), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("name", ["logistic-breast-cancer", "softmax-digits"])
def test_convex_minima_are_those_of_scikit_learn(name: str) -> None:
    problem = tasks.get(name)
    sklearn = LogisticRegression(C=1 / (problem.penalty * problem.examples), tol=1e-12, max_iter=5000)
    sklearn.fit(problem.inputs.numpy(), problem.targets.numpy())
    theirs = [torch.tensor(sklearn.coef_), torch.tensor(sklearn.intercept_)]
    value, weights = lowered(problem, 2000)
    assert value == pytest.approx(problem.loss(theirs).item(), rel=1e-7)
    torch.testing.assert_close(weights[0], theirs[0], rtol=1e-2, atol=1e-3)
    right = problem.outputs(weights)
    guess = (right[:, 0] > 0).long() if right.shape[1] == 1 else right.argmax(1)
    assert (guess == problem.targets).double().mean() > 0.97


def test_start_of_the_convex_ones_knows_nothing() -> None:
    for name, classes in (("logistic-breast-cancer", 2), ("softmax-digits", 10)):
        problem = tasks.get(name)
        assert problem.loss(problem.parameters()).item() == pytest.approx(math.log(classes))


def test_networks_learn() -> None:
    mlp = tasks.get("mlp-digits")
    value, weights = lowered(mlp, 60)
    assert value < 0.1 * mlp.loss(mlp.parameters()).item()
    assert (mlp.outputs(weights).argmax(1) == mlp.targets).double().mean() > 0.99
    autoencoder = tasks.get("autoencoder-digits")
    assert lowered(autoencoder, 60)[0] < 0.6 * autoencoder.loss(autoencoder.parameters()).item()


def test_penalty_by_hand() -> None:
    mlp = tasks.get("mlp-digits")
    parameters = moved(mlp)
    w1, b1, w2, b2 = (p.numpy() for p in parameters)
    hidden = np.tanh(mlp.inputs.numpy() @ w1.T + b1)
    logits = hidden @ w2.T + b2
    chosen = logits[np.arange(len(logits)), mlp.targets.numpy()]
    errors = np.log(np.exp(logits).sum(1)) - chosen
    expected = errors.mean() + 1e-4 / 2 * ((w1**2).sum() + (w2**2).sum())
    assert mlp.loss(parameters).item() == pytest.approx(expected, rel=1e-12)


def test_factorization_reaches_what_eckart_and_young_allow() -> None:
    problem = tasks.get("factorization-digits")
    assert problem.lowest is not None
    u, s, vt = np.linalg.svd(problem.targets.numpy(), full_matrices=False)
    best = [torch.tensor(u[:, :8] * s[:8]), torch.tensor(vt[:8].T.copy())]
    assert problem.loss(best).item() == pytest.approx(problem.lowest, rel=1e-12)
    assert max(g.abs().max().item() for g in grad(problem.loss)(best)) < 1e-13
    assert problem.loss(moved(problem)).item() > problem.lowest
    assert lowered(problem, 150)[0] == pytest.approx(problem.lowest, rel=1e-5)


@pytest.mark.parametrize("name", ["misra1a", "thurber"])
def test_curve_fits_are_as_certified(name: str) -> None:
    problem = tasks.get(name)
    assert problem.solution is not None
    assert problem.lowest is not None
    certified = [torch.tensor(problem.solution, dtype=torch.float64)]
    assert problem.loss(certified).item() == pytest.approx(problem.lowest, rel=1e-10)
    start, apart = flat(problem)
    found = least_squares(
        lambda b: problem.residuals(apart(b)).numpy(), np.array(problem.solution) * 1.01,
        x_scale=np.abs(start), xtol=1e-15, ftol=1e-15, gtol=1e-15, jac="3-point",
    )  # fmt: skip
    np.testing.assert_allclose(found.x, problem.solution, rtol=1e-6)


def test_formulas_of_the_curves_by_hand() -> None:
    adsorption, mobility = tasks.get("misra1a"), tasks.get("thurber")
    b = [240.0, 6e-4]
    expected = [b[0] * (1 - math.exp(-b[1] * x)) for x in adsorption.inputs.tolist()]
    ours = adsorption.outputs([torch.tensor(b, dtype=torch.float64)])
    assert ours.tolist() == pytest.approx(expected, rel=1e-13)
    b = [1.0, 2.0, 3.0, 4.0, 0.5, 0.6, 0.07]
    expected = [
        (b[0] + b[1] * x + b[2] * x**2 + b[3] * x**3) / (1 + b[4] * x + b[5] * x**2 + b[6] * x**3)
        for x in mobility.inputs.tolist()
    ]
    ours = mobility.outputs([torch.tensor(b, dtype=torch.float64)])
    assert ours.tolist() == pytest.approx(expected, rel=1e-12)


def test_refusals() -> None:
    with pytest.raises(OptionError, match="did you mean 'mlp-digits'"):
        tasks.get("mlp-digit")
    with pytest.raises(OptionError, match=r"choose torch\.float64 or torch\.float32"):
        tasks.get("thurber", dtype=torch.float16)
    problem = tasks.get("softmax-digits")
    with pytest.raises(OptionError, match="has 2 parameters, but 1 were given"):
        problem.loss(problem.parameters()[:1])
