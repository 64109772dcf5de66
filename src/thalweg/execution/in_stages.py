"""Runs that are trained in stages, for sweeps: each in the loop, with an outcome like any other run's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from thalweg.errors import Interrupted, OptionError
from thalweg.execution.executors import RunList
from thalweg.execution.outcomes import outcome_of
from thalweg.objectives import to_hand_on
from thalweg.objectives.nests import mapped
from thalweg.randomness.generators import own_generators
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Workload
from thalweg.stages.stage import Stage
from thalweg.training.evaluate import score
from thalweg.training.fit_spec import FitSpec
from thalweg.training.loader import in_blocks
from thalweg.training.rates import ScheduleOf
from thalweg.training.staged import StagedTraining
from thalweg.training.training_run import Fitted, finite, on_one_axis
from thalweg.training.watch import Evaluation, SilentTrainingWatcher

__all__ = ["StagesOf", "TrainsInStages", "listed_stages"]

StagesOf = Callable[[nn.Module, Any], Sequence[Stage]]
"""From a model and a batch of inputs to the stages that train it."""

_BLOCK = 256


def listed_stages(given: Any) -> dict[str, StagesOf | None]:
    """Return lists of stages by name, as ``sweep`` is given them; nothing where there are none.

    Raises:
        OptionError: it is neither a function nor functions by name.
    """
    if given is None:
        return {}
    if callable(given):
        return {getattr(given, "__name__", "stages"): given}
    if not isinstance(given, Mapping) or not given:
        raise OptionError(
            f"stages is {given!r}; give a function of the model and a batch of inputs that returns stages, "
            "or such functions by name, where None is a training without"
        )
    for name, function in given.items():
        if not isinstance(name, str) or not (function is None or callable(function)):
            raise OptionError(
                f"stages has {name!r}: {function!r}; give a function of the model and a batch of inputs, or "
                "None, for each name"
            )
    return dict(given)


@dataclass(frozen=True)
class TrainsInStages:
    """Trains runs one after another, each in the stages that a function writes for its model.

    Args:
        stages: by identity of the run; ``None``: one stage without anything of its own.
    """

    stages: Mapping[str, StagesOf | None]

    def __call__(
        self,
        runs: Sequence[Run],
        asked: RunList,
        *,
        stop: Callable[[], bool],
        advanced: Callable[[float], None],
    ) -> list[Outcome]:
        """Train runs to their ends, as :class:`~thalweg.execution.executors.Train` says."""
        found = []
        for run in runs:
            if stop():
                raise Interrupted("interrupted")
            staged = self.made(run, asked.problem, asked.workload)
            fitted = staged.run(None, None, seconds=math.inf, watcher=_Stopping(stop))
            found.append(_outcome(run, fitted, asked.problem, asked.workload))
            advanced(float(fitted.updates))
        return found

    def made(self, run: Run, problem: Problem, workload: Workload) -> StagedTraining:
        """Return a run's training, checked and at its beginning.

        Raises:
            UserError: it can't be carried out.
        """
        data, setting = problem.data, run.setting
        model = problem.model(run)
        loss, judged, metric = problem.functions
        spec = FitSpec(
            model=model, data=data.train, loss=to_hand_on(problem.objective.loss, loss),
            optimizer=problem.entry(run),
            schedule=ScheduleOf(setting.schedule, setting.schedule_options), validation=data.validation,
            metric=to_hand_on(problem.objective.metric, metric),
            validation_loss=None if problem.objective.judged is None else judged,
            output=problem.objective.output, epochs=workload.epochs, batch_size=workload.batch_size,
            hyperparameters=setting.hyperparameters, seed=run.seed, evaluations=workload.evaluations,
            device=problem.device,
        )  # fmt: skip
        function = self.stages[run.identity]
        if function is None:
            return StagedTraining.of(spec, [Stage(name="training")])
        inputs, _ = data.train.batch(torch.arange(min(max(2, workload.batch_size), len(data.train))))
        # what a function draws is the run's own, whatever was drawn before it
        with own_generators(run.seed, "stages"):
            stages = function(model, mapped(lambda leaf: leaf.detach(), inputs))
        return StagedTraining.of(spec, stages)


class _Stopping(SilentTrainingWatcher):
    """Ends a training at its next evaluation once that is asked for."""

    def __init__(self, stop: Callable[[], bool]) -> None:
        self._stop = stop

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        if self._stop():
            raise Interrupted("interrupted")


def _outcome(run: Run, fitted: Fitted, problem: Problem, workload: Workload) -> Outcome:
    """The evaluations of all stages on one axis; the last one is of the model itself."""
    # where one stage ends and the next begins there is one evaluation
    curve = list({each.step: each for each in on_one_axis(fitted).curve}.values())
    _, judged, metric = problem.functions
    final: dict[str, tuple[float | None, float | None]] = {}
    for split in ("validation", "test") if workload.score_test else ("validation",):
        examples = getattr(problem.data, split)
        found = score(fitted.model, in_blocks(examples, _BLOCK), judged, metric, nullcontext)[:2]
        final[split] = finite(found[0]), finite(found[1])
    last = curve[-1]
    curve[-1] = replace(last, validation_loss=final["validation"][0], validation=final["validation"][1])
    test: list[float | None] = []
    if workload.score_test:
        test = [*[None] * (len(curve) - 1), final["test"][1]]
    return outcome_of(run, fitted, curve, test=test)
