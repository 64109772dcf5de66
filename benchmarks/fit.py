"""What ``fit`` costs: against the bare loop it replaces, each strategy alone, and a checkpoint.

    python -m benchmarks.fit --json benchmarks/results/fit.json

Steps: mlp:128,64 on 784 inputs at batch 64, Adam, on data in memory. The bare loop is what a careful
engineer writes: an order drawn once an epoch, ``zero_grad``, ``backward``, ``step``. ``fit`` does the same
with everything off; what is timed is the whole call, set-up included, of so many steps. Both come to the same
weights, which is checked. Each strategy is then timed against ``fit`` without it, with five evaluations in
both. In each round every contender takes its steps once, in an order drawn anew; ratios are taken within a
round. Besides the clock, CPU time is taken, which a busy machine disturbs less.

Checkpoints: how long the loop stands still for one, against copying the state's tensors alone; and what steps
take while one is written beside them.
"""

from __future__ import annotations

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from benchmarks import records
from torch import Tensor, nn

import thalweg
from thalweg.randomness.streams import order
from thalweg.run.directory import RunDirectory
from thalweg.strategies import (
    Averaging,
    BatchSize,
    Clipping,
    EarlyStopping,
    Guard,
    Initialization,
    ReduceOnPlateau,
    Snapshots,
    Strategy,
)
from thalweg.training.checkpoints import Writer

EXAMPLES, BATCH = 6400, 64
CHECKPOINTED = {"mlp:128,64": [784, 128, 64, 10], "10 million parameters": [784, 2900, 2600, 10]}
STRATEGIES: dict[str, Callable[[], Strategy]] = {
    "initialization": lambda: Initialization(scheme="he"),
    "guard": lambda: Guard(),
    "clipping by norm": lambda: Clipping(norm=1.0),
    "clipping by unit": lambda: Clipping(unit=0.05),
    "averaging": lambda: Averaging(),
    "snapshots": lambda: Snapshots(cycles=5),
    "plateau": lambda: ReduceOnPlateau(),
    "batch-size": lambda: BatchSize(growth=1.0),
    "early-stopping": lambda: EarlyStopping(patience=100),
}

draws = torch.Generator().manual_seed(0)
X = torch.rand(EXAMPLES, 784, generator=draws)
Y = torch.randint(10, (EXAMPLES,), generator=draws)


def network(widths: Sequence[int] = (784, 128, 64, 10)) -> nn.Sequential:
    """Return linear layers of these widths with ReLU between them, always the same."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def adam(parameters: Any) -> torch.optim.Optimizer:
    """The optimizer of all contenders."""
    return torch.optim.Adam(parameters, lr=1e-3, fused=True)


def bare(steps: int) -> nn.Module:
    """The loop that is replaced."""
    model = network()
    optimizer = adam(model.parameters())
    model.train()
    done, epoch = 0, 0
    while done < steps:
        indices = torch.from_numpy(order(EXAMPLES, seed=0, epoch=epoch))
        for begin in range(0, EXAMPLES - BATCH + 1, BATCH):
            chosen = indices[begin : begin + BATCH]
            optimizer.zero_grad()
            loss = F.cross_entropy(model(X[chosen]), Y[chosen])
            loss.backward()
            optimizer.step()
            done += 1
            if done == steps:
                break
        epoch += 1
    return model


def fit(steps: int, strategies: Sequence[Strategy] = (), validation: int = 0) -> nn.Module:
    """The same by ``fit``; with five evaluations on so many examples."""
    fitted = thalweg.fit(
        network(), (X, Y), F.cross_entropy, adam, strategies=strategies, steps=steps, batch_size=BATCH,
        evaluations=5 if validation else 1,
        validation=(X[:validation], Y[:validation]) if validation else None,
        metric="accuracy" if validation else None,
    )  # fmt: skip
    return fitted.model


def rounds_of(contenders: dict[str, Callable[[], Any]], rounds: int) -> dict[str, dict[str, list[float]]]:
    """Seconds on the clock and of CPU time, by contender: each once a round, in an order drawn anew."""
    mixed = random.Random(0)
    found: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in contenders} for kind in ("clock", "cpu")
    }
    for number in range(rounds + 1):
        for name in mixed.sample(list(contenders), len(contenders)):
            clock, cpu = time.perf_counter(), time.process_time()
            contenders[name]()
            if number:  # the first is warming up
                found["clock"][name].append(time.perf_counter() - clock)
                found["cpu"][name].append(time.process_time() - cpu)
    return found


def against(
    seconds: dict[str, dict[str, list[float]]], name: str, peer: str, steps: int
) -> dict[str, dict[str, float]]:
    """How many times as long as the peer, and how many microseconds a step more."""
    found = {}
    for kind, values in seconds.items():
        pairs = list(zip(values[name], values[peer], strict=True))
        found[f"times as long ({kind})"] = records.ratio(values[name], values[peer])
        found[f"microseconds more ({kind})"] = records.spread([a - b for a, b in pairs], 1e6 / steps)
    return found


def steps_of(rounds: int, steps: int) -> dict[str, Any]:
    """``fit`` against the bare loop."""
    same = zip(bare(150).state_dict().values(), fit(150).state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in same), "they don't do the same"
    seconds = rounds_of({"bare": lambda: bare(steps), "fit": lambda: fit(steps)}, rounds)
    return {
        "steps": steps,
        "microseconds a step, bare": records.spread(seconds["clock"]["bare"], 1e6 / steps),
        "set-up milliseconds": statistics.median(_timed(lambda: fit(1)) for _ in range(9)) * 1e3,
        **against(seconds, "fit", "bare", steps),
    }


def strategies_of(rounds: int, steps: int) -> dict[str, Any]:
    """Each strategy against ``fit`` without it."""
    contenders: dict[str, Callable[[], Any]] = {"nothing": lambda: fit(steps, (), 640)}
    for name, make in STRATEGIES.items():
        contenders[name] = lambda make=make: fit(steps, [make()], 640)  # type: ignore[misc]
    seconds = rounds_of(contenders, rounds)
    return {name: against(seconds, name, "nothing", steps) for name in STRATEGIES}


def checkpoints_of(rounds: int, widths: Sequence[int]) -> dict[str, Any]:
    """How long the loop stands still for a checkpoint, and what steps beside its writing take."""
    model = network(widths)
    optimizer = adam(model.parameters())
    batch, targets = X[:BATCH], Y[:BATCH]

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(model(batch), targets).backward()
        optimizer.step()

    step()

    def state() -> dict[str, Any]:
        return {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    tensors = _tensors(state())
    found: dict[str, list[float]] = {name: [] for name in ("stall", "copy", "written", "alone", "beside")}
    with tempfile.TemporaryDirectory() as folder, RunDirectory.create(Path(folder) / "run", {}) as directory:
        writer = Writer(directory)
        for number in range(rounds + 1):
            alone = statistics.median(_timed(step) for _ in range(10))
            copy_first = number % 2 == 0
            copy = _timed(lambda: [tensor.clone() for tensor in tensors]) if copy_first else 0.0
            begun = time.perf_counter()
            writer.save("last", state())
            stall = time.perf_counter() - begun
            beside = []
            while writer.busy:
                beside.append(_timed(step))
            writer.wait()
            written = time.perf_counter() - begun
            copy = copy or _timed(lambda: [tensor.clone() for tensor in tensors])
            if number:
                values = (stall, copy, written, alone, statistics.median(beside) if beside else alone)
                for name, value in zip(found, values, strict=True):
                    found[name].append(value)
        writer.close()
    return {
        "megabytes": sum(t.numel() * t.element_size() for t in tensors) / 1e6,
        "milliseconds": records.milliseconds(found),
        "stall against copy": records.ratio(found["stall"], found["copy"]),
        "stall against writing": records.ratio(found["stall"], found["written"]),
        "steps beside against alone": records.ratio(found["beside"], found["alone"]),
    }


def _timed(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    parts = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for part in parts for tensor in _tensors(part)]


def main() -> None:
    """Run what is asked for and write the results."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=1)
    parts = ["steps", "strategies", "checkpoints"]
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    results = records.begin(rounds=asked.rounds, threads=asked.threads)
    if "steps" in asked.parts:
        results["steps"] = steps_of(asked.rounds, asked.steps)
        _show("fit against the bare loop", results["steps"])
    if "strategies" in asked.parts:
        results["strategies"] = strategies_of(asked.rounds, asked.steps)
        for name, values in results["strategies"].items():
            _show(name, values)
    if "checkpoints" in asked.parts:
        results["checkpoints"] = {
            name: checkpoints_of(asked.rounds, widths) for name, widths in CHECKPOINTED.items()
        }
        for name, values in results["checkpoints"].items():
            _show(f"checkpoint of {name}", values)
    records.end(results, asked.json)


def _show(name: str, values: dict[str, Any]) -> None:
    print(name)
    for key, value in values.items():
        if isinstance(value, dict) and "median" in value:
            print(f"    {key}: {records.said(value, '.3f')}", flush=True)
        elif not isinstance(value, dict):
            print(f"    {key}: {value}", flush=True)


if __name__ == "__main__":
    main()
