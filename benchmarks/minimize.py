"""`thalweg.minimize` against its peers on all surfaces and tasks, to the same tolerance, in float64.

    python -m benchmarks.minimize --json benchmarks/results/minimize.json

Each problem is solved from its standard start and from seeded perturbations of it. A first pass counts:
the function is wrapped so that autograd itself counts evaluations, gradients and Hessian products, the
same for all, up to a limit; whoever returned a point is judged by the gradient that we compute there. A
second pass times, without the wrapper, the solves that succeeded: a few rounds, in an order drawn anew.
For optimistix the function stays torch's, which its compiled steps call; compiling isn't timed.

The cost of a solve is its evaluations and, for those who use curvature, its Hessian products (a Hessian
counts n). A performance profile (Dolan and More, 2002) is the share of problems that a solver solved at
no more than tau times the cost of the best in its family; the area under it, over log2(tau) from 0 to 4,
is 1 for who is always best. Problems that nobody in the family solved are left out.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import threadpoolctl
import torch
from benchmarks import records
from benchmarks.minimizers import FAMILIES, Function, Solver, absent, solvers
from torch import Tensor

from thalweg.randomness import streams
from thalweg.test_problems import surfaces, tasks

RATIOS = (1.0, 1.5, 2.0, 4.0, 8.0)
LARGEST_RATIO = 16.0
# who keeps a matrix isn't asked about more elements than these
LARGEST_MATRIX = 1000
WITH_MATRIX = {*FAMILIES["BFGS"], "thalweg newton", "pytorch-minimize newton-exact", "torchzero Newton"}


@dataclass(frozen=True)
class Instance:
    """A function of a vector, where to start, and when it counts as solved."""

    problem: str
    start: int
    function: Function = field(repr=False)
    x0: Tensor = field(repr=False)
    tolerance: float
    limit: int

    @property
    def name(self) -> str:
        return f"{self.problem}/{self.start}"


class Spent(Exception):
    """The limit of evaluations was reached."""


class Watched:
    """A function whose evaluations, gradients and Hessian products autograd counts.

    Args:
        instance: the function, its tolerance and its limit.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.evaluations = self.gradients = self.products = 0
        self.within: list[Tensor] = []
        self.asked = 0
        self.in_product = False

    def __call__(self, x: Tensor) -> Tensor:
        if self.evaluations >= self.instance.limit:
            raise Spent
        self.evaluations += 1
        self.in_product = False
        return self.instance.function(_Gradient.apply(x, self) if x.requires_grad else x)

    def saw(self, x: Tensor, gradient: Tensor) -> None:
        self.gradients += 1
        if float(gradient.detach().abs().max()) <= self.instance.tolerance:
            self.within.append(x)

    def stop(self, x: Tensor) -> bool:
        """Whether a gradient within the tolerance was seen at this point."""
        self.asked += 1
        return any(torch.equal(x.detach().flatten(), seen) for seen in self.within)


def batched(tensor: Tensor) -> bool:
    """Whether autograd propagates several vectors at once, one for each element."""
    return bool(torch._C._functorch.is_legacy_batchedtensor(tensor))


class _Gradient(torch.autograd.Function):
    """The identity, on which every gradient passes by."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, watched: Watched) -> Tensor:
        ctx.watched, ctx.point = watched, x.detach().clone()
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        watched = ctx.watched
        # the way of a product ends here, too
        if watched.in_product:
            return gradient, None
        watched.saw(ctx.point, gradient)
        return _Product.apply(gradient, watched), None


class _Product(torch.autograd.Function):
    """The identity, on which every product of the Hessian with a vector passes by."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, watched: Watched) -> Tensor:
        ctx.watched = watched
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, v: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        watched = ctx.watched
        watched.products += v.numel() if batched(v) else 1
        if watched.evaluations + watched.products > watched.instance.limit:
            raise Spent
        watched.in_product = True
        return v, None


def flat_task(problem: tasks.SmallProblem) -> tuple[Function, Tensor]:
    """Return a task's loss as a function of one vector, and its start."""
    parameters = problem.parameters()
    sizes = [p.numel() for p in parameters]
    shapes = [p.shape for p in parameters]

    def loss(x: Tensor) -> Tensor:
        return problem.loss([part.view(shape) for part, shape in zip(x.split(sizes), shapes, strict=True)])

    return loss, torch.cat([p.reshape(-1) for p in parameters])


def instances(starts: int, task_starts: int, limit: int, task_limit: int) -> list[Instance]:
    """Return all problems: start 0 is the standard one, the others are about 10 % away from it."""
    made = []
    for name in surfaces.names():
        surface = surfaces.get(name)
        for number in range(starts):
            x0 = moved(surface.initial(), number)
            made.append(Instance(name, number, surface, x0, 1e-6, limit))
    for name in tasks.names():
        function, x = flat_task(tasks.get(name))
        for number in range(task_starts):
            made.append(Instance(name, number, function, moved(x, number), 1e-4, task_limit))
    return made


def moved(x: Tensor, number: int) -> Tensor:
    """Return the start of that number."""
    if number == 0:
        return x
    noise = streams.normal(tuple(x.shape), seed=0, stream="starts", step=number).to(x.dtype)
    return x + 0.1 * noise * x.abs().clamp(min=float(x.abs().mean()) or 1.0)


@dataclass
class Solve:
    """What came out of one solver on one instance."""

    outcome: str
    evaluations: int
    gradients: int
    products: int
    gradient: float = math.nan
    value: float = math.nan
    asked: int = 0
    seconds: list[float] = field(default_factory=list)

    @property
    def solved(self) -> bool:
        return self.outcome == "solved"

    @property
    def cost(self) -> float:
        return self.evaluations + self.products if self.solved else math.inf

    @property
    def time(self) -> float:
        return statistics.median(self.seconds) if self.seconds else math.inf


def count(solver: Solver, instance: Instance) -> Solve:
    """Solve once, counting, and judge the point that is returned."""
    watched = Watched(instance)
    found, outcome = None, "limit"
    try:
        found = solver(watched, instance.x0, instance.tolerance, instance.limit, watched.stop)
    except Exception as error:
        # a limit reached within a compiled step arrives as another error
        if not isinstance(error, Spent) and watched.evaluations + watched.products < instance.limit:
            outcome = f"raised {type(error).__name__}"
    solve = Solve(outcome, watched.evaluations, watched.gradients, watched.products, asked=watched.asked)
    if found is not None:
        x = found.detach().clone().requires_grad_()
        value = instance.function(x)
        (gradient,) = torch.autograd.grad(value, x)
        solve.value, solve.gradient = value.item(), float(gradient.abs().max())
        if solve.gradient <= instance.tolerance:
            solve.outcome = "solved"
        elif watched.evaluations + watched.products < instance.limit:
            solve.outcome = "stopped short"
    return solve


def timed(solver: Solver, instance: Instance, asked: int) -> float:
    """Return seconds of a solve that is known to succeed; it ends where it ended before."""
    left = asked

    def stop(x: Tensor) -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    begin = time.perf_counter()
    solver(instance.function, instance.x0, instance.tolerance, instance.limit, stop)
    return time.perf_counter() - begin


def run(
    contenders: dict[str, Solver], problems: list[Instance], rounds: int, longest_seconds: float
) -> dict[str, dict[str, Solve]]:
    """Count every solve, then time those that succeeded."""
    table: dict[str, dict[str, Solve]] = {name: {} for name in contenders}
    for instance in problems:
        for name, solver in contenders.items():
            large = len(instance.x0) > LARGEST_MATRIX and name in WITH_MATRIX
            table[name][instance.name] = Solve("too large", 0, 0, 0) if large else count(solver, instance)
        order = [name for name in contenders if table[name][instance.name].solved]
        spent = dict.fromkeys(order, 0.0)
        for number in range(rounds):
            random.Random(number).shuffle(order)
            for name in order:
                # what takes long varies little
                if number and spent[name] > longest_seconds:
                    continue
                solve = table[name][instance.name]
                seconds = timed(contenders[name], instance, solve.asked)
                spent[name] += seconds
                solve.seconds.append(seconds)
    return table


def profile(costs: dict[str, list[float]]) -> dict[str, dict[str, Any]]:
    """Return for each solver the area under its performance profile and the profile at some ratios.

    >>> made = profile({"a": [1.0, 4.0, math.inf], "b": [2.0, 4.0, math.inf]})
    >>> made["a"]["area"], made["b"]["area"], made["b"]["within"]["1.5"]
    (1.0, 0.875, 0.5)
    """
    best = [min(row) for row in zip(*costs.values(), strict=True)]
    kept = [i for i, least in enumerate(best) if math.isfinite(least)]
    made = {}
    for name, row in costs.items():
        ratios = [row[i] / best[i] for i in kept]
        # the area under a step function of log2(tau) that rises at each ratio
        gains = [max(0.0, 1 - math.log2(ratio) / math.log2(LARGEST_RATIO)) for ratio in ratios]
        made[name] = {
            "area": statistics.fmean(gains),
            "solved": sum(math.isfinite(ratio) for ratio in ratios),
            "of": len(kept),
            "within": {str(tau): statistics.fmean(ratio <= tau for ratio in ratios) for tau in RATIOS},
        }
    return made


def profiles(table: dict[str, dict[str, Solve]]) -> dict[str, dict[str, Any]]:
    """Return profiles of evaluations and of time, for each family and for all together."""
    made: dict[str, dict[str, Any]] = {}
    for family, names in (*FAMILIES.items(), ("all", tuple(table))):
        chosen = [name for name in names if name in table]
        measures: dict[str, Callable[[Solve], float]] = {
            "evaluations": lambda s: s.cost,
            "time": lambda s: s.time,
        }
        made[family] = {
            label: profile({name: [measure(s) for s in table[name].values()] for name in chosen})
            for label, measure in measures.items()
            if label == "evaluations" or any(s.seconds for name in chosen for s in table[name].values())
        }
    return made


def missed(table: dict[str, dict[str, Solve]]) -> list[dict[str, str]]:
    """Return where a peer of the family reached a stationary point and ours didn't."""
    found = []
    for family, names in FAMILIES.items():
        mine = [name for name in names if name in table and name.startswith("thalweg ")]
        peers = [name for name in names if name in table and name not in mine]
        for name in mine:
            for instance, solve in table[name].items():
                able = [peer for peer in peers if table[peer][instance].solved]
                if able and not solve.solved:
                    found.append(
                        {"family": family, "solver": name, "instance": instance, "outcome": solve.outcome,
                         "gradient": f"{solve.gradient:.2e}", "reached by": ", ".join(able)}
                    )  # fmt: skip
    return found


def tables(made: dict[str, dict[str, Any]]) -> str:
    """Return the profiles as Markdown."""
    lines = []
    for family, measures in made.items():
        for label, rows in measures.items():
            heads = " | ".join(f"within {tau:g}" for tau in RATIOS)
            lines += [f"**{family}, {label}**", "", f"| solver | area | solved | {heads} |"]
            lines += ["|---" * (3 + len(RATIOS)) + "|"]
            for name, row in sorted(rows.items(), key=lambda item: -item[1]["area"]):
                cells = " | ".join(f"{share:.0%}" for share in row["within"].values())
                lines.append(f"| {name} | {row['area']:.3f} | {row['solved']}/{row['of']} | {cells} |")
            lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--markdown", type=Path, help="file for the tables")
    parser.add_argument("--quick", action="store_true", help="standard starts of the surfaces, one round")
    parser.add_argument("--rounds", type=int, default=3, help="of timing (default 3); 0: count only")
    parser.add_argument("--starts", type=int, default=3, help="of each surface (default 3)")
    parser.add_argument("--task-starts", type=int, default=2, help="of each task (default 2)")
    parser.add_argument("--limit", type=int, default=1000, help="evaluations of a surface (default 1000)")
    parser.add_argument("--task-limit", type=int, default=500, help="evaluations of a task (default 500)")
    parser.add_argument("--solvers", nargs="+", help="words: solvers with one of them in their names")
    parser.add_argument("--problems", nargs="+", help="names of surfaces and tasks")
    parser.add_argument("--threads", type=int, default=1, help="for all contenders (default 1)")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.starts, arguments.task_starts = min(arguments.rounds, 1), 1, 0

    torch.set_num_threads(arguments.threads)
    peers = ("numpy", "scipy", "jax", "pytorch-minimize", "torchzero", "optimistix")
    results = records.begin(*peers, rounds=arguments.rounds, threads=arguments.threads)
    contenders = {
        name: solver
        for name, solver in solvers().items()
        if not arguments.solvers or any(word in name for word in arguments.solvers)
    }
    problems = [
        instance
        for instance in instances(
            arguments.starts, arguments.task_starts, arguments.limit, arguments.task_limit
        )
        if not arguments.problems or instance.problem in arguments.problems
    ]
    begin = time.perf_counter()
    # scipy's L-BFGS-B lets BLAS start threads of its own on vectors of ten elements
    with threadpoolctl.threadpool_limits(arguments.threads):
        table = run(contenders, problems, arguments.rounds, longest_seconds=0.3)
    made = profiles(table)
    print(tables(made))
    for line in missed(table):
        print(line)
    results |= {
        "seconds": time.perf_counter() - begin,
        "absent": absent(),
        "largest_ratio": LARGEST_RATIO,
        "profiles": made,
        "missed": missed(table),
        "columns": ["outcome", "evaluations", "gradients", "products", "milliseconds", "gradient", "value"],
        "solves": {name: {key: row(solve) for key, solve in found.items()} for name, found in table.items()},
    }
    print(f"{len(problems)} instances, {results['seconds']:.0f} s")
    records.write(tables(made), arguments.markdown)
    records.end(results, arguments.json, compact)


def row(solve: Solve) -> list[Any]:
    """Return a solve in the order of ``columns``; None for what isn't a number."""
    numbers = (solve.time * 1e3, solve.gradient, solve.value)
    rounded = [float(f"{v:.4g}") if math.isfinite(v) else None for v in numbers]
    return [solve.outcome, solve.evaluations, solve.gradients, solve.products, *rounded]


def compact(results: dict[str, Any]) -> str:
    """Return JSON with one line a solve."""
    solves = results.pop("solves")
    text = json.dumps(results, indent=1)[:-2]
    parts = [
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"   {json.dumps(key)}: {json.dumps(line)}" for key, line in found.items())
        + "\n  }"
        for name, found in solves.items()
    ]
    return text + ',\n "solves": {\n' + ",\n".join(parts) + "\n }\n}\n"


if __name__ == "__main__":
    main()
