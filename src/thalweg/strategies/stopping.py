"""Early stopping that gives back the best weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from thalweg.settings.choices import Watched
from thalweg.settings.tables import takes
from thalweg.strategies.base import Scores, Settings, Strategy, Trainer, require_measured

__all__ = ["EarlyStopping", "EarlyStoppingSettings", "stopping_point"]


class EarlyStoppingSettings(Settings):
    """``[strategies.early-stopping]``."""

    watch: Watched = "metric"
    patience: int = Field(default=5, ge=1)
    threshold: float = Field(default=0.0, ge=0)
    restore: bool = True


def stopping_point(
    scores: Sequence[float], *, patience: int, higher_is_better: bool = False, threshold: float = 0.0
) -> tuple[int, int | None]:
    """Return where the best score stands, and where early stopping would have ended: ``None`` if nowhere.

    A score is better if it beats the best so far by more than ``threshold``; after ``patience`` in a row that
    aren't, training ends. NaN is never better.

    Args:
        scores: of successive evaluations.
        patience: at least 1.
        higher_is_better: ``True`` for an accuracy.
        threshold: at least 0.

    >>> stopping_point([0.9, 0.5, 0.6, 0.7, 0.1], patience=2)
    (1, 3)

    Source: E4 (K).
    """
    stopping = EarlyStopping(patience=patience, threshold=threshold)
    end = None
    for number, score in enumerate(scores):
        if stopping.observe(score, higher_is_better=higher_is_better, step=number):
            end = number
            break
    return stopping.best_step or 0, end


class EarlyStopping(Strategy):
    """Stop when validation no longer gets better, and give back the weights that were best.

    Args:
        watch: ``"metric"`` or ``"loss"``, both on validation data.
        patience: evaluations in a row without a better score.
        threshold: by how much a score has to beat the best.
        restore: whether the result is the best weights, also where training ran to its end.

    Raises:
        OptionError: a value out of range; validation data that aren't there.

    >>> model, stopping = nn.Linear(1, 1), EarlyStopping(patience=2)
    >>> for step, loss in enumerate([1.0, 0.5, 0.7, 0.6]):
    ...     _ = model.bias.data.fill_(step)
    ...     if stopping.observe(loss, model, higher_is_better=False, step=step):
    ...         break
    >>> stopping.give_back(model)
    >>> step, stopping.best_step, model.bias.item()
    (3, 1, 1.0)

    Source: E4 (K).
    """

    name: ClassVar[str] = "early-stopping"
    priority: ClassVar[int] = 80
    settings: EarlyStoppingSettings

    @takes(EarlyStoppingSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.best: float | None = None
        self.best_step: int | None = None
        self._bad = 0
        self._weights: dict[str, Tensor] = {}

    def observe(
        self,
        score: float | None,
        model: nn.Module | None = None,
        *,
        higher_is_better: bool,
        step: int,
    ) -> bool:
        """Take a score in, and copy the model where it is the best; return whether to stop."""
        if score is not None and self._better(score, higher_is_better):
            self.best, self.best_step, self._bad = score, step, 0
            if model is not None and self.settings.restore:
                self._weights = {
                    name: value.detach().clone()
                    for name, value in model.state_dict().items()
                    if isinstance(value, Tensor)
                }
        else:
            self._bad += 1
        return self._bad >= self.settings.patience

    @torch.no_grad()
    def give_back(self, model: nn.Module) -> None:
        """Put the best weights into a model; does nothing where none were copied."""
        if self._weights:
            for name, value in model.state_dict().items():
                if name in self._weights:
                    value.copy_(self._weights[name])

    def attach(self, trainer: Trainer) -> None:
        """Refuse a score that nobody measures."""
        require_measured(self.name, trainer, self.settings.watch)

    def at_evaluation(self, trainer: Trainer, scores: Scores) -> None:
        """Look at the watched score."""
        watched = self.settings.watch
        score, higher = scores.get(watched)
        if self.observe(score, trainer.model, higher_is_better=higher, step=scores.step):
            if self.best is None:
                trainer.stop(
                    f"the validation {watched} was no finite number at any of {self._bad} evaluations, so "
                    "none could be the best; watch what is defined on these data, such as the loss"
                )
                return
            trainer.stop(
                f"the validation {watched} hasn't got better than {self.best:.6g} (at step {self.best_step}) "
                f"for {self._bad} evaluations"
            )

    def finished(self, trainer: Trainer) -> None:
        """Leave the best weights in the model."""
        if self._weights:
            self.give_back(trainer.model)
            trainer.note(f"the weights given back are those of step {self.best_step}, the best ones")

    def state_dict(self) -> dict[str, Any]:
        """Return the best score, its step and weights, and the evaluations since."""
        return {
            "best": self.best, "best_step": self.best_step, "bad": self._bad, "weights": dict(self._weights),
        }  # fmt: skip

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where it was."""
        self.best, self.best_step, self._bad = state["best"], state["best_step"], state["bad"]
        self._weights = {name: value.clone() for name, value in state["weights"].items()}

    def _better(self, score: float, higher_is_better: bool) -> bool:
        if score != score:
            return False
        if self.best is None:
            return True
        gain = score - self.best if higher_is_better else self.best - score
        return gain > self.settings.threshold
