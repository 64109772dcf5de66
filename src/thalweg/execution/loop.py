"""One run of a race, or of any list of runs, by the loop that all trainings share."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.data.examples import Examples, at_places
from thalweg.errors import Interrupted
from thalweg.execution.lanes.chunks import Keep, LaneKeeper, LaneProgress
from thalweg.randomness.generators import own_generators
from thalweg.run.factors import Factors
from thalweg.run.history import History
from thalweg.run.problem import Problem
from thalweg.run.sampler import Batches, evaluation_points, steps_an_epoch
from thalweg.run.spec import Outcome, Run, Workload
from thalweg.training.backend import OneProcess
from thalweg.training.evaluate import score
from thalweg.training.loader import ExampleLoader, in_blocks
from thalweg.training.movement import checksums
from thalweg.training.rates import Rates
from thalweg.training.recorder import Recorder
from thalweg.training.trainer import Training, train_loop

__all__ = ["run"]


def run(
    run: Run,
    problem: Problem,
    workload: Workload,
    *,
    watch: Callable[[LaneProgress], None] | None = None,
    checkpoint: LaneKeeper | None = None,
    checkpoint_seconds: float = 30.0,
    stop: Callable[[], bool] | None = None,
    until: int | None = None,
    examples: Tensor | None = None,
    keep: Keep | None = None,
) -> Outcome:
    """Train one run.

    The clock counts work, in steps of the plan: forward and backward over ``workload.batch_size`` examples.
    A first-order step is one; a second-order step takes what it takes, and has no say beyond the end: at an
    evaluation, and after the last, stands what had been reached within the work up to there.

    Args:
        run: setting and seed.
        problem: what it is trained on: whole tensors, or a Dataset with its collate function.
        workload: how long.
        watch: told of every evaluation.
        checkpoint: keeps the state; a run that it holds is resumed where it was.
        checkpoint_seconds: at least this long between two states, which are kept at evaluations.
        stop: asked before every step; ``True`` saves and raises.
        until: pause once this step has been evaluated, for which ``checkpoint`` keeps the state.
        examples: int64 ``[n]``: which training examples stand in the places of the split, as in a resample.
        keep: given a run that came to its end, before its last state is saved; a run that such a state has
            isn't given again. Tensors are only valid during the call.

    Returns:
        The outcome: that of the same run in a lane, within rounding; of a run that pauses, as far as it is.

    Raises:
        ModelError: the factory returns no module.
        DataError: the training split has fewer examples than a batch.
        Interrupted: ``stop`` returned ``True``.
    """
    size, train = workload.batch_size, problem.data.train
    train = train if examples is None else at_places(train, examples)
    total = steps_an_epoch(len(train), size) * workload.epochs
    model, entry = problem.model(run), problem.entry(run)
    optimizer = entry.make([p for p in model.parameters() if p.requires_grad], **run.setting.hyperparameters)
    beginning = checksums(optimizer)
    of_run = entry.of_run(run.setting.hyperparameters)
    batches = Batches(
        len(train),
        seed=run.seed,
        size=size,
        factor=of_run.get("batch_factor", 1.0),
        growth=of_run.get("batch_growth", 1.0),
    )
    factors = _Rates([run.setting.schedule], total, [run.setting.schedule_options])
    training = Training(
        model=model,
        optimizer=optimizer,
        step_kind=entry.step_kind,
        loss=problem.functions.trained,
        loader=ExampleLoader(train, batches, size),
        rates=Rates(optimizer, factors),
        total=total,
        seed=run.seed,
        backend=OneProcess(torch.device(problem.device)),
        interface=problem.objective.interface,
    )
    points = evaluation_points(total, workload.evaluations)
    recorder = _Recorder(
        run=run, training=training, factors=factors, problem=problem, workload=workload, watch=watch,
        checkpoint=checkpoint, seconds=checkpoint_seconds, stop=stop, until=until,
    )  # fmt: skip
    with own_generators(run.seed):
        if recorder.take_up():
            return recorder.outcome()
        try:
            train_loop(training, points, recorder)
        except _Paused:
            recorder.save()
            return recorder.outcome()
        for point in points:
            if point > recorder.evaluated:
                recorder.history.skip(point)
        # a resumed run has been built with the same weights
        recorder.history.unmoved = recorder.history.active and checksums(optimizer) == beginning
        recorder.history.updates = None if entry.step_kind == "gradient" else training.updates
        if keep is not None and recorder.history.active:
            with training.evaluation():
                keep(recorder.outcome(), model.state_dict())
        recorder.save(finished=True)
    return recorder.outcome()


class _Rates(Factors):
    """The factors of the one run that there is, step by step."""

    def __init__(self, names: Sequence[str], total: int, options: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(names, total, options)
        self._here = self.at([0])

    def __call__(self, step: int) -> float:
        return float(self._here[step, 0])

    def look(self) -> None:
        self._here = self.at([0])


class _Paused(Exception):
    """A run has come as far as was asked for."""


class _Recorder(Recorder):
    """What a list of runs wants of one: its state at evaluations, and somebody who is told."""

    def __init__(
        self,
        *,
        run: Run,
        training: Training,
        factors: _Rates,
        problem: Problem,
        workload: Workload,
        watch: Callable[[LaneProgress], None] | None,
        checkpoint: LaneKeeper | None,
        seconds: float,
        stop: Callable[[], bool] | None,
        until: int | None,
    ) -> None:
        super().__init__(training.backend, History.start(workload))
        self._until = until
        self._run, self._training, self._factors = run, training, factors
        self._data, self._workload = problem.data, workload
        self._loss, self._metric = problem.functions.judged, problem.functions.metric
        self._watch, self._checkpoint, self._stop = watch, checkpoint, stop
        self._seconds, self._saved = seconds, time.monotonic()

    @property
    def going(self) -> bool:
        return self.history.active

    def outcome(self) -> Outcome:
        return self.history.outcome(self._run.identity)

    def evaluate(self, points: Sequence[int]) -> None:
        history, training, workload = self.history, self._training, self._workload
        test, reduced = None, None
        with training.evaluation():
            mean, found, _ = self._score(self._data.validation)
            if workload.score_test:
                _, test, reduced = self._score(self._data.test)
        assert found is not None
        for point in points:
            self.record(point, mean, found, test)
            last = point == training.total and history.active
            if last and reduced is not None and self._metric.per_example:
                history.test_predictions = reduced.double().tolist()
            if self._factors.observe(0, point, history.validation_loss[-1]):
                self._factors.look()
            self.tell(point, {self._run.identity: history.validation[-1]})
            if not history.active:
                break

    def between(self, *, evaluated: bool) -> None:
        if evaluated and time.monotonic() - self._saved >= self._seconds:
            self.save()
            self._saved = time.monotonic()
        if self._stop is not None and self._stop():
            self.save()
            raise Interrupted("stopped on request; everything up to the last step is saved")
        if self._until is not None and self.evaluated >= self._until:
            raise _Paused

    def take_up(self) -> bool:
        """Go on where the run was left; return whether that was its end."""
        state = None if self._checkpoint is None else self._checkpoint.load(self._run.identity)
        # earlier versions kept torch's generator alone, so that their draws can't go on: the run begins anew
        if state is None or ("generators" not in state and state["model"] is not None):
            return False
        self.load(state)
        if state["model"] is None:
            return True
        self._training.load(state)
        self._factors.load(state["plateaus"], self.history.steps[-1])
        self._factors.look()
        self.load_generators(state, self._run.seed, self._training.updates)
        return False

    def save(self, finished: bool = False) -> None:
        if self._checkpoint is not None:
            state = {
                **self._training.state(),
                **self.state(),
                "plateaus": self._factors.state(),
            }
            if finished:
                state |= {"model": None, "optimizer": None}
            self._checkpoint.save(self._run.identity, state)

    def tell(self, step: int, validation: Mapping[str, float | None]) -> None:
        if self._watch is not None:
            self._watch(
                LaneProgress(
                    chunk=0,
                    chunks=1,
                    step=step,
                    steps=self._training.total,
                    going=int(self.history.active),
                    validation=validation,
                )
            )

    def _score(self, examples: Examples) -> tuple[float, float | None, Tensor | None]:
        blocks = in_blocks(examples, max(self._workload.batch_size, 256))
        context = self._training.forward_context
        return score(self._training.model, blocks, self._loss, self._metric, context)
