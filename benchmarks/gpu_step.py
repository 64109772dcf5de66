"""One optimizer step on a GPU: thalweg against torch's for-loop, foreach and fused, side by side in one run.

    python -m benchmarks.gpu_step --json benchmarks/results/gpu_step.json

Two times are taken of the same blocks of ``optimizer.step()``, as a user calls it: the device's own, between
two events on its stream, and the host's, until the last call has returned. Where both are alike, Python and
launches are what costs, or the queue was full. In each round every contender takes one block, in an order
drawn anew; ratios are computed within a round. The triad ``a += s * b`` is torch's, in place, over as many
elements in one tensor. What the first step took, kernels compiled or loaded, stands beside. Where there is
no GPU, this says so and ends.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from benchmarks import records
from benchmarks.step_kernels import OPTIMIZERS, PEERS, TRIAD_BYTES, tensor_sets

from thalweg import runtimes
from thalweg.runtimes import gpu

# A block is long against the events' resolution; its calls are queued without waiting.
BLOCK_SECONDS = 0.02
SETS: dict[str, list[tuple[int, ...]]] = {**tensor_sets(), "sixteen 4096x4096": [(4096, 4096)] * 16}


def contender(
    make: Callable[..., Any], shapes: list[tuple[int, ...]], arguments: dict[str, Any]
) -> Callable[[], None]:
    """Return ``step`` of an optimizer over parameters of its own that have gradients."""
    generator = torch.Generator("cuda").manual_seed(0)
    made = [torch.randn(shape, device="cuda", generator=generator) for shape in shapes]
    params = [torch.nn.Parameter(tensor) for tensor in made]
    for p in params:
        p.grad = torch.randn(p.shape, device="cuda", generator=generator)
    step: Callable[[], None] = make(params, **arguments).step
    return step


def triad(elements: int) -> Callable[[], None]:
    """Return ``a += s * b``, in place."""
    a, b = torch.zeros(elements, device="cuda"), torch.ones(elements, device="cuda")

    def run() -> None:
        a.add_(b, alpha=1e-3)

    return run


def block(step: Callable[[], None], steps: int) -> tuple[float, float]:
    """Return seconds a step over a block of steps, of the device and of the host."""
    event: Any = torch.cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    torch.cuda.synchronize()
    started = time.perf_counter()
    begin.record()
    for _ in range(steps):
        step()
    end.record()
    host = time.perf_counter() - started
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / steps, host / steps


def first(step: Callable[[], None]) -> float:
    """Return seconds of the first step, with all that it compiles or loads."""
    torch.cuda.synchronize()
    started = time.perf_counter()
    step()
    torch.cuda.synchronize()
    return time.perf_counter() - started


def compare(
    entry: tuple[str, Any, Any, dict[str, Any], int], shapes: list[tuple[int, ...]], rounds: int
) -> dict[str, Any]:
    """Time one optimizer on one set of tensors."""
    name, ours, theirs, arguments, width = entry
    elements = sum(math.prod(shape) for shape in shapes)
    steps = {"thalweg": contender(ours, shapes, arguments)}
    begun = {"thalweg": first(steps["thalweg"])}
    for peer, how in PEERS.items():
        try:
            step = contender(theirs, shapes, {**arguments, **how})
            begun[peer] = first(step)
        except (RuntimeError, TypeError, ValueError):
            continue  # torch has no such implementation of this optimizer
        steps[peer] = step
    steps["triad"] = triad(elements)

    lengths = {}
    for key, step in steps.items():
        block(step, 3)
        lengths[key] = max(1, math.ceil(BLOCK_SECONDS / max(block(step, 5))))
    device: dict[str, list[float]] = {key: [] for key in steps}
    host: dict[str, list[float]] = {key: [] for key in steps}
    order = list(steps)
    for number in range(rounds):
        random.Random(number).shuffle(order)
        for key in order:
            steps[key]()
            seconds, called = block(steps[key], lengths[key])
            device[key].append(seconds)
            host[key].append(called)

    peers = [peer for peer in PEERS if peer in steps]
    best = min(peers, key=lambda peer: statistics.median(device[peer]))
    rate = {
        "thalweg": [width * elements / s / 1e9 for s in device["thalweg"]],
        "triad": [TRIAD_BYTES * elements / s / 1e9 for s in device["triad"]],
    }
    return {
        "optimizer": name,
        "tensors": len(shapes),
        "elements": elements,
        "bytes_per_element": width,
        "triad_bytes_per_element": TRIAD_BYTES,
        "first_step_seconds": begun,
        "device_milliseconds": records.milliseconds(device),
        "host_milliseconds": records.milliseconds(host),
        "best_of_torch": best,
        "times_faster_than": {peer: records.ratio(device[peer], device["thalweg"]) for peer in peers},
        "gigabytes_per_second": {key: records.spread(values) for key, values in rate.items()},
        "of_triad_bandwidth": records.ratio(rate["thalweg"], rate["triad"]),
    }


def show(label: str, result: dict[str, Any]) -> None:
    """Print one line."""
    times = "  ".join(f"{k} {v['median']:7.3f}" for k, v in result["device_milliseconds"].items())
    best, ratio = result["best_of_torch"], result["times_faster_than"][result["best_of_torch"]]
    print(
        f"{label:21s} {result['optimizer']:13s} ms: {times}  | against {best} "
        f"{records.said(ratio)}  | of triad "
        f"{result['of_triad_bandwidth']['median']:.0%}  | host "
        f"{result['host_milliseconds']['thalweg']['median']:.3f} ms",
        flush=True,
    )


def main() -> None:
    """Run the comparison and write what was found."""
    entries = [entry for entry in OPTIMIZERS if entry[2] is not None]  # those that torch has too
    names = [entry[0] for entry in entries]
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=41, help="rounds of interleaved blocks (default 41)")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    if runtimes.available()[0] != "gpu" or not torch.cuda.is_available():
        print(f"Nothing was measured, since there are {gpu.describe()}.")
        return

    properties = torch.cuda.get_device_properties(0)
    results = records.begin("triton", "numpy", rounds=arguments.rounds)
    results["machine"] |= {
        "device": properties.name,
        "compute_capability": f"{properties.major}.{properties.minor}",
        "device_gigabytes": properties.total_memory / 1e9,
    }
    results["versions"]["cuda"] = torch.version.cuda
    results["sets"] = {}
    for label in arguments.sets:
        results["sets"][label] = []
        for entry in entries:
            if entry[0] in arguments.optimizers:
                result = compare(entry, SETS[label], arguments.rounds)
                results["sets"][label].append(result)
                show(label, result)
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
