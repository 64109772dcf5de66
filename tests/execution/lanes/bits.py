"""Run by test_bits.py in a process of its own, where MKL is reproducible from the first matrix product on.

Prints every disagreement between a run and the same run in other company; nothing where all is well.
"""

from __future__ import annotations

import sys

import torch
from torch import nn

from small import prepared, problem, runs, workload
from thalweg.execution import lanes


def stack_of(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Flatten(), *layers)


def models(dtype: torch.dtype) -> dict[str, object]:
    def mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return stack_of(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, outputs)).to(dtype)

    def norm(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return stack_of(
            nn.Linear(16, 13), nn.BatchNorm1d(13), nn.Tanh(), nn.Dropout(0.3), nn.Linear(13, outputs)
        ).to(dtype)

    def odd(shape: tuple[int, ...], outputs: int) -> nn.Module:
        return stack_of(
            nn.Linear(16, 7),
            nn.GELU(),
            nn.LayerNorm(7),
            nn.Linear(7, 5, bias=False),
            nn.SiLU(),
            nn.Softplus(),
            nn.Linear(5, outputs),
        ).to(dtype)

    def wide(shape: tuple[int, ...], outputs: int) -> nn.Module:
        # Enough elements for elementwise work to be shared out over threads, and no whole vectors.
        layers = nn.Linear(16, 601), nn.GELU(), nn.Linear(601, 5), nn.ELU(), nn.Linear(5, outputs)
        return stack_of(*layers).to(dtype)

    return {"mlp": mlp, "norm": norm, "odd": odd, "wide": wide}


CASES = (
    # kind of task, dtype, model, epochs of 12 steps, threads
    ("classes", torch.float32, "mlp", 18, 1),
    ("classes", torch.float64, "mlp", 8, 1),
    ("classes", torch.float32, "norm", 17, 1),
    ("number", torch.float64, "norm", 5, 1),
    ("two", torch.float32, "odd", 8, 1),
    ("number", torch.float64, "odd", 5, 1),
    ("two", torch.float32, "wide", 3, 2),
)


def main() -> None:
    compared = diverged = 0
    for kind, dtype, name, epochs, threads in CASES:
        torch.set_num_threads(threads)
        task = problem(models(dtype)[name], prepared(kind, dtype), kind)
        work = workload(epochs=epochs)
        # High rates with momentum over hundreds of steps: a bit that differs does not stay small.
        field = runs(4, rates=(0.05, 0.4, 3.0), seeds=(11, 12), schedules=("constant", "cosine"))

        def go(chosen, chunk=64, eliminate=None):
            found = lanes.run(
                chosen,
                task,  # noqa: B023
                work,  # noqa: B023
                chunk=chunk,
                eliminate=eliminate,
            )
            return {one.identity: one.to_json() for one in found}

        together = go(field)
        rung = together[field[0].identity]["steps"][2]

        def half(step, seen):
            return set(sorted(seen)[::2]) if step == rung else set()  # noqa: B023

        eliminated = go(field, eliminate=half)
        for stopped in [one for one in eliminated.values() if one["validation"][2] is None]:
            assert stopped["diverged_at"] is not None
        trials = {
            "alone": go(field[:1]),
            "two": go([field[7], field[2]]),
            "some, reversed": go(field[::-3]),
            "chunks": go(field, chunk=5),
            "eliminated": {
                key: one
                for key, one in eliminated.items()
                if one["validation"][3] is not None or one["diverged_at"] is not None
            },
        }
        assert 2 <= len(trials["eliminated"]) < len(field)
        for company, found in trials.items():
            for identity, outcome in found.items():
                compared += 1
                if outcome != together[identity]:
                    print(kind, dtype, name, company, identity)
        diverged += sum(one["diverged_at"] is not None for one in together.values())
    assert compared > 100
    assert diverged > 5, "the rates are too low to show much"
    assert lanes.promise().startswith("bits"), lanes.promise()


if __name__ == "__main__":
    sys.exit(main())
