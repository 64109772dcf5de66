"""What blurring gains besides: flatness, noise of the gradient, conditioning."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from thalweg.claims.claim import Claim, Known, Numbers, Size
from thalweg.claims.picture import Dots
from thalweg.claims.problems import digits, mlp
from thalweg.claims.rules import more
from thalweg.stages import blur

__all__ = ["CLAIM", "measure"]


def _gradient(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    at = point.clone().requires_grad_()
    return torch.autograd.grad(function(at), at)[0]


def _hessian(function: Callable[[Tensor], Tensor], point: Tensor) -> Tensor:
    at = point.clone().requires_grad_()
    (slope,) = torch.autograd.grad(function(at), at, create_graph=True)
    return torch.stack([torch.autograd.grad(each, at, retain_graph=True)[0] for each in slope])


def measure(
    seed: int,
    *,
    what: str,
    sigma: float = 10.0,
    samples: int = 128,
    width: int = 4,
    scale: float = 30.0,
    bias: float = 0.0,
) -> Numbers:
    """One number of a small saturated net's loss, sharp and blurred; in decades, the lower the better."""
    (x, y), _ = digits(seed, train=128, classes=range(3))
    x = x[:, 20:28]
    net = mlp([8, width, 3], seed, nn.Sigmoid)
    names = [name for name, _ in net.named_parameters()]
    shapes = [p.shape for p in net.parameters()]
    point = torch.cat([p.detach().flatten() for p in net.parameters()]).double()
    # the first layer is saturated, and blurred; the second stays as it is
    first = slice(0, 8 * width + width)
    point[first] *= scale
    point[8 * width : first.stop] += bias
    sizes = [math.prod(shape) for shape in shapes]

    def loss_on(inputs: Tensor, labels: Tensor) -> Callable[[Tensor], Tensor]:
        def loss(theta: Tensor) -> Tensor:
            theta = torch.cat([theta, point[first.stop :]])
            parts = [
                part.reshape(shape) for part, shape in zip(torch.split(theta, sizes), shapes, strict=True)
            ]
            outputs = torch.func.functional_call(
                net, dict(zip(names, parts, strict=True)), (inputs.double(),)
            )
            return nn.functional.cross_entropy(outputs, labels)

        return loss

    found = {}
    for name, noise in (("sharp", 0.0), ("blurred", sigma)):
        whole = blur(loss_on(x, y), noise, samples=samples, seed=seed) if noise else loss_on(x, y)
        slope = _gradient(whole, point[first])
        if what == "flatness":
            # a gradient that is larger is less flat
            found[name] = -math.log10(float(slope.norm()))
        elif what == "noise":
            parts = [loss_on(x[k : k + 8], y[k : k + 8]) for k in range(0, 128, 8)]
            slopes = [
                _gradient(blur(part, noise, samples=samples, seed=seed) if noise else part, point[first])
                for part in parts
            ]
            spread = torch.stack([(each - slope).square().sum() for each in slopes]).mean()
            found[name] = math.log10(float(spread / slope.square().sum()))
        else:
            values = torch.linalg.eigvalsh(_hessian(whole, point[first])).abs()
            found[name] = math.log10(float(values.max() / values.median()))
    return found


CLAIM = Claim(
    title="Blurring also removes flat regions, lowers the gradient's noise and improves conditioning",
    topic="stages",
    statement="Continuation helps beyond local minima: a blurred loss can have no flat regions, a "
    "gradient of less variance, and a better conditioned Hessian.",
    sources=("P7", "X13"),
    places="N",
    setup="A net with four sigmoid units whose first weights are thirty times the usual ones, on a "
    "part of the digits; the loss, and the loss blurred by 128 draws of noise 10 on the first layer. "
    "Compared are, in decades: the inverse of the gradient's norm, where biases of 25 hold all units "
    "saturated; the variance of gradients of 8 examples over the square of the mean gradient; and the "
    "largest over the median magnitude of the Hessian's eigenvalues.",
    against="A blurred loss that is no better by a twentieth of a decade.",
    about="The lecture says that a blurred loss can do so, not that it always does. What is measured "
    "is a point at which units are saturated, where flat regions are.",
    measure=measure,
    rule=(more("sharp", "blurred", matters=0.05, said="decades, sharp less blurred"),),
    conditions={
        "flat regions": {"what": "flatness", "bias": 25.0, "scale": 1.0},
        "variance of gradients": {"what": "noise"},
        "conditioning": {"what": "condition"},
    },
    quick=Size(seeds=16),
    full=Size(seeds=100, changes={"samples": 1024}),
    picture=Dots(values={"sharp": "the loss", "blurred": "blurred"}, axis="decades, the lower the better"),
    known=(
        Known(
            verdict="holds",
            why="far out in saturation only noise reaches where units answer",
            changes={"scale": 1.0, "sigma": 20.0, "samples": 64},
            conditions=("flat regions",),
            seeds=6,
        ),
        Known(
            verdict="does not hold",
            why="so little noise changes nothing",
            changes={"sigma": 1e-6, "samples": 8},
            conditions=("flat regions",),
            seeds=3,
        ),
    ),
)
