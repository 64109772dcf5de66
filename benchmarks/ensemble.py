"""Sixteen small models as lanes against one after another: the same recipe, the same members.

    python -m benchmarks.ensemble --json benchmarks/results/ensemble.json

What is timed is ``thalweg.fit_ensemble`` as a person calls it: building the members, every step, the
evaluation of the validation split before and after, and judging the ensemble; where lanes are asked for also
the trial that decides how many go into a program, and with ``auto`` the measurement that chooses them. Data
are in memory. In each round everything runs once, in an order drawn anew, after some runs for warmth; ratios
are taken within the round. The loop gets one thread where it is faster so, as it is over models this small.
"""

from __future__ import annotations

import os

os.environ.setdefault("MKL_CBWR", "AVX2")  # as the command does, before the first matrix product

import random
import time
from typing import Any, Literal

import torch
from benchmarks import records

import thalweg
from thalweg.ensembles import Ensemble

CASES: list[dict[str, Any]] = [
    {"name": "mlp 64-32-10", "model": "mlp:32", "inputs": 64, "examples": 1077, "epochs": 6},
    {"name": "mlp 64-64-32-10", "model": "mlp:64,32", "inputs": 64, "examples": 1077, "epochs": 4},
    {"name": "mlp 784-64-10", "model": "mlp:64", "inputs": 784, "examples": 2048, "epochs": 1},
]
MEMBERS, BATCH = 16, 32


def data(case: dict[str, Any], rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise with labels: what is learned doesn't matter to the clock."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, case["inputs"], generator=generator)
    return x, torch.arange(rows) % 10


def compare(case: dict[str, Any], rounds: int) -> dict[str, Any]:
    """Time both ways, in turn."""
    training, validation = data(case, case["examples"]), data(case, 256)

    def train(engine: Literal["auto", "lanes", "loop"], threads: int) -> Ensemble:
        torch.set_num_threads(threads)
        return thalweg.fit_ensemble(
            case["model"], training, "cross-entropy", "adam", "cosine", members=MEMBERS, engine=engine,
            epochs=case["epochs"], batch_size=BATCH, evaluations=1, validation=validation, metric="accuracy",
            hyperparameters={"lr": 1e-3},
        )  # fmt: skip

    def timed(engine: Literal["auto", "lanes", "loop"], threads: int) -> float:
        begin = time.perf_counter()
        train(engine, threads)
        return time.perf_counter() - begin

    cores, best = os.cpu_count() or 1, {}
    for engine in ("lanes", "loop"):
        times = {}
        for threads in sorted({1, cores}):
            train(engine, threads)  # type: ignore[arg-type]
            times[threads] = timed(engine, threads)  # type: ignore[arg-type]
        best[engine] = min(times, key=times.__getitem__)
    best["auto"] = best["lanes"]
    members = {engine: train(engine, best[engine]) for engine in ("lanes", "loop")}  # type: ignore[arg-type]
    apart = max(
        float((a - b).abs().max())
        for one, other in zip(members["lanes"].models, members["loop"].models, strict=True)
        for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )
    seconds: dict[str, list[float]] = {"lanes": [], "auto": [], "loop": []}
    names = list(seconds)
    for number in range(rounds):
        random.Random(number).shuffle(names)
        for name in names:
            seconds[name].append(timed(name, best[name]))  # type: ignore[arg-type]
    return {
        "case": case["name"],
        "members": MEMBERS,
        "steps": case["examples"] // BATCH * case["epochs"],
        "batch": BATCH,
        "threads": best,
        "largest_difference_of_a_weight": apart,
        "seconds": {name: records.spread(values) for name, values in seconds.items()},
        "times_faster": {name: records.ratio(seconds["loop"], seconds[name]) for name in ("lanes", "auto")},
    }


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="rounds (default 9)")
    parser.add_argument("--cases", nargs="+", type=int, default=list(range(len(CASES))))
    arguments = parser.parse_args()
    results = records.begin("numpy", "numba", rounds=arguments.rounds)
    results["cases"] = []
    for number in arguments.cases:
        result = compare(CASES[number], arguments.rounds)
        results["cases"].append(result)
        print(result["case"], result["threads"], result["seconds"], result["times_faster"], flush=True)
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
