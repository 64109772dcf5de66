"""A learning rate that falls whenever validation stagnates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from thalweg import schedules
from thalweg.settings.choices import Watched
from thalweg.settings.tables import takes
from thalweg.strategies.base import Scores, Settings, Strategy, Trainer, require_measured

__all__ = ["PlateauSettings", "ReduceOnPlateau"]


class PlateauSettings(Settings):
    """``[strategies.plateau]``."""

    watch: Watched = "loss"
    decay: float = Field(default=0.1, gt=0, lt=1)
    patience: int = Field(default=2, ge=0)
    threshold: float = Field(default=1e-4, ge=0)
    cooldown: int = Field(default=0, ge=0)
    minimum: float = Field(default=0.0, ge=0, le=1)


class ReduceOnPlateau(Strategy):
    """Multiply the rate by ``decay`` when validation has stopped getting better, again and again.

    On top of the schedule: the rate is ``base * schedule(step) * factor``.

    Args:
        watch: ``"loss"`` or ``"metric"``, both on validation data.
        decay: within 0 and 1, both excluded.
        patience: evaluations without a better score that are let pass.
        threshold: relative, see :class:`thalweg.schedules.ReduceOnPlateau`.
        cooldown: evaluations after a fall before counting begins again.
        minimum: the factor never falls below it.

    Raises:
        OptionError: a value out of range; validation data that aren't there.

    >>> plateau = ReduceOnPlateau(patience=1)
    >>> [plateau.observe(loss, higher_is_better=False) for loss in (1.0, 0.5, 0.5, 0.5)]
    [1.0, 1.0, 1.0, 0.1]

    Source: R5 (C s99).
    """

    name: ClassVar[str] = "plateau"
    priority: ClassVar[int] = 60
    settings: PlateauSettings

    @takes(PlateauSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._plateau = schedules.Plateau(
            higher_is_better=False, **self.settings.model_dump(exclude={"watch"})
        )

    def observe(self, score: float, *, higher_is_better: bool) -> float:
        """Take a score in; return the factor from now on."""
        self._plateau.higher_is_better = higher_is_better
        return self._plateau.observe(score)

    def rate_factor(self) -> float:
        """Return the present factor."""
        return self._plateau.factor

    def attach(self, trainer: Trainer) -> None:
        """Refuse a score that nobody measures."""
        require_measured(self.name, trainer, self.settings.watch)

    def at_evaluation(self, trainer: Trainer, scores: Scores) -> None:
        """Look at the watched score, of all evaluations but that of the start."""
        score, higher = scores.get(self.settings.watch)
        if score is not None and scores.step > 0:
            before = self.rate_factor()
            if self.observe(score, higher_is_better=higher) < before:
                trainer.note(
                    f"the learning rate falls to {self.rate_factor():.3g} of its schedule: a plateau"
                )

    def state_dict(self) -> dict[str, Any]:
        """Return factor, best score and counts."""
        return self._plateau.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where it was."""
        self._plateau.load_state_dict(state)
