"""AdaGrad, RMSProp, Adam and AdamW against twins from the slides and against torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from thalweg.rules import adagrad, adam, adamw, nadam, rmsprop

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


def rate(t):
    return 0.02 * (1 + np.cos(t / 9))


@pytest.mark.parametrize(
    ("decay", "slowing", "first"), list(itertools.product([0.0, 0.1], [0.0, 0.2], [0.0, 0.5]))
)
def test_adagrad(drive, start, gradients, decay, slowing, first):
    def at(t):
        return {
            "lr": rate(t),
            "eps": 1e-7,
            "weight_decay": decay,
            "lr_decay": slowing,
            "initial_accumulator_value": first,
        }

    x, r, expected = start.copy(), np.full(7, first), []
    for t, g in enumerate(gradients, 1):
        g = g + decay * x
        r = r + g**2
        x = x - rate(t) / (1 + (t - 1) * slowing) / (1e-7 + np.sqrt(r)) * g
        expected.append(x)
    np.testing.assert_allclose(drive(adagrad, start, gradients, at), expected, **TIGHT)


@pytest.mark.parametrize(
    ("inside", "centered", "mass", "decay"),
    list(itertools.product([False, True], [False, True], [0.0, 0.7], [0.0, 0.1])),
)
def test_rmsprop(drive, start, gradients, inside, centered, mass, decay):
    eps = 1e-6 if inside else 1e-7

    def at(t):
        rho = 0.9 + 0.05 * np.sin(t / 5)
        return {"lr": rate(t), "alpha": rho, "eps": eps, "momentum": mass, "weight_decay": decay}

    x, expected = start.copy(), []
    r, mean, b = np.zeros(7), np.zeros(7), np.zeros(7)
    for t, g in enumerate(gradients, 1):
        rho = at(t)["alpha"]
        g = g + decay * x
        r = rho * r + (1 - rho) * g * g
        mean = rho * mean + (1 - rho) * g
        spread = np.maximum(r - mean**2, 0.0) if centered else r
        step = g / (np.sqrt(spread + eps) if inside else np.sqrt(spread) + eps)
        b = mass * b + step
        x = x - rate(t) * b
        expected.append(x)
    path = drive(rmsprop, start, gradients, at, {"eps_inside": inside, "centered": centered})
    # A variance by subtraction loses digits where the mean square is nearly the squared mean.
    np.testing.assert_allclose(path, expected, **({"rtol": 1e-6, "atol": 1e-7} if centered else TIGHT))


def test_centered_rmsprop_survives_a_constant_gradient(drive):
    path = drive(
        rmsprop, np.ones(3), lambda x: np.full(3, 0.1), {"lr": 1e-6, "alpha": 0.5}, {"centered": True}
    )
    assert np.isfinite(path).all()


@pytest.mark.parametrize("inside", [False, True])
def test_a_centered_variance_that_rounding_took_below_zero_is_zero(drive, inside):
    """Of a constant gradient the variance falls to zero; its root must not become NaN on the way."""
    slopes = np.linspace(0.1, 3, 400)
    settings = {"lr": 1e-3, "alpha": 0.9, "eps": 1e-6}
    r, mean, variances = 0.0, 0.0, []
    for _ in range(450):
        r = 0.9 * r + (1 - 0.9) * slopes * slopes
        mean = 0.9 * mean + (1 - 0.9) * slopes
        variances.append(r - mean * mean)
    below = np.array(variances) < 0
    assert below.any(axis=0).sum() > 50
    options = {"centered": True, "eps_inside": inside}
    path = drive(rmsprop, np.zeros(400), lambda x: slopes, settings, options, steps=450)
    moved = -np.diff(path, axis=0, prepend=0)
    divisor = 1e-3 if inside else 1e-6
    np.testing.assert_allclose(moved[below], np.broadcast_to(1e-3 * slopes / divisor, below.shape)[below])
    assert np.isfinite(path).all()


@pytest.mark.parametrize("inside", [False, True])
def test_a_centered_variance_of_squares_that_overflow_is_infinite(drive, start, gradients, inside):
    gradients = [g.copy() for g in gradients[:20]]
    gradients[5][:3] = 1e200
    options = {"centered": True, "eps_inside": inside}
    path = drive(rmsprop, start, gradients, {"lr": 0.01, "momentum": 0.0}, options, steps=20)
    assert np.isfinite(path).all()
    # as without centering: nothing moves where the average of squares is infinite
    assert (path[5:, :3] == path[4, :3]).all()
    assert (path[5:, 3:] != path[4, 3:]).any(axis=0)[[0, 1, 2, 3]].all()
    gradients[5][0] = np.nan
    assert np.isnan(drive(rmsprop, start, gradients, {"lr": 0.01}, options, steps=20)[5:, 0]).all()


@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize(
    ("correct", "largest", "decay"), list(itertools.product([True, False], [False, True], [0.0, 0.1]))
)
def test_adam(drive, start, gradients, correct, largest, decay, decoupled):
    def at(t):
        beta1 = 0.9 - 0.1 * np.cos(t / 7)
        return {"lr": rate(t), "beta1": beta1, "beta2": 0.99, "eps": 1e-8, "weight_decay": decay}

    x, expected = start.copy(), []
    m, s, top = np.zeros(7), np.zeros(7), np.zeros(7)
    for t, g in enumerate(gradients, 1):
        beta1, beta2 = at(t)["beta1"], 0.99
        if decoupled:
            x = x - rate(t) * decay * x
        else:
            g = g + decay * x
        m = beta1 * m + (1 - beta1) * g
        s = beta2 * s + (1 - beta2) * g * g
        top = np.maximum(top, s)
        m_hat = m / (1 - beta1**t) if correct else m
        s_hat = (top if largest else s) / (1 - beta2**t if correct else 1.0)
        x = x - rate(t) * m_hat / (np.sqrt(s_hat) + 1e-8)
        expected.append(x)
    options = {"bias_correction": correct, "amsgrad": largest}
    path = drive(adamw if decoupled else adam, start, gradients, at, options)
    np.testing.assert_allclose(path, expected, **TIGHT)


@pytest.mark.parametrize(("decay", "decoupled"), [(0.0, False), (0.1, False), (0.1, True)])
@pytest.mark.parametrize("changing", [False, True])
def test_nadam(drive, start, gradients, decay, decoupled, changing):
    def at(t):
        beta1 = 0.9 - 0.1 * np.cos(t / 7) if changing else 0.9
        return {"lr": rate(t), "beta1": beta1, "beta2": 0.99, "weight_decay": decay, "momentum_decay": 0.05}

    def mu(t, beta1):
        return beta1 * (1 - 0.96 ** (0.05 * t) / 2)

    x, expected = start.copy(), []
    m, s, product = np.zeros(7), np.zeros(7), 1.0
    for t, g in enumerate(gradients, 1):
        beta1 = at(t)["beta1"]
        if decoupled:
            x = x - rate(t) * decay * x
        else:
            g = g + decay * x
        # The product of the momenta that were: with a schedule it is no power and no function of t.
        product *= mu(t, beta1)
        m = beta1 * m + (1 - beta1) * g
        s = 0.99 * s + 0.01 * g * g
        m_hat = mu(t + 1, beta1) * m / (1 - product * mu(t + 1, beta1))
        g_hat = (1 - mu(t, beta1)) * g / (1 - product)
        x = x - rate(t) * (m_hat + g_hat) / (np.sqrt(s / (1 - 0.99**t)) + 1e-8)
        expected.append(x)
    path = drive(nadam, start, gradients, at, {"decoupled": decoupled})
    np.testing.assert_allclose(path, expected, **TIGHT)


def test_the_first_step_of_adam_is_the_rate(drive):
    path = drive(adam, np.zeros(3), [np.array([3.0, -1e-3, 0.0])], {"lr": 0.25, "eps": 0.0}, steps=1)
    np.testing.assert_allclose(path[0], [-0.25, 0.25, np.nan], rtol=1e-12)


TORCH = [
    (adagrad, torch.optim.Adagrad, {"lr": 0.1}, {}, {}),
    (adagrad, torch.optim.Adagrad, {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-5}, {}, {}),
    (adagrad, torch.optim.Adagrad, {"initial_accumulator_value": 0.3}, {}, {}),
    (rmsprop, torch.optim.RMSprop, {}, {}, {}),
    (rmsprop, torch.optim.RMSprop, {"alpha": 0.9, "weight_decay": 0.1, "momentum": 0.5}, {}, {}),
    (rmsprop, torch.optim.RMSprop, {"alpha": 0.9, "eps": 1e-3}, {"centered": True}, {"centered": True}),
    (rmsprop, torch.optim.RMSprop, {"momentum": 0.5, "eps": 1e-3}, {"centered": True}, {"centered": True}),
    (adam, torch.optim.Adam, {}, {}, {}),
    (adam, torch.optim.Adam, {"weight_decay": 0.1, "lr": 0.1, "beta1": 0.8, "eps": 1e-4}, {}, {}),
    (adam, torch.optim.Adam, {"weight_decay": 0.1, "beta2": 0.9}, {"amsgrad": True}, {"amsgrad": True}),
    (adamw, torch.optim.AdamW, {}, {}, {}),
    (adamw, torch.optim.AdamW, {"weight_decay": 0.0, "beta1": 0.5}, {}, {}),
    (adamw, torch.optim.AdamW, {"weight_decay": 0.3, "lr": 0.1}, {"amsgrad": True}, {"amsgrad": True}),
]


@pytest.mark.parametrize(("rule", "peer", "hyper", "options", "words"), TORCH)
def test_torch(drive, start, gradients, rule, peer, hyper, options, words):
    arguments = {**hyper, **words}
    if "beta1" in rule.hyperparameters:
        full = {**rule.hyperparameters, **hyper}
        arguments = {k: v for k, v in arguments.items() if k not in ("beta1", "beta2")}
        arguments["betas"] = full["beta1"], full["beta2"]
    q = torch.tensor(start, requires_grad=True)
    optimizer = peer([q], foreach=False, **arguments)
    expected = []
    for g in gradients:
        q.grad = torch.tensor(g)
        optimizer.step()
        expected.append(q.detach().numpy().copy())
    path = drive(rule, start, gradients, hyper, options)
    tolerance = {"rtol": 1e-7, "atol": 1e-9} if "centered" in options else TIGHT
    np.testing.assert_allclose(path, expected, **tolerance)
    assert {name: value for name, value in optimizer.defaults.items() if name in rule.hyperparameters} == {
        name: value
        for name, value in ({**rule.hyperparameters, **hyper}).items()
        if name in optimizer.defaults
    }
