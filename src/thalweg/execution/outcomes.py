"""What a training in the loop came to, as the outcome of a run."""

from __future__ import annotations

from collections.abc import Sequence

from thalweg.run.spec import Outcome, Run
from thalweg.training.training_run import Fitted
from thalweg.training.watch import Evaluation

__all__ = ["outcome_of"]


def outcome_of(
    run: Run, fitted: Fitted, curve: Sequence[Evaluation], *, test: Sequence[float | None] = ()
) -> Outcome:
    """Return a run's outcome.

    Args:
        run: that was trained.
        fitted: what came of it.
        curve: its evaluations on one axis, in order.
        test: the metric on test data at each of them; empty: it wasn't asked for.
    """
    return Outcome(
        identity=run.identity,
        steps=[each.step for each in curve],
        train_loss=[each.train_loss for each in curve],
        validation_loss=[each.validation_loss for each in curve],
        validation=[each.validation for each in curve],
        test=list(test),
        diverged_at=curve[-1].step if fitted.failed else None,
        updates=fitted.updates,
        stopped=fitted.stopped,
        notes=fitted.notes,
    )
