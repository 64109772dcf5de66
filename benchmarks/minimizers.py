"""What `benchmarks.minimize` compares: each solver as a function of the same kind, stopped by the same rule.

A solver takes a function of one float64 vector ``[n]``, a start, the tolerance, a limit of evaluations and
``stop``, and returns the point that it ended at. Where it can end by itself as soon as the largest magnitude
in the gradient is within the tolerance, it does, and every other rule of its own is switched off; where it
can't, it asks ``stop`` after each iteration. Histories hold ten pairs everywhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np
import scipy.optimize
import torch
from torch import Tensor

import thalweg

__all__ = ["FAMILIES", "Function", "Solver", "Stop", "absent", "solvers"]

Function = Callable[[Tensor], Tensor]
Stop = Callable[[Tensor], bool]
Solver = Callable[[Function, Tensor, float, int, Stop], Tensor]

HISTORY = 10
FAMILIES: dict[str, tuple[str, ...]] = {
    "L-BFGS": (
        "thalweg lbfgs", "torch LBFGS", "scipy L-BFGS-B", "pytorch-minimize l-bfgs", "torchzero LBFGS",
        "optimistix LBFGS",
    ),
    "BFGS": ("thalweg bfgs", "scipy BFGS", "pytorch-minimize bfgs", "torchzero BFGS", "optimistix BFGS"),
    "CG": (
        "thalweg cg-hz", "thalweg cg-pr+", "thalweg cg-pr", "thalweg cg-hs", "thalweg cg-dy", "thalweg cg-fr",
        "scipy CG", "pytorch-minimize cg", "torchzero PolakRibiere", "optimistix NonlinearCG",
    ),
    "Newton": (
        "thalweg newton", "thalweg newton-cg", "scipy Newton-CG", "pytorch-minimize newton-exact",
        "pytorch-minimize newton-cg", "torchzero Newton", "torchzero NewtonCG",
    ),
}  # fmt: skip


def ours(method: str) -> Solver:
    """Return a method of ``thalweg.minimize``."""

    def solve(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
        found = thalweg.minimize(
            f, x0, method=method, tolerance=tolerance, max_evaluations=limit, max_iterations=limit
        )
        return found.x

    return solve


def torch_lbfgs(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
    """torch.optim.LBFGS with its strong Wolfe search, all iterations in one step."""
    x = x0.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [x], max_iter=limit, max_eval=limit, tolerance_grad=tolerance, tolerance_change=0.0,
        history_size=HISTORY, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = f(x)
        value.backward()
        return value

    optimizer.step(closure)
    return x.detach()


_SCIPY = {
    "L-BFGS-B": {"ftol": 0.0, "maxcor": HISTORY},
    "BFGS": {},
    "CG": {},
    "Newton-CG": {"xtol": 0.0},
}


def from_scipy(method: str) -> Solver:
    """Return a method of scipy.optimize.minimize; Newton-CG gets products from autograd."""

    def solve(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
        def both(x: np.ndarray) -> tuple[float, np.ndarray]:
            t = torch.tensor(x, requires_grad=True)
            value = f(t)
            (gradient,) = torch.autograd.grad(value, t)
            return value.item(), gradient.numpy()

        graph: tuple[np.ndarray, Tensor, Tensor] | None = None

        def product(x: np.ndarray, v: np.ndarray) -> np.ndarray:
            nonlocal graph
            if graph is None or not np.array_equal(graph[0], x):
                t = torch.tensor(x, requires_grad=True)
                (gradient,) = torch.autograd.grad(f(t), t, create_graph=True)
                graph = x.copy(), t, gradient
            _, t, gradient = graph
            # a gradient that doesn't depend on x, or not on all of it, has products with zero
            if not gradient.requires_grad:
                return np.zeros_like(v)
            made = torch.autograd.grad(
                gradient, t, torch.from_numpy(v), retain_graph=True, materialize_grads=True, allow_unused=True
            )
            return made[0].numpy()

        def asked(intermediate_result: scipy.optimize.OptimizeResult) -> None:
            if stop(torch.from_numpy(intermediate_result.x)):
                raise StopIteration

        options: dict[str, Any] = {"maxiter": limit, **_SCIPY[method]}
        newton = method == "Newton-CG"
        if not newton:
            options["gtol"] = tolerance
        if method == "L-BFGS-B":
            options["maxfun"] = limit
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = scipy.optimize.minimize(
                both, x0.numpy().copy(), jac=True, method=method, options=options,
                hessp=product if newton else None, callback=asked if newton else None,
            )  # fmt: skip
        return torch.from_numpy(np.asarray(found.x))

    return solve


def pytorch_minimize(method: str) -> Solver:
    """Return a method of pytorch-minimize (the module `torchmin`)."""
    import torchmin

    newton = method.startswith("newton")

    def solve(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
        options: dict[str, Any] = {"xtol": -1.0} if newton else {"gtol": tolerance}
        if "bfgs" in method:
            options |= {"xtol": -1.0, "gtd_tol": 0.0}
        if method == "l-bfgs":
            options["history_size"] = HISTORY
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torchmin.minimize(
                f,
                x0.clone(),
                method=method,
                max_iter=limit,
                options=options,
                callback=stop if newton else None,
            )
        return found.x.detach()

    return solve


def torchzero(*names: str) -> Solver:
    """Return a chain of torchzero's modules, as its documentation puts them together.

    Its Hessians are asked for row by row, since its batches of one gradient can't be counted.
    """
    import torchzero as tz

    made: dict[str, Callable[[], Any]] = {
        "LBFGS": lambda: tz.m.LBFGS(history_size=HISTORY),
        "BFGS": tz.m.BFGS,
        "PolakRibiere": tz.m.PolakRibiere,
        "Newton": lambda: tz.m.Newton(
            eigval_fn=lambda values: values.abs().clip(min=1e-10), hessian_method="autograd"
        ),
        "NewtonCG": tz.m.NewtonCG,
        "StrongWolfe": tz.m.StrongWolfe,
        "exacter": lambda: tz.m.StrongWolfe(c2=0.1, a_init="first-order"),
        "Backtracking": tz.m.Backtracking,
    }

    def solve(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
        x = torch.nn.Parameter(x0.clone())
        optimizer = tz.Optimizer([x], *(made[name]() for name in names))

        def closure(backward: bool = True) -> Tensor:
            value = f(x)
            if backward:
                optimizer.zero_grad()
                value.backward()
            return value

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(limit):
                before = x.detach().clone()
                optimizer.step(closure)
                # its gradient belongs to where the step began, as a later step would find it
                if stop(before):
                    return before
        return x.detach()

    return solve


class _Optimistix:
    """Solvers of optimistix, stepped one by one; the function is torch's, called from the compiled step."""

    def __init__(self) -> None:
        import equinox
        import jax
        import jax.numpy as jnp
        import optimistix

        jax.config.update("jax_enable_x64", True)
        self._jax, self._jnp, self._optimistix = jax, jnp, optimistix
        self._f: Function = torch.sum
        self._steps: dict[tuple[str, int], tuple[Any, Callable[..., Any]]] = {}
        self._jit = equinox.filter_jit

        @jax.custom_jvp
        def value(x: Any) -> Any:
            return self._call(x)[0]

        @value.defjvp
        def tangent(primals: Any, tangents: Any) -> Any:
            found, gradient = self._call(primals[0])
            return found, jnp.vdot(gradient, tangents[0])

        self._value = value

    def _call(self, x: Any) -> Any:
        scalar = self._jax.ShapeDtypeStruct((), np.float64)
        return self._jax.pure_callback(
            self._host, (scalar, self._jax.ShapeDtypeStruct(x.shape, np.float64)), x
        )

    def _host(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        t = torch.tensor(np.asarray(x), requires_grad=True)
        value = self._f(t)
        (gradient,) = torch.autograd.grad(value, t)
        return np.asarray(value.item()), gradient.numpy()

    def _step(self, name: str, n: int) -> tuple[Any, Callable[..., Any]]:
        if (name, n) not in self._steps:
            settings: dict[str, Any] = {"rtol": 0.0, "atol": 0.0}
            if name == "LBFGS":
                settings["history_length"] = HISTORY
            solver = getattr(self._optimistix, name)(**settings)
            function = lambda x, args: (self._value(x), None)  # noqa: E731

            def begin(x: Any) -> Any:
                shape = self._jax.ShapeDtypeStruct((), np.float64)
                return solver.init(function, x, None, {}, shape, None, frozenset())

            def step(x: Any, state: Any) -> Any:
                x, state, _ = solver.step(function, x, None, {}, state, frozenset())
                return x, state, self._jnp.max(self._jnp.abs(state.f_info.grad))

            self._steps[name, n] = self._jit(begin), self._jit(step)
        return self._steps[name, n]

    def solver(self, name: str) -> Solver:
        def solve(f: Function, x0: Tensor, tolerance: float, limit: int, stop: Stop) -> Tensor:
            self._f = f
            begin, step = self._step(name, len(x0))
            x = self._jnp.asarray(x0.numpy())
            state = begin(x)
            for _ in range(limit):
                x, state, norm = step(x, state)
                if float(norm) <= tolerance:
                    break
            return torch.tensor(np.asarray(x))

        return solve


def absent() -> dict[str, str]:
    """Return which peers can't be compared with, and why."""
    missing = {}
    for package in ("pytorch-minimize", "torchzero", "optimistix"):
        try:
            version(package)
        except PackageNotFoundError:
            missing[package] = "it is not installed; pip install 'thalweg[bench]'"
    return missing


def solvers() -> dict[str, Solver]:
    """Return every solver that is installed, by the names of ``FAMILIES``."""
    missing = absent()
    made: dict[str, Solver] = {"torch LBFGS": torch_lbfgs}
    chains = {
        "LBFGS": ("LBFGS", "StrongWolfe"),
        "BFGS": ("BFGS", "StrongWolfe"),
        "PolakRibiere": ("PolakRibiere", "exacter"),
        "Newton": ("Newton", "Backtracking"),
        "NewtonCG": ("NewtonCG", "Backtracking"),
    }
    optimistix = None if "optimistix" in missing else _Optimistix()
    for name in (name for family in FAMILIES.values() for name in family):
        package, method = name.split(" ", 1)
        if package == "thalweg":
            made[name] = ours(method)
        elif package == "scipy":
            made[name] = from_scipy(method)
        elif package == "pytorch-minimize" and package not in missing:
            made[name] = pytorch_minimize(method)
        elif package == "torchzero" and package not in missing:
            made[name] = torchzero(*chains[method])
        elif package == "optimistix" and optimistix is not None:
            made[name] = optimistix.solver(method)
    return {name: made[name] for family in FAMILIES.values() for name in family if name in made}
