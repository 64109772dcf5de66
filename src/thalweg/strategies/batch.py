"""Batch size on a schedule: small batches first, larger ones at the end."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from thalweg.settings.tables import takes
from thalweg.strategies.base import Settings, Strategy

__all__ = ["BatchSize", "BatchSizeSettings"]


class BatchSizeSettings(Settings):
    """``[strategies.batch-size]``."""

    growth: float = Field(default=8.0, gt=0)
    shape: Literal["exponential", "linear", "doubling"] = "doubling"


class BatchSize(Strategy):
    """Let the batch grow over the run: noise that helps early is averaged away late.

    With ``s`` the part of the run that is done, a batch is ``growth**s`` (exponential) or
    ``1 + (growth - 1)*s`` (linear) as large as the usual one, or twice as large after each of equal times
    (doubling); never larger than the training split. The clock goes on by examples: a batch of twice the
    size is two steps, so that an epoch stays a pass over the data.

    Args:
        growth: the last batch over the first; below 1 batches shrink.
        shape: ``"exponential"``, ``"linear"`` or ``"doubling"``.

    Raises:
        OptionError: a value out of range.

    >>> sizes = BatchSize(growth=4, shape="doubling")
    >>> [sizes.batch_factor(progress) for progress in (0.0, 0.4, 0.7, 1.0)]
    [1.0, 2.0, 4.0, 4.0]

    Source: E3 (K); Smith, Kindermans, Ying and Le 2018.
    """

    name: ClassVar[str] = "batch-size"
    priority: ClassVar[int] = 70
    settings: BatchSizeSettings

    @takes(BatchSizeSettings)
    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)

    def batch_factor(self, progress: float) -> float:
        """Return how many times the usual batch the one at this part of the run is."""
        growth = self.settings.growth
        if self.settings.shape == "linear":
            return 1 + (growth - 1) * progress
        if self.settings.shape == "exponential":
            return float(growth**progress)
        factor, levels = (2.0, 1) if growth >= 1 else (0.5, 1)
        while (factor**levels < growth) if growth >= 1 else (factor**levels > growth):
            levels += 1
        level = min(levels, int(progress * (levels + 1)))
        reached = factor**level
        return float(min(reached, growth) if growth >= 1 else max(reached, growth))
