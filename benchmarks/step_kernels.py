"""One optimizer step: thalweg against torch, torchzero and pytorch_optimizer, side by side in one run.

    python -m benchmarks.step_kernels --json benchmarks/results/step_kernels.json
    python -m benchmarks.step_kernels --quick --optimizers rprop nadam --sets "six 2048x2048"

What is timed is ``optimizer.step()`` as a user calls it, Python included, with parameters, gradients and
states of each contender's own. In each round every contender takes one block of steps, in an order drawn
anew; a ratio is computed within a round, so that a machine that grows slower does so for all of them.
Where in memory tensors lie makes up to a fifth of a difference to the same code, so all contenders are built
anew, in another order, every few rounds: a placement. The compiled step stays where it is, since building it
takes a minute; it counts as failed if it takes longer than ``--compile-seconds``. The triad ``a += s * b`` is
torch's, in place, over as many elements in one tensor, in the same rounds.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import random
import shutil
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks import records

from thalweg import optim, runtimes

Step = Callable[[], None]

MOMENTUM = {"lr": 1e-3, "momentum": 0.9}
# name, our class, torch's, arguments, bytes a float32 element: 4 for each column read or written.
OPTIMIZERS: list[tuple[str, Any, Any, dict[str, Any], int]] = [
    ("sgd", optim.SGD, torch.optim.SGD, {"lr": 1e-3}, 12),
    ("sgd-momentum", optim.SGD, torch.optim.SGD, MOMENTUM, 20),
    ("adagrad", optim.Adagrad, torch.optim.Adagrad, {}, 20),
    ("rmsprop", optim.RMSprop, torch.optim.RMSprop, {}, 20),
    ("adam", optim.Adam, torch.optim.Adam, {}, 28),
    ("adamw", optim.AdamW, torch.optim.AdamW, {}, 28),
    ("nadam", optim.NAdam, torch.optim.NAdam, {}, 28),
    ("rprop", optim.Rprop, torch.optim.Rprop, {}, 28),
    ("lion", optim.Lion, None, {}, 20),
    ("quickprop", optim.Quickprop, None, {}, 28),
]
TRIAD_BYTES = 12
PEERS: dict[str, dict[str, bool]] = {
    "for-loop": {"foreach": False},
    "foreach": {"foreach": True},
    "fused": {"fused": True},
}
COMPILED = "compiled"
# A block lasts about this long: long against the clock, short against what else the machine does.
BLOCK_SECONDS = 0.02
# How many times as fast as torch's best without compilation; and no slower than its fused step.
GOALS = {"rprop": 8.0, "nadam": 4.0, "rmsprop": 3.0}
NOT_SLOWER_THAN_FUSED = {"sgd", "sgd-momentum", "adagrad", "adam", "adamw"}
BANDWIDTH_GOAL = 0.8


def torchzero_modules(name: str) -> list[Any] | None:
    """Return what makes torchzero take the same steps as torch (or our Lion), if it can."""
    if importlib.util.find_spec("torchzero") is None:
        return None
    from torchzero import m

    made: dict[str, Callable[[], list[Any]]] = {
        "sgd": lambda: [m.LR(1e-3)],
        # Beginning as torch does ("update") would let the rate scale its buffer.
        "sgd-momentum": lambda: [m.HeavyBall(0.9, ema_init="zeros"), m.LR(1e-3)],
        "adagrad": lambda: [m.Adagrad(), m.LR(1e-2)],
        "rmsprop": lambda: [m.RMSprop(), m.LR(1e-2)],
        "adam": lambda: [m.Adam(), m.LR(1e-3)],
        "adamw": lambda: [m.Adam(), m.WeightDecay(1e-2), m.LR(1e-3)],
        "rprop": lambda: [m.Rprop(backtrack=False, alpha=1e-2)],
        "lion": lambda: [m.Lion(), m.LR(1e-4)],
    }
    return made[name]() if name in made else None


def torchzero(params: list[torch.nn.Parameter], name: str) -> Any:
    """Return torchzero's optimizer, or raise TypeError where it has none."""
    modules = torchzero_modules(name)
    if modules is None:
        raise TypeError(name)
    from torchzero import Optimizer

    return Optimizer(params, *modules)


def pytorch_optimizer(params: list[torch.nn.Parameter], name: str, **how: bool) -> Any:
    """Return pytorch_optimizer's, or raise TypeError: it has Lion; its others are torch's own classes."""
    if name != "lion" or importlib.util.find_spec("pytorch_optimizer") is None:
        raise TypeError(name)
    from pytorch_optimizer import Lion

    return Lion(params, **how)


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


def contender(make: Callable[..., Any], shapes: list[tuple[int, ...]], arguments: dict[str, Any]) -> Step:
    """Return ``step`` of an optimizer over parameters of its own that have gradients."""
    generator = torch.Generator().manual_seed(0)
    params = [torch.nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in params:
        p.grad = torch.randn(p.shape, generator=generator)
    step: Step = make(params, **arguments).step
    return step


def makers(name: str, shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], Step]]:
    """Return what builds each contender of an optimizer; those that can't be have been left out."""
    _, ours, theirs, arguments, _ = next(entry for entry in OPTIMIZERS if entry[0] == name)
    every: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {"thalweg": (ours, arguments)}
    if theirs is not None:
        every |= {peer: (theirs, {**arguments, **how}) for peer, how in PEERS.items()}
    every["torchzero"] = torchzero, {"name": name}
    for peer, how in list(PEERS.items())[:2]:
        every[f"pytorch_optimizer, {peer}"] = pytorch_optimizer, {"name": name, **how}
    possible = {}
    for key, (make, given) in every.items():
        try:
            contender(make, [(1,)], given)()
        except (RuntimeError, TypeError):
            continue  # there is no such implementation of this optimizer
        possible[key] = make, given
    return {
        key: lambda make=make, given=given: contender(make, shapes, given)  # type: ignore[misc]
        for key, (make, given) in possible.items()
    }


class TooLongError(BaseException):
    """The compilation took longer than it may. No Exception, of which the compiler swallows some."""


def compiled(name: str, shapes: list[tuple[int, ...]], most: float) -> tuple[Step | None, dict[str, Any]]:
    """Return torch's step as torch.compile makes it, and how long that took or why there is none."""
    _, _, theirs, arguments, _ = next(entry for entry in OPTIMIZERS if entry[0] == name)
    if most <= 0 or theirs is None:
        return None, {}
    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("g++", "clang++", "c++")), None)
    if compiler is None:
        return None, {"failed": "there is no C++ compiler on this machine"}
    import torch._dynamo
    import torch._inductor.config

    def stop(*_: Any) -> None:
        raise TooLongError

    torch._dynamo.reset()
    torch._inductor.config.force_disable_caches = True  # a step that was compiled yesterday tells nothing
    step = torch.compile(contender(theirs, shapes, {**arguments, "foreach": True}))
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, most, 1.0)
    begin = time.perf_counter()
    try:
        for _ in range(3):  # the first step, and one whose state is there already
            step()
    except (Exception, TooLongError) as error:  # inductor wraps whatever goes wrong while it compiles
        signal.setitimer(signal.ITIMER_REAL, 0)
        torch._dynamo.reset()
        seconds = time.perf_counter() - begin
        if seconds >= most:
            return None, {"failed": f"it took longer than {most:g} s to compile"}
        return None, {"failed": f"{type(error).__name__}: {str(error).splitlines()[0][:200]}"}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return step, {"seconds": time.perf_counter() - begin, "compiler": Path(compiler).name}


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


def interleave(
    build: dict[str, Callable[[], Step]], fixed: dict[str, Step], placements: int, rounds: int
) -> dict[str, list[float]]:
    """Time every contender once a round, in an order drawn anew; build them anew for each placement."""
    seconds: dict[str, list[float]] = {name: [] for name in (*build, *fixed)}
    lengths: dict[str, int] = {}
    draws = random.Random(0)
    for _ in range(placements):
        steps: dict[str, Step] = {}
        for name in draws.sample(list(build), len(build)):
            steps[name] = build[name]()
            block(steps[name], 2)  # states are where they are from the first step on
        steps |= fixed
        for name in steps.keys() - lengths.keys():
            lengths[name] = max(1, math.ceil(BLOCK_SECONDS / block(steps[name], 2)))
        for _ in range(rounds):
            for name in draws.sample(list(steps), len(steps)):
                # The step before the block brings back what the others drove from the caches.
                steps[name]()
                seconds[name].append(block(steps[name], lengths[name]))
    return seconds


def compare(
    name: str, shapes: list[tuple[int, ...]], placements: int, rounds: int, compile_seconds: float
) -> dict[str, Any]:
    """Time one optimizer on one set of tensors."""
    width = next(entry[4] for entry in OPTIMIZERS if entry[0] == name)
    elements = sum(math.prod(shape) for shape in shapes)
    build = makers(name, shapes)
    build["triad"] = lambda: triad(elements)
    step, compilation = compiled(name, shapes, compile_seconds)
    fixed = {} if step is None else {COMPILED: step}
    seconds = interleave(build, fixed, placements, rounds)

    peers = [key for key in seconds if key not in ("thalweg", "triad")]
    of_torch = [peer for peer in PEERS if peer in seconds]
    best = min(of_torch, key=lambda peer: statistics.median(seconds[peer]), default=None)
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
        "rounds": len(seconds["thalweg"]),
        "milliseconds": records.milliseconds(seconds),
        "least_milliseconds": {key: 1e3 * min(values) for key, values in seconds.items()},
        "best_of_torch": best,
        "compilation": compilation,
        "times_faster_than": {peer: records.ratio(seconds[peer], seconds["thalweg"]) for peer in peers},
        "gigabytes_per_second": {key: records.spread(values) for key, values in rates.items()},
        "of_triad_bandwidth": records.ratio(rates["thalweg"], rates["triad"]),
    }


def goals(label: str, result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each goal that a comparison can tell of, what came out, and whether it was reached."""
    name, best, ratios = result["optimizer"], result["best_of_torch"], result["times_faster_than"]
    asked = []
    if name in GOALS:
        asked.append((f"at least {GOALS[name]:g} times as fast as torch's best", ratios[best], GOALS[name]))
    if name in NOT_SLOWER_THAN_FUSED:
        asked.append(("no slower than fused", ratios["fused"], 1.0))
    if tensor_sets()[label][0][0] >= 2048:
        goal = f"at least {BANDWIDTH_GOAL:.0%} of the triad's bandwidth"
        asked.append((goal, result["of_triad_bandwidth"], BANDWIDTH_GOAL))
    return [
        {"goal": goal, "came_out": came_out, "reached": came_out["median"] >= least}
        for goal, came_out, least in asked
    ]


def show(label: str, result: dict[str, Any]) -> None:
    """Print one comparison."""
    print(
        f"{label}, {result['optimizer']}: {result['milliseconds']['thalweg']['median']:.3f} ms, of triad "
        f"{records.said(result['of_triad_bandwidth'], '.0%')}"
    )
    for peer, ratio in result["times_faster_than"].items():
        note = ", torch's best" if peer == result["best_of_torch"] else ""
        if peer == COMPILED:
            note = f", compiled in {result['compilation']['seconds']:.0f} s"
        print(
            f"    {records.said(ratio)} times as fast as {peer}, "
            f"{result['milliseconds'][peer]['median']:.3f} ms{note}"
        )
    if "failed" in result["compilation"]:
        print(f"    not compiled: {result['compilation']['failed']}")
    for goal in result["goals"]:
        print(f"    {'reached' if goal['reached'] else 'MISSED'}: {goal['goal']}")
    sys.stdout.flush()


def main() -> None:
    """Run the comparison and write what was found."""
    sets = tensor_sets()
    names = [entry[0] for entry in OPTIMIZERS]
    parser = records.parser(
        __doc__, "file to write; other results of this machine and these versions stay in it"
    )
    parser.add_argument("--placements", type=int, default=5, help="times contenders are built (default 5)")
    parser.add_argument("--rounds", type=int, default=8, help="interleaved rounds a placement (default 8)")
    parser.add_argument("--quick", action="store_true", help="2 placements of 3 rounds, nothing compiled")
    parser.add_argument(
        "--compile-seconds",
        type=float,
        default=180.0,
        help="longest that torch.compile may take for one step; 0: leave it out (default 180)",
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads for all contenders"
    )
    parser.add_argument("--sets", nargs="+", choices=list(sets), default=list(sets))
    parser.add_argument("--optimizers", nargs="+", choices=names, default=names)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.placements, arguments.rounds, arguments.compile_seconds = 2, 3, 0.0

    warnings.simplefilter("ignore")  # of the peers, which are as they are
    torch.set_num_threads(arguments.threads)
    results: dict[str, Any] = {
        "machine": records.machine(),
        "versions": records.versions("numba", "numpy", "torchzero", "pytorch_optimizer"),
        "runtime": runtimes.available()[0],
        "sets": {},
    }
    if arguments.json and arguments.json.exists():
        earlier = json.loads(arguments.json.read_text(encoding="utf-8"))
        if all(earlier.get(key) == results[key] for key in ("machine", "versions", "runtime")):
            results = earlier
    for label in arguments.sets:
        for name in arguments.optimizers:
            load = os.getloadavg()[0]
            result = compare(
                name, sets[label], arguments.placements, arguments.rounds, arguments.compile_seconds
            )
            result |= {
                "goals": goals(label, result),
                "command": records.command(),
                "placements": arguments.placements,
                "threads": arguments.threads,
                "load": [load, os.getloadavg()[0]],
            }
            show(label, result)
            kept = [other for other in results["sets"].get(label, []) if other["optimizer"] != name]
            results["sets"][label] = sorted(
                [*kept, result], key=lambda entry: names.index(entry["optimizer"])
            )
            records.write(records.text(results), arguments.json)


if __name__ == "__main__":
    main()
