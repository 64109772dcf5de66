"""A guard against divergence: back to the last good state, slower; after repeated trouble, an end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from thalweg.optim.clipping import total_norm
from thalweg.settings.tables import takes
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Guard", "GuardSettings", "trouble"]


class GuardSettings(Settings):
    """``[strategies.guard]``."""

    bound: float = Field(default=10.0, gt=1)
    lower: float = Field(default=0.5, gt=0, lt=1)
    attempts: int = Field(default=5, ge=1)
    every: int = Field(default=100, ge=1)


def trouble(loss: float, first: float, bound: float, gradients: Iterable[Tensor] = ()) -> str | None:
    """Say what is wrong with a step, or return ``None``.

    Args:
        loss: of the step.
        first: of the first step.
        bound: multiple of the first loss's magnitude over which a loss counts as explosion.
        gradients: of the step, which have to be finite.

    >>> trouble(float("nan"), 2.3, 10.0)
    'the loss is nan'
    >>> trouble(40.0, 2.3, 10.0)
    'the loss is 40, over 10 times the first, 2.3'
    >>> trouble(2.0, 2.3, 10.0)
    """
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if abs(loss) > bound * abs(first):
        return f"the loss is {loss:.4g}, over {bound:g} times the first, {first:.4g}"
    norm = float(total_norm(gradients))
    return None if math.isfinite(norm) else f"the gradient's norm is {norm}"


class Guard(Strategy):
    """On NaN, infinity or explosion return to the last good state and go on at a lower rate.

    A state is copied every so many steps and counts as good once its loss has been seen to be. Steps and data
    go on from where they are: what led into trouble isn't repeated. Reading the loss of each step waits for
    the device.

    Args:
        bound: a loss over this multiple of the first one's magnitude is an explosion.
        lower: what the rate is multiplied by each time.
        attempts: how often; then training ends at the last good state.
        every: steps between two copies.

    Raises:
        OptionError: a value out of range.

    >>> guard = Guard(attempts=2)
    >>> guard.check(2.0), guard.check(float("inf")), guard.rate_factor()
    (None, 'the loss is inf', 0.5)

    Source: the loss bound is that of the races; returning and lowering is common practice.
    """

    name: ClassVar[str] = "guard"
    priority: ClassVar[int] = 20
    settings: GuardSettings

    @takes(GuardSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.troubles = 0
        self._first: float | None = None
        self._candidate: tuple[int, Any] | None = None
        self._good: tuple[int, Any] | None = None
        self._due = 0

    def check(self, loss: float, gradients: Iterable[Tensor] = ()) -> str | None:
        """Judge a step's loss and gradients; where there is trouble, count it and say what it is."""
        if self._first is None and math.isfinite(loss):
            self._first = loss
        found = trouble(loss, self._first or 0.0, self.settings.bound, gradients)
        if found is not None:
            self.troubles += 1
        return found

    def rate_factor(self) -> float:
        """Return what the troubles so far have left of the rate."""
        return float(self.settings.lower**self.troubles)

    def before_step(self, trainer: Trainer) -> None:
        """Copy the state where it is time."""
        if trainer.updates >= self._due:
            self._candidate = trainer.updates, trainer.capture()
            self._due = trainer.updates + self.settings.every

    def after_backward(self, trainer: Trainer) -> None:
        """Judge the step before it is taken."""
        groups = trainer.optimizer.param_groups
        self._look(trainer, (p.grad for group in groups for p in group["params"] if p.grad is not None))

    def after_step(self, trainer: Trainer) -> None:
        """Judge a step that was found by a search, behind it."""
        if trainer.step_kind != "gradient":
            self._look(trainer, ())

    def state_dict(self) -> dict[str, Any]:
        """Return the last good state, and the troubles so far."""
        return {
            "troubles": self.troubles, "first": self._first, "due": self._due,
            "good": self._good, "candidate": self._candidate,
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where it was."""
        self.troubles, self._first, self._due = state["troubles"], state["first"], state["due"]
        self._good, self._candidate = state["good"], state["candidate"]

    def _look(self, trainer: Trainer, gradients: Iterable[Tensor]) -> None:
        assert trainer.loss is not None
        found = self.check(float(trainer.loss), gradients)
        if found is None:
            if self._candidate is not None:
                self._good, self._candidate = self._candidate, None
            return
        trainer.skip()
        self._candidate = None
        if self._good is None:
            trainer.stop(f"training can't begin: {found} at the first step", failed=True)
            return
        step, state = self._good
        trainer.restore(state)
        # the next state is copied anew, for the one restored is the good one still
        self._due = trainer.updates + self.settings.every
        if self.troubles > self.settings.attempts:
            trainer.stop(
                f"training diverges again and again: {found} at step {trainer.updates}, for the "
                f"{self.troubles}th time; the weights are those of step {step}, the last good ones",
                failed=True,
            )
            return
        trainer.note(
            f"{found} at step {trainer.updates}: back to the state of step {step}, at {self.rate_factor():g} "
            "of the scheduled learning rate"
        )
