"""A strategy that looks at everything, at every place; for tests that training doesn't notice."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.strategies import Scores, Strategy

__all__ = ["Drawing", "Looking", "Noise"]


class Looking(Strategy):
    """Computes losses and gradients, takes trial steps and draws, all aside."""

    name: ClassVar[str] = "looking"
    observes: ClassVar[bool] = True

    def __init__(self) -> None:
        self.turn = 0
        self.losses: list[float] = []
        self.norms: list[float] = []
        self.targets: list[list[float]] = []
        self.modes: set[tuple[str, bool]] = set()

    def look(self, trainer: Any) -> None:
        # in turn, of which every place has some
        self.turn += 1
        for training in ([None], [True], [False], [])[self.turn % 4]:
            with trainer.aside(training=training) as loss:
                assert all(p.grad is None for p in trainer.model.parameters())
                for inputs, targets in trainer.batches(2):
                    value = loss(inputs, targets)
                    value.backward()
                    np.random.rand(3), random.random(), torch.rand(3)  # noqa: NPY002
                    self.targets.append(targets.tolist())
                self.losses.append(value.item())
                self.modes.add((str(training), trainer.model.training))
                self.norms.append(float(sum(p.grad.square().sum() for p in trainer.model.parameters())))
        if trainer.step_kind == "gradient" and self.turn % 4 == 3:
            with trainer.aside(training=True, steps=True) as loss:
                for inputs, targets in trainer.batches(2):
                    trainer.optimizer.zero_grad()
                    loss(inputs, targets).backward()
                    trainer.optimizer.step()

    def before_training(self, trainer: Any) -> None:
        self.look(trainer)

    def before_step(self, trainer: Any) -> None:
        self.look(trainer)

    def after_backward(self, trainer: Any) -> None:
        self.look(trainer)

    def after_step(self, trainer: Any) -> None:
        self.look(trainer)

    def at_evaluation(self, trainer: Any, scores: Scores) -> None:
        self.look(trainer)

    def finished(self, trainer: Any) -> None:
        self.look(trainer)

    def state_dict(self) -> dict[str, Any]:
        return {"turn": self.turn, "losses": self.losses}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.turn, self.losses = state["turn"], list(state["losses"])


class Drawing:
    """A Dataset whose items are drawn anew each time, from everybody's generators."""

    def __init__(self, width: int = 4) -> None:
        self.width = width

    def __len__(self) -> int:
        return 40

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        drawn = [np.random.rand(), random.random(), float(torch.rand(()))]  # noqa: NPY002
        return torch.tensor([number / 40, *drawn, 1.0][: self.width], dtype=torch.float64), number // 20


class Noise(nn.Module):
    """Draws from torch's generator, and keeps what is in no state: a count, a buffer that isn't saved."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.register_buffer("last", torch.zeros(()), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.last += x.detach().mean().to(self.last.dtype)
        return x + 0.01 * torch.rand(x.shape[1], dtype=x.dtype) * (1 + self.calls % 3)
