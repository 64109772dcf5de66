"""Which row of the lecture's table of transfer applies, by what probes have measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.stages.linear_probes import Estimate, difference
from thalweg.stages.probes import PartScore, Probes

__all__ = ["SHARE", "TransferAdvice", "TuningTrial", "choose_row"]

SHARE = 0.1
"""A difference counts where it is more than this part of the errors: less changes little."""

Amount = Literal["little", "much"]


@dataclass(frozen=True, kw_only=True)
class TuningTrial:
    """What came of a new head on frozen blocks, and of tuning blocks too, after as many updates.

    Attributes:
        frozen, tuned: errors of the validation examples that probes are scored on, float64 ``[N]``, means
            over seeds.
        updates: of each, with each seed.
        seeds: how many.
        seconds: that all took together.
    """

    frozen: Tensor
    tuned: Tensor
    updates: int
    seeds: int
    seconds: float


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
        tuning: the part of the errors with frozen blocks that tuning has saved in a trial; ``None``: there
            was none.
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
    tuning: Estimate | None = None

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
        helps = self.gain.value > SHARE
        lines = []
        if self.tuning is not None:
            more = "saves" if self.tuning.value >= 0 else "adds"
            does = {True: "do better", False: "do no better"}[self.data == "much"]
            lines.append(
                f"blocks that are tuned {does} in a short trial than frozen ones: that {more} "
                f"{_percent(_size(self.tuning))} of the errors" + _unsure(self.sure_of_data)
            )
        said = f"twice the examples save {_percent(self.saved)} of the errors of a linear probe"
        if self.tuning is None:
            much = "at most" if self.data == "much" else "more than"
            means = "more data would help little" if self.data == "much" else "data are scarce"
            said += f": {much} {SHARE:.0%}, so that {means}" + _unsure(self.sure_of_data)
        lines += [
            said,
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


def _size(value: Estimate) -> Estimate:
    """What a part comes to, whichever way it goes."""
    return value if value.value >= 0 else Estimate(-value.value, -value.high, -value.low)


def _percent(value: Estimate) -> str:
    return f"{value.value:.0%} ({value.low:.0%} to {value.high:.0%})"


def _unsure(sure: bool) -> str:
    return "" if sure else " (which the interval doesn't settle)"


def choose_row(
    probes: Probes,
    random: Sequence[Probes],
    parts: Sequence[PartScore],
    trial: TuningTrial | None = None,
) -> TransferAdvice:
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
    - *Little data*: in a trial, tuned blocks make no fewer errors than frozen ones. Without a trial, or where
      both make as many: a linear classifier on the best features makes more than a tenth of errors less with
      all training examples than with half of them. Where the data don't settle so few numbers, they don't
      settle more of them.

    Differences are of the errors on the same validation examples.

    Args:
        probes: of the source.
        random: of the same net with random weights, one a seed.
        parts: the learning curve of the source's best block, the last two of them half of the examples and
            all.
        trial: of tuning, with the blocks that would be.

    Raises:
        OptionError: no random nets, or no two parts.

    Source: P4 (S). The lecture gives the table, not how to measure; a tenth and the trial are this
    project's choice.
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
    little, sure = saved.value > SHARE, not saved.low <= SHARE < saved.high
    worse = lost.low > 0 and lost.value > SHARE
    helps = gain.value > SHARE
    tuning = None
    if trial is not None:
        tuning = _part(difference(trial.frozen, trial.tuned), float(trial.frozen.mean()))
        if tuning.value != 0:
            little = tuning.value < 0
        sure = tuning.low > 0 or tuning.high < 0
    top_is_sure = worse or probes.best == len(probes.probes) or lost.high <= SHARE
    return TransferAdvice(
        data="little" if little else "much",
        similar=helps and not worse,
        sure_of_data=sure,
        sure_of_similarity=not gain.low <= SHARE < gain.high and (not helps or top_is_sure),
        best=probes.best,
        blocks=len(probes.probes),
        saved=saved,
        gain=gain,
        lost_at_top=lost,
        tuning=tuning,
    )


def _part(value: Estimate, of: float) -> Estimate:
    """A difference as a part of some errors; of no errors at all it is nothing."""
    return Estimate(*(each / of if of > 0 else 0.0 for each in value))
