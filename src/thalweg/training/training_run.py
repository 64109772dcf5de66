"""A training from beginning to end: begun or resumed, evaluated, saved beside the loop, finished."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.calibration.temperature import Temperature
from thalweg.data.finite import not_finite
from thalweg.errors import DataError, Interrupted, RunDirectoryError, SaidElsewhere, UserError, option
from thalweg.objectives import Metric
from thalweg.randomness.generators import own_generators
from thalweg.run import summaries
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.history import History
from thalweg.run.threads import with_threads
from thalweg.strategies.base import Scores
from thalweg.training.backend import agree, copied
from thalweg.training.checkpoints import CheckpointKeeper, keeper_of
from thalweg.training.evaluate import score
from thalweg.training.loader import DataLoaderAdapter
from thalweg.training.movement import checksums, unmoved
from thalweg.training.reasons import refuse_undefined, refuse_what_is_not_finite, too_large
from thalweg.training.recorder import Recorder
from thalweg.training.tempering import of_batches
from thalweg.training.trainer import Training, train_loop
from thalweg.training.watch import Evaluation, Pace, SilentTrainingWatcher, TrainingWatcher

__all__ = ["Fitted", "StageRecord", "TrainingRun", "finite", "on_one_axis"]

Data = Callable[[], Iterable[tuple[Any, Tensor]]]


@dataclass(frozen=True, kw_only=True)
class StageRecord:
    """What came out of one stage of a training.

    Attributes:
        name: of the stage.
        began: steps that the optimizers of the stages before took.
        updates: steps that its own took.
        trained: how many numbers it trained, parts of its own included.
        curve, best, final, stopped, failed, notes, seconds: as of :class:`Fitted`.
    """

    name: str
    began: int
    updates: int
    trained: int
    curve: list[Evaluation]
    best: Evaluation | None
    final: dict[str, float | None]
    stopped: str | None
    failed: bool
    notes: list[str]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """What came out of a training.

    Attributes:
        model: holds the result, in evaluation mode.
        curve: every evaluation, the first before any step.
        best: the evaluation with the best validation metric (or loss, without a metric), if there is one.
        best_state: the model's state there; ``None`` without validation.
        final: scores of the result: what strategies left in the model after the last step.
        updates: steps that the optimizer took.
        stopped: why training ended before its time; ``None`` if it didn't.
        failed: whether that was a failure.
        notes: what strategies had to say.
        seconds: of training, those before an interruption included.
        temperature: of the result's probabilities, found on validation data, where that was asked for.
        stages: of a training in stages, what came out of each. Curve, best and final scores are those of the
            last one; updates, notes and seconds those of all.
    """

    model: nn.Module
    curve: list[Evaluation]
    best: Evaluation | None
    best_state: dict[str, Any] | None = field(repr=False)
    final: dict[str, float | None]
    updates: int
    stopped: str | None
    failed: bool
    notes: list[str]
    seconds: float
    temperature: Temperature | None = None
    stages: Sequence[StageRecord] = ()

    def __repr__(self) -> str:
        failed = ", failed" if self.failed else ""
        parameters = sum(p.numel() for p in self.model.parameters())
        evaluations = f"{len(self.curve)} evaluation{'' if len(self.curve) == 1 else 's'}"
        best = ""
        if self.best is not None:
            loss = {"validation": self.best.validation, "validation loss": self.best.validation_loss}
            best = f"{summaries.scores(loss)} at step {self.best.step:,}; .best_state has the weights"
        return summaries.lines(
            f"Fitted: {self.updates:,} steps in {self.seconds:.3g} s{failed}",
            [
                ("result", summaries.scores(self.final)),
                ("best", best),
                ("stages", ", ".join(f"{each.name} ({each.updates:,} steps)" for each in self.stages)),
                ("ended", self.stopped or ""),
                ("notes", summaries.notes(self.notes, ".notes")),
                ("model", f".model, {type(self.model).__name__} of {parameters:,} parameters, in eval mode"),
                ("curve", f".curve, {evaluations}"),
            ],
        )


def on_one_axis(fitted: Fitted) -> Fitted:
    """Count the steps of all stages' evaluations, and of the best of the last one, from the beginning."""
    if not fitted.stages:
        return fitted
    curve = [replace(each, step=each.step + stage.began) for stage in fitted.stages for each in stage.curve]
    last = fitted.stages[-1].began
    best = None if fitted.best is None else replace(fitted.best, step=fitted.best.step + last)
    return replace(fitted, curve=curve, best=best)


class TrainingRun(Recorder):
    """Carries a training out and records it: for ``fit``, recipes and members of ensembles.

    Args:
        training: at its beginning.
        points: of the clock at which to evaluate.
        loss: of outputs and targets.
        metric: what validation is evaluated by.
        validation: gives the validation batches; ``None``: there are none.
        tests: name to the batches of other splits that the result is scored on.
        directory: where states and events are kept; ``None``: nowhere. Of many processes 0 alone has one.
        seconds: between two checkpoints.
        watcher: told what happens.
        predictor: makes what the result's scores are of, where that isn't the model itself.
        calibrate: find the temperature of a result that gives logits; targets of this class don't count.
        read: from what the model returns to its logits.

    What is refused before it has ``begun`` leaves nothing behind.
    """

    def __init__(
        self,
        training: Training,
        points: Sequence[int],
        *,
        loss: Callable[[Any, Tensor], Tensor],
        metric: Metric | None,
        validation: Data | None,
        tests: Mapping[str, Data] | None = None,
        directory: RunDirectory | None = None,
        seconds: float = 60.0,
        watcher: TrainingWatcher | None = None,
        predictor: Callable[[nn.Module], nn.Module] | None = None,
        calibrate: int | None = None,
        read: Callable[[Any], Tensor] = lambda outputs: outputs,
    ) -> None:
        super().__init__(training.backend, History())
        self._predictor, self._calibrate, self._read = predictor, calibrate, read
        self._training, self._points = training, points
        self._loss, self._metric, self._validation = loss, metric, validation
        self._tests = dict(tests or {})
        self._directory, self._seconds = directory, seconds
        self._watcher = SilentTrainingWatcher() if watcher is None else watcher
        self._keeper = keeper_of(training.backend, directory)
        self._best: Evaluation | None = None
        self._best_state: dict[str, Any] | None = None
        self._copied = False
        self._beginning: list[int] | None = None
        self._spent = 0.0
        self._began = self._saved = time.monotonic()
        self._pace = Pace(self._watcher)
        self._interruption = Interruption(patient=training.backend.world > 1)
        # whoever reads whole batches has to draw alike in all processes
        alike = isinstance(training.loader, DataLoaderAdapter) or training.backend.rank == 0
        self._stream: tuple[int, ...] = () if alike else (training.backend.rank,)

    def run(self) -> Fitted:
        """Train to the end, and leave the result in the model.

        Raises:
            Interrupted: Ctrl-C or SIGTERM, after everything was saved.
            RunDirectoryError: the state can't be written; what was saved before is unharmed.
        """
        training = self._training
        try:
            with (
                own_generators(training.seed, *self._stream),
                contextlib.ExitStack() as as_begun,
            ):
                self.begun = self._take_up(as_begun)
                if not self.begun:
                    training.begin()
                    self._beginning = checksums(training.optimizer)
                self._began = self._saved = time.monotonic()
                if self._keeper is None:
                    train_loop(training, self._points, self)
                    self._look_for_the_reason()
                else:
                    with self._interruption:
                        train_loop(training, self._points, self)
                        self._look_for_the_reason()
                        self._save()
                if self._keeper is not None:
                    self._keeper.wait()
                fitted = self._finish()
                self._note_end(fitted)
                return fitted
        finally:
            if self._keeper is not None:
                self._keeper.close()

    def say(self, text: str) -> None:
        """Write down and tell what a strategy has to say."""
        self.notes.append(text)
        self._watcher.note(text)

    # What the loop asks -----------------------------------------------------------------------------------

    @property
    def going(self) -> bool:
        """Whether nothing has ended training."""
        return self._training.stopped is None

    def evaluate(self, points: Sequence[int]) -> None:
        """Score the model, tell strategies, and keep the best."""
        training, history = self._training, self.history
        with training.evaluation():
            loss, found = None, None
            if self._validation is not None:
                loss, found = self._score(self._validation)
            for point in points:
                evaluation = self.record(point, loss, found)
                scores = Scores(
                    step=point,
                    loss=evaluation.validation_loss,
                    metric=evaluation.validation,
                    higher_is_better=self._metric is not None and self._metric.higher_is_better,
                )
                for strategy in training.strategies:
                    strategy.at_evaluation(training, scores)
                if self._is_best(evaluation):
                    self._best = evaluation
                    self._best_state = copied(training.model.state_dict())
                    self._save_best()
                    self._copied = False
                self._tell(evaluation)
        if history.diverged_at == 0 and not training.updates:
            training.stop(
                "the loss isn't finite before the first step; begin from smaller weights, or scale inputs",
                failed=True,
            )
        elif history.diverged_at is not None:
            training.stop(
                f"the loss was no longer finite at step {history.diverged_at}; lower the learning rate, clip "
                "gradients, or add a guard",
                failed=True,
            )
        elif points[0] == 0 and found is not None and not math.isfinite(found):
            try:
                refuse_undefined(self._metric)
            except DataError:
                self.begun = False
                raise

    def between(self, *, evaluated: bool) -> None:
        """Save where it is time, say how far training is, and heed a request to end."""
        self._pace.tell(self._training.clock, self._training.total)
        if self._keeper is None:
            return
        problem, due = None, False
        try:
            if self._directory is not None:
                self._directory.check()
            due = not self._keeper.busy and time.monotonic() - self._saved >= self._seconds
        except RunDirectoryError as error:
            problem = error
        backend = self._training.backend
        asked, due, failed = agree(
            backend, self._interruption.asked(), due and backend.rank == 0, bool(problem)
        )
        if problem is not None:
            raise problem
        if failed:
            raise SaidElsewhere.of(RunDirectoryError.exit_code)
        if asked:
            self._save()
            self._keeper.wait()
            raise Interrupted(
                f"interrupted at step {self._training.clock:,.12g} of {self._training.total:,}; "
                f"everything is saved, and {option('resume', True)} goes on"
            )
        if due:
            self._save()
            self._saved = time.monotonic()

    # State -------------------------------------------------------------------------------------------------

    def _take_up(self, as_begun: contextlib.ExitStack) -> bool:
        """Go on where the run was left, if it was."""
        if self._keeper is None:
            return False
        state, best = self._saved_states(self._keeper)
        if state is None:
            return False
        try:
            self.load(state)
            self._training.load(state)
        except (KeyError, RuntimeError, TypeError, ValueError) as problem:
            if isinstance(problem, UserError):
                raise
            words = " ".join(str(problem).split())[:120]
            raise RunDirectoryError(
                f"the checkpoint of step {state['step']:g} doesn't fit the model and the optimizer "
                f"({words}); restore the code that the training began with, or start again with "
                f"another {option('out')}"
            ) from problem
        self._spent = state["seconds"]
        beginnings = state.get("beginnings", [])
        # shards of another number of processes are others
        if len(beginnings) == self._training.backend.world:
            self._beginning = beginnings[self._training.backend.rank]
        if state["best"] is not None:
            self._best = Evaluation(**state["best"])
        if best is not None:
            # newer than the state where that wasn't saved since; the evaluations between come to the same
            self._best, self._best_state = Evaluation(**best["evaluation"]), best["model"]
        elif self._best is not None:
            self.say(
                f"the checkpoint with the best weights, those of step {self._best.step}, is damaged or gone; "
                "the best of what follows stands for them"
            )
            self._best = None
        said = self.load_generators(state, self._training.seed, self._training.updates)
        if said is not None:
            self._watcher.note(said)
        threads = state["threads"]
        if self._training.backend.device.type == "cpu" and threads != torch.get_num_threads():
            as_begun.enter_context(with_threads(threads))
            many = "one thread" if threads == 1 else f"{threads} threads"
            self._watcher.note(
                f"going on with {many}, as it began: another number rounds sums in another order"
            )
        self._watcher.note(f"going on from step {self._training.clock:,.12g} of {self._training.total:,}")
        return True

    def _saved_states(self, keeper: CheckpointKeeper) -> tuple[Any, Any]:
        """The newest state and the best one that go together: what the state knows as best is there."""
        best = None
        with contextlib.suppress(RunDirectoryError):
            best = keeper.load("best", self._watcher.note)

        def known(state: Any) -> bool:
            there = -1 if best is None else best["evaluation"]["step"]
            return state["best"] is None or there >= state["best"]["step"]

        state = keeper.load("last", self._watcher.note, known)
        if state is not None:
            return state, best
        return keeper.load("last", lambda text: None), None

    def _look_for_the_reason(self) -> None:
        """Where training failed, see whether the data are to blame."""
        training = self._training
        if training.failed:
            try:
                refuse_what_is_not_finite(training.loader.pairs, self._validation)
            except DataError:
                self.begun = bool(training.updates)  # otherwise there is nothing to go on from
                raise
            if training.stopped is not None:
                training.stopped += too_large(training.loader.pairs, self._validation)

    def _save_best(self) -> None:
        if self._keeper is not None and self._best is not None:
            self._keeper.save("best", {"evaluation": asdict(self._best), "model": self._best_state})

    def _save(self) -> None:
        assert self._keeper is not None
        if not self._copied:
            # they may stay the best for long, and one damaged file should cost nothing
            self._save_best()
            self._copied = True
        self._keeper.save(
            "last",
            {
                **self._training.state(),
                **self.state(),
                "beginnings": self._training.backend.collect(self._beginning),
                "best": None if self._best is None else asdict(self._best),
                "seconds": self._spent + time.monotonic() - self._began,
                "threads": torch.get_num_threads(),
            },
        )

    def _note_end(self, fitted: Fitted) -> None:
        """Write down that a training without results of its own is finished; the report reads it."""
        directory = self._directory
        if directory is None or directory.config().get("kind") != "fit":
            return
        if not any(event.get("event") == "finished" for event in directory.events()):
            directory.append(
                {
                    "event": "finished",
                    "result": fitted.final,
                    "updates": fitted.updates,
                    "stopped": fitted.stopped,
                    "failed": fitted.failed,
                }
            )

    def _finish(self) -> Fitted:
        training = self._training
        seconds = self._spent + time.monotonic() - self._began
        self._say_if_unmoved()
        training.finish()
        final: dict[str, float | None] = {}
        splits = {"validation": self._validation, **self._tests}
        judged = training.model if self._predictor is None else self._predictor(training.model)
        for name, batches in splits.items():
            if batches is not None:
                found = self._score(batches, judged)
                final[f"{name}_loss"], final[name] = finite(found[0]), finite(found[1])
                if not (math.isfinite(found[0]) or training.failed):
                    bad = not_finite(batches(), name)
                    self.say(f"the {name} loss isn't finite{f': {bad}' if bad else ''}")
        temperature = None
        if self._calibrate is not None and self._validation is not None:
            temperature = of_batches(
                judged, self._validation(), training.forward_context, self._calibrate, self.say, self._read
            )
        return Fitted(
            model=training.model,
            temperature=temperature,
            curve=self.curve(),
            best=self._best,
            best_state=self._best_state,
            final=final,
            updates=training.updates,
            stopped=training.stopped,
            failed=training.failed,
            notes=self.notes,
            seconds=seconds,
        )

    def _say_if_unmoved(self) -> None:
        training = self._training
        # a parameter that somebody has added, or whose shape was changed, isn't as it was
        now = checksums(training.optimizer)
        moved, known = agree(training.backend, now != self._beginning, self._beginning is not None)
        if known and not moved and not training.failed:
            self.say(unmoved(training.optimizer, training.updates, training.total))

    def _score(self, batches: Data, judged: nn.Module | None = None) -> tuple[float, float | None]:
        training = self._training
        model = training.model if judged is None else judged
        return score(model, batches(), self._loss, self._metric, training.forward_context, training.backend)[
            :2
        ]

    # Evaluations ---------------------------------------------------------------------------------

    def _is_best(self, evaluation: Evaluation) -> bool:
        by, higher = (
            ("validation", self._metric.higher_is_better) if self._metric else ("validation_loss", False)
        )
        mine, best = getattr(evaluation, by), getattr(self._best, by, None)
        if mine is None:
            return False
        return best is None or bool(mine > best if higher else mine < best)

    def _tell(self, evaluation: Evaluation) -> None:
        if self._directory is not None:
            self._directory.append({"event": "evaluation", **asdict(evaluation)})
        self._watcher.evaluated(evaluation, self._best)


def finite(value: float | None) -> float | None:
    """Return a number, or ``None`` where there is none that is finite."""
    return value if value is not None and math.isfinite(value) else None
