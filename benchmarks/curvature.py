"""What curvature costs: products in gradients, and products to 1 % of lambda_max.

    python -m benchmarks.curvature --json benchmarks/results/curvature.json

A product is timed on a fixed probe, its graph kept (``held``), against a gradient of the same batch; medians
over rounds that alternate. "To 1 %" is measured: the first number of products at which the value is within
1 % of one found to a ten-thousandth, beside what lanczos takes by its own tolerance.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks import records
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.curvature import Hessian, lanczos


class Last(nn.Module):
    """An LSTM's last output, to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.LSTM(28, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.outer(self.inner(x)[0][:, -1])
        return found


def conv(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten(),
        nn.Linear(32 * 49, width), nn.ReLU(), nn.Linear(width, 10),
    )  # fmt: skip


def mlp(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    )


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp-784-128-128-10": (lambda: mlp(128), (784,)),
    "cnn-16-32-128": (lambda: conv(128), (1, 28, 28)),
    "lstm-28-128": (Last, (28, 28)),
    "mlp-50k": (lambda: mlp(60), (784,)),
    "mlp-5M": (lambda: mlp(1870), (784,)),
}


def batch(shape: tuple[int, ...], n: int = 128) -> tuple[Tensor, Tensor]:
    """Return inputs about means of their classes."""
    y = torch.randint(10, (n,))
    return 0.5 * torch.randn(10, *shape)[y] + torch.randn(n, *shape), y


def timed(do: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    do()
    return time.perf_counter() - begun


def product_in_gradients(model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> dict[str, Any]:
    hessian = Hessian(model, "cross-entropy", (x, y))
    params = list(model.parameters())
    v = [torch.randn_like(p) for p in params]

    def gradient() -> None:
        torch.autograd.grad(F.cross_entropy(model(x), y), params)

    pairs = []
    with hessian.held():
        hessian @ v
        gradient()
        for _ in range(rounds):
            pairs.append((timed(lambda: hessian @ v), timed(gradient)))
    products, gradients = zip(*pairs, strict=True)
    return {
        "way": hessian.way,
        "gradient_ms": records.spread(gradients, 1e3),
        "product_in_gradients": records.ratio(products, gradients),
    }


def to_one_percent(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, Any]:
    hessian = Hessian(model, "cross-entropy", (x, y))
    exact = lanczos(hessian, ends="largest", tolerance=1e-4, most_products=300).largest.value
    own = lanczos(hessian, ends="largest")
    first = next(
        most
        for most in range(1, 301)
        if abs(
            lanczos(hessian, ends="largest", most_products=most, tolerance=1e-12).largest.value / exact - 1
        )
        <= 0.01
    )
    return {
        "products_by_own_tolerance": own.products,
        "error_then": abs(own.largest.value / exact - 1),
        "residual_then": own.largest.residual / exact,
        "products_to_one_percent": first,
    }


def main() -> None:
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--nets", nargs="*", default=list(NETS), choices=list(NETS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = records.begin(rounds=arguments.rounds, threads=1)
    results["nets"] = {}
    for name in arguments.nets:
        torch.manual_seed(0)
        make, shape = NETS[name]
        model = make()
        x, y = batch(shape)
        rows = {"elements": sum(p.numel() for p in model.parameters())}
        rows |= product_in_gradients(model, x, y, arguments.rounds)
        rows |= to_one_percent(model, x, y)
        results["nets"][name] = rows
        ratio = records.said(rows["product_in_gradients"])
        print(f"{name}, {rows['elements']} weights: a product is {ratio} gradients ({rows['way']})")
        print(f"  to 1 % {rows['products_to_one_percent']}, by tolerance {rows['products_by_own_tolerance']}")
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
