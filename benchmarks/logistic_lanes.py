"""Independent logistic regressions: `thalweg.minimize(..., lanes=True)` against a loop of torch.optim.LBFGS.

    python -m benchmarks.logistic_lanes --json benchmarks/results/logistic_lanes.json

Each of the K problems has data of its own (64 examples of 16 features, drawn from a seed; penalty 0.01 /
2 on the weights) and is solved in float64 until the largest magnitude in its gradient is within the
tolerance, which is checked afterwards for both sides. The loop runs torch.optim.LBFGS with its strong
Wolfe search and the same history, one problem after another, all iterations in one call of ``step``.
Rounds alternate in order; the ratio is computed within a round.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks import records
from torch import Tensor

import thalweg
from thalweg.randomness import streams

EXAMPLES, FEATURES, HISTORY, PENALTY = 64, 16, 10, 0.01


def problems(count: int) -> tuple[Tensor, Tensor]:
    """Return inputs ``[K, examples, features]`` and labels ``[K, examples]`` of -1 and 1."""
    inputs = streams.normal((count, EXAMPLES, FEATURES), seed=0, stream="inputs").double()
    weights = streams.normal((count, FEATURES), seed=0, stream="weights").double()
    noise = streams.normal((count, EXAMPLES), seed=0, stream="noise").double()
    return inputs, torch.where(torch.einsum("kef,kf->ke", inputs, weights) + noise > 0, 1.0, -1.0)


def together(inputs: Tensor, labels: Tensor, tolerance: float) -> Tensor:
    """Solve all at once."""
    signed = inputs * labels[..., None]

    def loss(w: Tensor) -> Tensor:
        margins = torch.bmm(signed, w[..., None])[..., 0]
        return torch.nn.functional.softplus(-margins).mean(-1) + PENALTY / 2 * (w * w).sum(-1)

    start = inputs.new_zeros(len(inputs), FEATURES)
    return thalweg.minimize(loss, start, method="lbfgs", tolerance=tolerance, lanes=True).x


def one_by_one(inputs: Tensor, labels: Tensor, tolerance: float) -> Tensor:
    """Solve one after another with torch.optim.LBFGS."""
    found = []
    for x, y in zip(inputs, labels, strict=True):
        signed = x * y[:, None]
        w = x.new_zeros(FEATURES).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [w], max_iter=1000, tolerance_grad=tolerance, tolerance_change=0.0, history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure(
            w: Tensor = w, signed: Tensor = signed, optimizer: torch.optim.LBFGS = optimizer
        ) -> Tensor:
            optimizer.zero_grad()
            loss = torch.nn.functional.softplus(-(signed @ w)).mean() + PENALTY / 2 * (w @ w)
            loss.backward()
            return loss

        optimizer.step(closure)
        found.append(w.detach())
    return torch.stack(found)


def largest_gradient(inputs: Tensor, labels: Tensor, w: Tensor) -> float:
    """Return the largest magnitude in any gradient, from its formula."""
    signed = inputs * labels[..., None]
    shares = torch.sigmoid(-torch.einsum("kef,kf->ke", signed, w))
    gradient = -torch.einsum("kef,ke->kf", signed, shares) / EXAMPLES + PENALTY * w
    return float(gradient.abs().max())


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--rounds", type=int, default=15, help="of timing (default 15)")
    parser.add_argument("--counts", type=int, nargs="+", default=[64], help="how many problems (default 64)")
    parser.add_argument("--tolerance", type=float, default=1e-6)
    parser.add_argument("--threads", type=int, default=1, help="for both (default 1)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds = 3 if arguments.quick else arguments.rounds
    results = records.begin(
        "numpy",
        rounds=rounds,
        threads=arguments.threads,
        tolerance=arguments.tolerance,
        problem={"examples": EXAMPLES, "features": FEATURES, "penalty": PENALTY, "history": HISTORY},
    )
    results["results"] = []
    for count in arguments.counts:
        inputs, labels = problems(count)
        sides: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
            "thalweg lanes": together,
            "torch LBFGS, a loop": one_by_one,
        }
        gradients = {}
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for name, solve in sides.items():
            gradients[name] = largest_gradient(inputs, labels, solve(inputs, labels, arguments.tolerance))
            # rounding between our formula and autograd's
            assert gradients[name] <= arguments.tolerance * (1 + 1e-6), (name, gradients[name])
        for number in range(rounds):
            for name in sorted(sides, reverse=bool(number % 2)):
                begin = time.perf_counter()
                sides[name](inputs, labels, arguments.tolerance)
                seconds[name].append(time.perf_counter() - begin)
        ours, theirs = seconds["thalweg lanes"], seconds["torch LBFGS, a loop"]
        result: dict[str, Any] = {
            "problems": count,
            "milliseconds": records.milliseconds(seconds),
            "times_faster": records.ratio(theirs, ours),
            "largest_gradient": gradients,
        }
        results["results"].append(result)
        times = ", ".join(f"{name} {row['median']:.1f} ms" for name, row in result["milliseconds"].items())
        print(f"{count} problems: {times}; times as fast {records.said(result['times_faster'], '.1f')}")
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
