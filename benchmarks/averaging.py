"""Averaging a hundred million parameters: thalweg's update against one plain foreach lerp.

    python -m benchmarks.averaging --json benchmarks/results/averaging.json

What is timed is ``Average.update()`` as a training loop calls it, its reading of the model included, against
``torch._foreach_lerp_`` over lists of the same tensors, made beforehand: where tensors lie in memory can
count for more than what is measured here. Torch's own ``AveragedModel`` has tensors of its own. In each round
every contender takes one block of updates, in an order drawn anew; ratios are computed within a round.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from benchmarks import records
from benchmarks.step_kernels import interleave, tensor_sets
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from thalweg.averaging import Average, ExponentialAverage

DECAY = 0.999
SETS: dict[str, list[tuple[int, ...]]] = {
    "24 of 2048x2048": [(2048, 2048)] * 24,
    "1600 of 250x250": [(250, 250)] * 1600,
    "106 convolution-like": tensor_sets()["106 convolution-like"],
}


def module(shapes: list[tuple[int, ...]]) -> nn.Module:
    """Return a module with parameters of these shapes, each in a part of its own as in real models."""
    parts = [nn.ParameterDict({"weight": nn.Parameter(torch.ones(shape))}) for shape in shapes]
    return nn.ModuleList(parts)


def thalwegs(shapes: list[tuple[int, ...]]) -> dict[str, Callable[[], None]]:
    """Return ``update`` of our average, and one foreach lerp over lists of the same tensors."""
    model = module(shapes)
    average = Average(model, ExponentialAverage(decay=DECAY, warmup="none"))
    average.update()
    values = [parameter.detach() for parameter in model.parameters()]
    averages = list(average.state_dict()["averages"].values())

    def plain() -> None:
        torch._foreach_lerp_(averages, values, 1 - DECAY)

    return {"thalweg": average.update, "lerp": plain}


def torchs(shapes: list[tuple[int, ...]]) -> Callable[[], None]:
    """Return ``update_parameters`` of torch's averaged model."""
    model = module(shapes)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY))
    averaged.update_parameters(model)
    return lambda: averaged.update_parameters(model)


def main() -> None:
    """Run the comparison and write what was found."""
    parser = records.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=41, help="rounds of interleaved blocks (default 41)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    results = records.begin(rounds=arguments.rounds, threads=arguments.threads)
    results["sets"] = {}
    for label in arguments.sets:
        shapes = SETS[label]
        seconds = interleave({}, {**thalwegs(shapes), "AveragedModel": torchs(shapes)}, 1, arguments.rounds)
        ratios = {
            peer: records.ratio(seconds["thalweg"], seconds[peer]) for peer in ("lerp", "AveragedModel")
        }
        results["sets"][label] = {
            "elements": sum(math.prod(shape) for shape in shapes),
            "milliseconds": records.milliseconds(seconds),
            "times_as_long_as": ratios,
        }
        times = "  ".join(
            f"{k} {v['median']:8.3f}" for k, v in results["sets"][label]["milliseconds"].items()
        )
        said = "  ".join(f"{k} {records.said(r, '.3f')}" for k, r in ratios.items())
        print(f"{label:21s} ms: {times}  | times as long as {said}", flush=True)
    records.end(results, arguments.json)


if __name__ == "__main__":
    main()
