"""A trainer without a training loop: enough for a strategy to be asked at any place."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.strategies import Strategy

__all__ = ["Standing"]


class Standing:
    """Holds a model and an optimizer, and remembers what it was asked for."""

    def __init__(
        self, model: nn.Module | None = None, *, steps: int = 10, step_kind: str = "gradient"
    ) -> None:
        torch.manual_seed(0)
        self.model = nn.Linear(2, 1) if model is None else model
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.step_kind, self.seed, self.updates, self.steps, self.progress = step_kind, 0, 0, steps, 0.0
        self.loss: Tensor | None = None
        self.activation = None
        self.notes: list[str] = []
        self.stopped: str | None = None
        self.failed = self.skipped = False
        self.measured = {"loss", "metric"}

    def measures(self, watched: str) -> bool:
        return watched in self.measured

    def targets(self) -> Tensor | None:
        return None

    def inputs(self, count: int | None) -> Iterable[Any]:
        return [(torch.ones(4, 2),)]

    def forward_context(self) -> AbstractContextManager[Any]:
        return nullcontext()

    def gather(self, value: Tensor) -> list[Tensor]:
        return [value]

    def capture(self) -> Any:
        return [p.detach().clone() for p in self.model.parameters()]

    def restore(self, state: Any) -> None:
        with torch.no_grad():
            for p, value in zip(self.model.parameters(), state, strict=True):
                p.copy_(value)

    def skip(self) -> None:
        self.skipped = True

    def stop(self, why: str, *, failed: bool = False) -> None:
        self.stopped, self.failed = why, failed

    def note(self, text: str) -> None:
        self.notes.append(text)


def used(strategy: Strategy) -> Strategy:
    """Return it attached."""
    strategy.attach(Standing())
    return strategy
