"""Which row of the lecture's table of transfer applies, by what probes have measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from thalweg.errors import OptionError
from thalweg.stages.linear_probes import Estimate, difference
from thalweg.stages.probes import PartScore, Probes

__all__ = ["SHARE", "TransferAdvice", "choose_row"]

SHARE = 0.1
"""A difference counts where it is more than this part of the errors: less changes little."""

Amount = Literal["little", "much"]


@dataclass(frozen=True, kw_only=True)
class TransferAdvice:
    """A row of the table, with what speaks for it.

    Attributes:
        data: whether there is little data or much, for these features.
        similar: whether the data are similar to what the source was trained on, or different.
        sure_of_data, sure_of_similarity: whether the interval of what was measured leaves no other answer.
        best: the block whose features do best, from 1.
        blocks: how many there are.
        saved: the part of the errors that the second half of the training examples has saved.
        gain: the part of the errors on random features that the source's features save.
        lost_at_top: the part by which errors at the last block are more than at the best.
    """

    data: Amount
    similar: bool
    sure_of_data: bool
    sure_of_similarity: bool
    best: int
    blocks: int
    saved: Estimate
    gain: Estimate
    lost_at_top: Estimate

    @property
    def take(self) -> int:
        """How many blocks are to be taken; behind them, if not all are, a linear head alone follows."""
        return self.best if self.data == "little" and not self.similar else self.blocks

    @property
    def tune(self) -> int | None:
        """How many of the taken blocks are to be tuned; ``None``: all."""
        if self.data == "little":
            return 0
        return max(1, round(self.blocks / 3)) if self.similar else None

    @property
    def row(self) -> str:
        """What the table says, in words."""
        if self.data == "little":
            return (
                "a linear classifier on top of all blocks"
                if self.similar
                else f"a linear classifier on an earlier stage: on block {self.best} of {self.blocks}"
                if self.best < self.blocks
                else "a linear classifier on the stage that does best, which is the last"
            )
        count = self.tune
        if count is None:
            return "fine-tune many layers: all blocks"
        return f"fine-tune a few layers: the last {'block' if count == 1 else f'{count} blocks'} and the head"

    @property
    def evidence(self) -> tuple[str, ...]:
        """A sentence for each thing that was measured."""
        much = "at most" if self.data == "much" else "more than"
        helps = self.gain.value > SHARE
        lines = [
            f"twice the examples save {_percent(self.saved)} of the errors of a linear probe: "
            + f"{much} {SHARE:.0%}, so that "
            + ("more data would help little" if self.data == "much" else "data are scarce")
            + _unsure(self.sure_of_data),
            f"the source's features save {_percent(self.gain)} of the errors that features of random nets "
            + f"leave: {'more than' if helps else 'at most'} {SHARE:.0%}, so that they tell "
            + ("something" if helps else "nothing")
            + " of these data",
        ]
        if helps:
            lines.append(
                f"the last block makes {_percent(self.lost_at_top)} more errors than the best one, block "
                f"{self.best}"
                if self.best < self.blocks
                else "no block does better than the last"
            )
        lines[-1] += _unsure(self.sure_of_similarity)
        return tuple(lines)


def _percent(value: Estimate) -> str:
    return f"{value.value:.0%} ({value.low:.0%} to {value.high:.0%})"


def _unsure(sure: bool) -> str:
    return "" if sure else " (which the interval doesn't settle)"


def choose_row(probes: Probes, random: Sequence[Probes], parts: Sequence[PartScore]) -> TransferAdvice:
    """Choose the row of the table by measurements.

    ============  =============================================  =============================================
    data          similar                                        different
    ============  =============================================  =============================================
    little        a linear classifier on top                     linear classifiers on different stages
    much          fine-tune a few layers                         fine-tune many layers
    ============  =============================================  =============================================

    - *Similar*: the source's best features save more than a tenth of the errors that the best features of
      nets with random weights leave, and the last block's are as good as the best ones: worse by no more than
      a tenth of the errors, or not for certain.
    - *Little data*: a linear classifier on the best features makes more than a tenth of errors less with all
      training examples than with half of them. Where the data don't settle so few numbers, they don't settle
      more of them.

    Differences are of the errors on the same validation examples.

    Args:
        probes: of the source.
        random: of the same net with random weights, one a seed.
        parts: the learning curve of the source's best block, the last two of them half of the examples and
            all.

    Raises:
        OptionError: no random nets, or no two parts.

    Source: P4 (S). The lecture gives the table, not how to measure; a tenth is this project's choice.
    """
    if not random or len(parts) < 2:
        raise OptionError(
            f"a row is chosen by the probes of random nets and by parts of the data, but {len(random)} and "
            f"{len(parts)} were given; give one net and two parts at least"
        )
    best, top = probes.probes[probes.best - 1].errors, probes.probes[-1].errors
    base = torch.stack([each.probes[each.best - 1].errors for each in random]).mean(0)
    gain = _part(difference(base, best), float(base.mean()))
    lost = _part(difference(top, best), float(best.mean()))
    half, whole = parts[-2].errors, parts[-1].errors
    saved = _part(difference(half, whole), float(half.mean()))
    worse = lost.low > 0 and lost.value > SHARE
    helps = gain.value > SHARE
    top_is_sure = worse or probes.best == len(probes.probes) or lost.high <= SHARE
    return TransferAdvice(
        data="little" if saved.value > SHARE else "much",
        similar=helps and not worse,
        sure_of_data=not saved.low <= SHARE < saved.high,
        sure_of_similarity=not gain.low <= SHARE < gain.high and (not helps or top_is_sure),
        best=probes.best,
        blocks=len(probes.probes),
        saved=saved,
        gain=gain,
        lost_at_top=lost,
    )


def _part(value: Estimate, of: float) -> Estimate:
    """A difference as a part of some errors; of no errors at all it is nothing."""
    return Estimate(*(each / of if of > 0 else 0.0 for each in value))
