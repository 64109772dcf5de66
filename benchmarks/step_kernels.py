"""One optimizer step: thalweg against torch's for-loop, foreach and fused, side by side in one run.

    python -m benchmarks.step_kernels --json benchmarks/results/step_kernels.json

What is timed is ``optimizer.step()`` as a user calls it, Python included, with parameters, gradients and
states of each contender's own. In each round every contender takes one block of steps, in an order drawn
anew; a ratio is computed within a round, so that a machine that grows slower does so for all of them.
The triad ``a += s * b`` is torch's, in place, over as many elements in one tensor, in the same rounds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from thalweg import optim, runtimes

MOMENTUM = {"lr": 1e-3, "momentum": 0.9}
# name, our class, torch's, arguments, bytes a float32 element: 4 for each column read or written.
OPTIMIZERS: list[tuple[str, Any, Any, dict[str, Any], int]] = [
    ("sgd-momentum", optim.SGD, torch.optim.SGD, MOMENTUM, 20),
    ("adagrad", optim.Adagrad, torch.optim.Adagrad, {}, 20),
    ("rmsprop", optim.RMSprop, torch.optim.RMSprop, {}, 20),
    ("adam", optim.Adam, torch.optim.Adam, {}, 28),
    ("adamw", optim.AdamW, torch.optim.AdamW, {}, 28),
]
TRIAD_BYTES = 12
PEERS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
# A block lasts about this long: long against the clock, short against what else the machine does.
BLOCK_SECONDS = 0.02


def tensor_sets() -> dict[str, list[tuple[int, ...]]]:
    """Four hundred small vectors, a ResNet-34 of half the width, six large matrices."""
    draws = random.Random(0)
    small = [(draws.randrange(64, 1025),) for _ in range(400)]
    convolutions: list[tuple[int, ...]] = [(32, 3, 7, 7)]
    before = 32
    for width, blocks in ((32, 3), (64, 4), (128, 6), (256, 3)):
        for block in range(blocks):
            convolutions += [(width, before, 3, 3), (width, width, 3, 3)]
            if block == 0 and before != width:
                convolutions.append((width, before, 1, 1))
            before = width
    norms = [(shape[0],) for shape in convolutions[1:] for _ in range(2)]
    return {
        "400 small": small,
        "106 convolution-like": convolutions + norms,
        "six 2048x2048": [(2048, 2048)] * 6,
    }


def contender(
    make: Callable[..., Any], shapes: list[tuple[int, ...]], arguments: dict[str, Any]
) -> Callable[[], None]:
    """Return ``step`` of an optimizer over parameters of its own that have gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    step: Callable[[], None] = make(params, **arguments).step
    return step


def triad(elements: int) -> Callable[[], None]:
    """Return ``a += s * b``, in place."""
    a, b = torch.zeros(elements), torch.ones(elements)

    def run() -> None:
        a.add_(b, alpha=1e-3)

    return run


def block(step: Callable[[], None], steps: int) -> float:
    """Return seconds a step, over a block of steps."""
    begin = time.perf_counter()
    for _ in range(steps):
        step()
    return (time.perf_counter() - begin) / steps


def interleave(steps: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Time every contender once a round, in an order drawn for the round."""
    lengths = {}
    for name, step in steps.items():
        block(step, 3)
        lengths[name] = max(1, math.ceil(BLOCK_SECONDS / block(step, 2)))
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for name in order:
            # The step before the block brings back what the others drove from the caches.
            steps[name]()
            seconds[name].append(block(steps[name], lengths[name]))
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, and the tenth and ninetieth percentile."""
    cuts = statistics.quantiles(values, n=10, method="inclusive")
    return {"median": statistics.median(values), "p10": cuts[0], "p90": cuts[-1]}


def compare(name: str, shapes: list[tuple[int, ...]], rounds: int) -> dict[str, Any]:
    """Time one optimizer on one set of tensors."""
    _, ours, theirs, arguments, width = next(entry for entry in OPTIMIZERS if entry[0] == name)
    elements = sum(math.prod(shape) for shape in shapes)
    steps = {"thalweg": contender(ours, shapes, arguments)}
    for peer, how in PEERS.items():
        try:
            steps[peer] = contender(theirs, shapes, {**arguments, **how})
        except (RuntimeError, TypeError):
            continue  # torch has no such implementation of this optimizer
    steps["triad"] = triad(elements)
    seconds = interleave(steps, rounds)

    peers = [peer for peer in PEERS if peer in seconds]
    best = min(peers, key=lambda peer: statistics.median(seconds[peer]))
    rates = {
        "thalweg": [width * elements / s / 1e9 for s in seconds["thalweg"]],
        "triad": [TRIAD_BYTES * elements / s / 1e9 for s in seconds["triad"]],
    }
    return {
        "optimizer": name,
        "tensors": len(shapes),
        "elements": elements,
        "bytes_per_element": width,
        "triad_bytes_per_element": TRIAD_BYTES,
        "milliseconds": {key: spread([1e3 * s for s in values]) for key, values in seconds.items()},
        "best_of_torch": best,
        "times_faster_than": {
            peer: spread([b / a for a, b in zip(seconds["thalweg"], seconds[peer], strict=True)])
            for peer in peers
        },
        "gigabytes_per_second": {key: spread(values) for key, values in rates.items()},
        "of_triad_bandwidth": spread([a / b for a, b in zip(rates["thalweg"], rates["triad"], strict=True)]),
    }


def processor() -> str:
    """Return the processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def show(label: str, result: dict[str, Any]) -> None:
    """Print one line."""
    times = "  ".join(f"{k} {v['median']:7.3f}" for k, v in result["milliseconds"].items())
    best = result["best_of_torch"]
    ratio = result["times_faster_than"][best]
    share = result["of_triad_bandwidth"]
    print(
        f"{label:21s} {result['optimizer']:13s} ms: {times}  | against {best} "
        f"{ratio['median']:.2f} ({ratio['p10']:.2f}-{ratio['p90']:.2f})  | of triad "
        f"{share['median']:.0%} ({share['p10']:.0%}-{share['p90']:.0%})",
        flush=True,
    )


def main() -> None:
    """Run the comparison and write what was found."""
    sets = tensor_sets()
    names = [entry[0] for entry in OPTIMIZERS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--rounds", type=int, default=41, help="rounds of interleaved blocks (default 41)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads for all contenders"
    )
    parser.add_argument("--sets", nargs="+", choices=list(sets), default=list(sets))
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {
        "command": f"python -m benchmarks.step_kernels {' '.join(sys.argv[1:])}".strip(),
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "machine": {
            "processor": processor(),
            "cores": os.cpu_count(),
            "platform": platform.platform(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numba", "numpy", "thalweg")},
        },
        "runtime": runtimes.available()[0],
        "sets": {},
    }
    for label in arguments.sets:
        results["sets"][label] = []
        for name in arguments.optimizers:
            result = compare(name, sets[label], arguments.rounds)
            results["sets"][label].append(result)
            show(label, result)
    results["machine"]["load_after"] = os.getloadavg()[0]
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
