"""Small real problems: data, model and loss together, deterministic from a seed.

>>> from thalweg.test_problems import tasks
>>> digits = tasks.get("softmax-digits")
>>> digits.examples, [tuple(p.shape) for p in digits.parameters()]
(1077, [(10, 64), (10,)])
>>> digits.loss(digits.parameters())
tensor(2.3026, dtype=torch.float64)
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg import data, objectives
from thalweg.errors import OptionError, nearest
from thalweg.randomness import streams

__all__ = ["SmallProblem", "get", "names"]

PerExample = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class SmallProblem:
    """A model, its data and its loss, as functions of a list of parameters.

    ``loss(parameters) = scale * sum_n l(outputs_n, targets_n) + penalty / 2 * |weights|**2``, where scale is
    1/N for a mean over the N examples and 1 for a sum; the penalty leaves biases out.

    Attributes:
        name: as :func:`get` knows it.
        title: for people.
        summary: one line.
        source: where data and model come from.
        inputs: ``[N, ...]``.
        targets: ``[N, ...]``.
        scale: of the sum over examples.
        penalty: not negative; 0 for least squares.
        lowest: the global minimum of the loss, where it is known.
        solution: parameters there, where they are unique and known; certified to about eleven digits.
    """

    name: str
    title: str
    summary: str
    source: str
    inputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    scale: float
    penalty: float = 0.0
    lowest: float | None = None
    solution: tuple[float, ...] | None = None
    template: nn.Module = field(repr=False)
    per_example: PerExample | None = field(default=None, repr=False)

    @property
    def examples(self) -> int:
        """Number of examples N."""
        return len(self.targets)

    @property
    def least_squares(self) -> bool:
        """Whether the loss is a sum of squared :meth:`residuals`."""
        return self.per_example is None

    def module(self) -> nn.Module:
        """Return a new module at the starting point; ``module(inputs)`` gives outputs."""
        return copy.deepcopy(self.template)

    def parameters(self) -> list[Tensor]:
        """Return new tensors at the starting point, in the module's order; none requires a gradient."""
        return [p.detach().clone() for p in self.template.parameters()]

    def outputs(self, parameters: Sequence[Tensor], inputs: Tensor | None = None) -> Tensor:
        """Return the model's outputs ``[B, ...]`` for inputs ``[B, ...]``, by default for all examples.

        Raises:
            OptionError: as many parameters as the model has weren't given.
        """
        known = [name for name, _ in self.template.named_parameters()]
        if len(parameters) != len(known):
            raise OptionError(
                f"the task {self.name!r} has {len(known)} parameters, but {len(parameters)} were given; "
                "give a list like that of parameters()"
            )
        named = dict(zip(known, parameters, strict=True))
        made: Tensor = functional_call(self.template, named, (self.inputs if inputs is None else inputs,))
        return made

    def loss(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return the loss over all examples, a scalar."""
        return self._loss(parameters, self.inputs, self.targets)

    def batch_loss(self, parameters: Sequence[Tensor], indices: Tensor) -> Tensor:
        """Return the loss as the examples at ``indices [B]`` estimate it: unbiased for even draws."""
        return self._loss(parameters, self.inputs[indices], self.targets[indices])

    def residuals(self, parameters: Sequence[Tensor], indices: Tensor | None = None) -> Tensor:
        """Return residuals ``[B * numbers an example]``, whose sum of squares is the loss of these examples.

        Raises:
            OptionError: the loss is no sum of squares.
        """
        if not self.least_squares:
            raise OptionError(
                f"the loss of the task {self.name!r} is no sum of squares, so that it has no residuals; "
                "take its outputs, whose loss is convex"
            )
        chosen = slice(None) if indices is None else indices
        inputs, targets = self.inputs[chosen], self.targets[chosen]
        errors = self.outputs(parameters, inputs) - targets
        return math.sqrt(self._weight(len(targets))) * errors.flatten()

    def _weight(self, batch: int) -> float:
        return self.scale * self.examples / batch

    def _loss(self, parameters: Sequence[Tensor], inputs: Tensor, targets: Tensor) -> Tensor:
        outputs = self.outputs(parameters, inputs)
        weight = self._weight(len(targets))
        if self.per_example is None:
            return weight * (outputs - targets).square().sum()
        total = weight * self.per_example(outputs, targets).sum()
        if self.penalty:
            total = total + self.penalty / 2 * sum(p.square().sum() for p in parameters if p.ndim > 1)
        return total


@dataclass(frozen=True, kw_only=True)
class _Setting:
    seed: int
    dtype: torch.dtype
    device: torch.device

    def split(self, name: str) -> tuple[Tensor, Tensor, data.Prepared]:
        """Inputs and targets of the training part of a built-in data set, and what else is known of it."""
        prepared = data.prepare(data.load(name), seed=self.seed, replicate=0, device=self.device)
        examples = prepared.train
        assert isinstance(examples, data.TensorExamples)
        return examples.inputs.to(self.dtype), examples.targets, prepared

    def ready(self, module: nn.Module) -> nn.Module:
        return module.to(device=self.device, dtype=self.dtype)

    def drawn(self, make: Callable[[], nn.Module]) -> nn.Module:
        """A module as it is made under this seed; torch's generator stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(streams.seed32(self.seed, "initial"))
            return self.ready(make())


def _zeros(module: nn.Module) -> nn.Module:
    for p in module.parameters():
        nn.init.zeros_(p)
    return module


def _logistic(setting: _Setting) -> SmallProblem:
    inputs, targets, prepared = setting.split("breast-cancer")
    return SmallProblem(
        name="logistic-breast-cancer", title="Logistic regression",
        summary="malignant or benign from 30 measurements; strictly convex",
        source="breast-cancer (scikit-learn); penalty 1e-3",
        inputs=inputs, targets=targets, scale=1 / len(targets), penalty=1e-3,
        template=setting.drawn(lambda: _zeros(nn.Linear(30, 1))),
        per_example=objectives.loss("bce", prepared.task).per_example,
    )  # fmt: skip


def _softmax(setting: _Setting) -> SmallProblem:
    inputs, targets, prepared = setting.split("digits")
    return SmallProblem(
        name="softmax-digits", title="Softmax regression",
        summary="ten digits from 64 pixels; convex, 650 parameters",
        source="digits (scikit-learn); penalty 1e-3",
        inputs=inputs.flatten(1), targets=targets, scale=1 / len(targets), penalty=1e-3,
        template=setting.drawn(lambda: _zeros(nn.Linear(64, 10))),
        per_example=objectives.loss("cross-entropy", prepared.task).per_example,
    )  # fmt: skip


def _mlp(setting: _Setting) -> SmallProblem:
    inputs, targets, prepared = setting.split("digits")
    return SmallProblem(
        name="mlp-digits", title="Multilayer perceptron",
        summary="ten digits from 64 pixels through 32 tanh units; smooth and not convex",
        source="digits (scikit-learn); penalty 1e-4",
        inputs=inputs.flatten(1), targets=targets, scale=1 / len(targets), penalty=1e-4,
        template=setting.drawn(lambda: nn.Sequential(nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 10))),
        per_example=objectives.loss("cross-entropy", prepared.task).per_example,
    )  # fmt: skip


def _autoencoder(setting: _Setting) -> SmallProblem:
    pixels = setting.split("digits")[0].flatten(1)

    def build() -> nn.Module:
        widths = (64, 32, 8, 32, 64)
        layers = [nn.Linear(a, b) for a, b in itertools.pairwise(widths)]
        return nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2], nn.Tanh(), layers[3])

    return SmallProblem(
        name="autoencoder-digits", title="Autoencoder",
        summary="digits through eight numbers and back, 64-32-8-32-64 with tanh; mean squared error",
        source="digits (scikit-learn); after Hinton and Salakhutdinov 2006",
        inputs=pixels, targets=pixels, scale=1 / pixels.numel(), template=setting.drawn(build),
    )  # fmt: skip


class _Factors(nn.Module):
    """Row numbers ``[B]`` to rows ``[B, columns]`` of a product of two factors."""

    def __init__(self, rows: Tensor, columns: Tensor) -> None:
        super().__init__()
        self.rows, self.columns = nn.Parameter(rows), nn.Parameter(columns)

    def forward(self, numbers: Tensor) -> Tensor:
        return self.rows[numbers] @ self.columns.T


_RANK = 8


def _factorization(setting: _Setting) -> SmallProblem:
    matrix = setting.split("digits")[0].flatten(1)
    sizes = {"rows": len(matrix), "columns": matrix.shape[1]}
    factors = [
        0.1 * streams.normal((size, _RANK), seed=setting.seed, stream=name, dtype=torch.float64)
        for name, size in sizes.items()
    ]
    # Eckart and Young 1936: what no matrix of that rank can reach
    left_over = torch.linalg.svdvals(matrix.double())[_RANK:].square().sum()
    return SmallProblem(
        name="factorization-digits", title="Matrix factorization",
        summary=f"the matrix of digits as a product of rank {_RANK}; every minimum is global",
        source="digits (scikit-learn); minimum by Eckart and Young 1936",
        inputs=torch.arange(len(matrix), device=setting.device), targets=matrix,
        scale=1 / matrix.numel(), lowest=left_over.item() / matrix.numel(),
        template=setting.ready(_Factors(*factors)),
    )  # fmt: skip


class _Curve(nn.Module):
    """A formula of ``x [B]`` with a vector of parameters."""

    def __init__(self, start: Sequence[float], formula: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.formula = formula

    def forward(self, x: Tensor) -> Tensor:
        return self.formula(self.b, x)


def _misra1a_formula(b: Tensor, x: Tensor) -> Tensor:
    return b[0] * (1 - torch.exp(-b[1] * x))


def _thurber_formula(b: Tensor, x: Tensor) -> Tensor:
    powers = torch.stack((torch.ones_like(x), x, x.square(), x**3), -1)
    return (powers @ b[:4]) / (1 + powers[:, 1:] @ b[4:])


# fmt: off
_MISRA1A = (
    (77.6, 114.9, 141.1, 190.8, 239.9, 289.0, 332.8, 378.4, 434.8, 477.3, 536.8, 593.1, 689.1, 760.0),
    (10.07, 14.73, 17.94, 23.93, 29.61, 35.18, 40.02, 44.82, 50.76, 55.05, 61.01, 66.40, 75.47, 81.78),
)
_THURBER = (
    (-3.067, -2.981, -2.921, -2.912, -2.840, -2.797, -2.702, -2.699, -2.633, -2.481, -2.363, -2.322, -1.501,
     -1.460, -1.274, -1.212, -1.100, -1.046, -0.915, -0.714, -0.566, -0.545, -0.400, -0.309, -0.109, -0.103,
     0.010, 0.119, 0.377, 0.790, 0.963, 1.006, 1.115, 1.572, 1.841, 2.047, 2.200),
    (80.574, 84.248, 87.264, 87.195, 89.076, 89.608, 89.868, 90.101, 92.405, 95.854, 100.696, 101.060,
     401.672, 390.724, 567.534, 635.316, 733.054, 759.087, 894.206, 990.785, 1090.109, 1080.914, 1122.643,
     1178.351, 1260.531, 1273.514, 1288.339, 1327.543, 1353.863, 1414.509, 1425.208, 1421.384, 1442.962,
     1464.350, 1468.705, 1447.894, 1457.628),
)
# fmt: on


def _misra1a(setting: _Setting) -> SmallProblem:
    x, y = (torch.tensor(one, dtype=setting.dtype, device=setting.device) for one in _MISRA1A)
    return SmallProblem(
        name="misra1a", title="Curve fit: monomolecular adsorption",
        summary="b1 * (1 - exp(-b2 * x)) through 14 measurements; certified, lower difficulty",
        source="NIST StRD Misra1a, first start; Misra 1978",
        inputs=x, targets=y, scale=1.0, lowest=1.2455138894e-01,
        solution=(2.3894212918e02, 5.5015643181e-04),
        template=setting.ready(_Curve((500.0, 1e-4), _misra1a_formula)),
    )  # fmt: skip


def _thurber(setting: _Setting) -> SmallProblem:
    x, y = (torch.tensor(one, dtype=setting.dtype, device=setting.device) for one in _THURBER)
    return SmallProblem(
        name="thurber", title="Curve fit: electron mobility",
        summary="a cubic over a cubic through 37 measurements; certified, higher difficulty",
        source="NIST StRD Thurber, first start; Thurber, NIST",
        inputs=x, targets=y, scale=1.0, lowest=5.6427082397e03,
        solution=(
            1.2881396800e03, 1.4910792535e03, 5.8323836877e02, 7.5416644291e01, 9.6629502864e-01,
            3.9797285797e-01, 4.9727297349e-02,
        ),
        template=setting.ready(_Curve((1000.0, 1000.0, 400.0, 40.0, 0.7, 0.3, 0.03), _thurber_formula)),
    )  # fmt: skip


_FACTORIES: dict[str, Callable[[_Setting], SmallProblem]] = {
    "logistic-breast-cancer": _logistic,
    "softmax-digits": _softmax,
    "mlp-digits": _mlp,
    "autoencoder-digits": _autoencoder,
    "factorization-digits": _factorization,
    "misra1a": _misra1a,
    "thurber": _thurber,
}


def names() -> tuple[str, ...]:
    """Return the names of all tasks: convex ones first.

    >>> names()[:3]
    ('logistic-breast-cancer', 'softmax-digits', 'mlp-digits')
    """
    return tuple(_FACTORIES)


def get(
    name: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> SmallProblem:
    """Build a task.

    Args:
        name: one of :func:`names`.
        seed: decides which 60 % of the rows are taken, and the starting point; the curve fits have neither.
        dtype: ``torch.float64`` or ``torch.float32``, of data and parameters.
        device: where they lie.

    Raises:
        OptionError: an unknown name, another dtype.

    >>> fit = get("misra1a")
    >>> fit.residuals(fit.parameters()).shape, fit.lowest
    (torch.Size([14]), 0.12455138894)
    """
    if name not in _FACTORIES:
        raise OptionError(f"there is no task {name!r}; {nearest(name, _FACTORIES)}")
    if dtype not in (torch.float64, torch.float32):
        raise OptionError(
            f"the task {name!r} can't have dtype {dtype}; choose torch.float64 or torch.float32"
        )
    return _FACTORIES[name](_Setting(seed=seed, dtype=dtype, device=torch.device(device)))
