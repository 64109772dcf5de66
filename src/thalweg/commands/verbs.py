"""The verbs: what ``thalweg.race`` and the commands call; they compose the rooms and hold no logic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import Interrupted, SaidElsewhere, ThalwegError, UserError
from thalweg.racing.race import run_race
from thalweg.racing.results import Results
from thalweg.racing.setup import Options
from thalweg.racing.watch import RaceWatcher, SilentRaceWatcher

if TYPE_CHECKING:
    from thalweg.recipe import Recipe
    from thalweg.training.predicting import predict as predict
    from thalweg.training.results import TrainResults
    from thalweg.training.watch import TrainingWatcher

__all__ = ["predict", "race", "train"]


def race(
    model: Any = None,
    data: Any = None,
    *,
    target: str | None = None,
    task: str | None = None,
    missing: str | None = None,
    types: Mapping[str, str] | None = None,
    loss: str | Callable[..., Any] | None = None,
    metric: str | Callable[..., Any] | None = None,
    optimizers: Sequence[Any] | None = None,
    spaces: Mapping[str, tuple[float, float]] | None = None,
    schedules: Sequence[str] | None = None,
    initializations: Sequence[str] | None = None,
    trials: int | None = None,
    splits: int = 5,
    confirm: int = 2,
    epochs: int | None = None,
    batch_size: int | None = None,
    minutes: float | None = None,
    goal: float | None = None,
    margin: float | None = None,
    seed: int = 0,
    device: str = "cpu",
    engine: str = "auto",
    eliminate: bool = False,
    collate: Callable[..., Any] | None = None,
    out: str | Path | None = None,
    resume: bool = False,
    watcher: RaceWatcher | None = None,
    command: str | None = None,
    trust_code: bool = False,
) -> Results:
    """Find which optimizer, tuned with this budget, is best on this task.

    Args:
        model: ``"linear"``, ``"mlp:128,64"``, ``"cnn:16,32"``, ``"file.py:factory"``, or a factory, module
            class or module. Default ``"mlp:64"``.
        data: a built-in's name, a table's path, ``"idx:DIR"``, ``"images:DIR"``, ``"file.py:function"``,
            or tensors, arrays, a Dataset, a pair of Datasets, a data frame.
        target: column to predict, for tables.
        task: ``"classification"`` or ``"regression"``, where the target doesn't settle it.
        missing: ``"drop"`` or ``"median"``; without it missing values are refused.
        types: column to ``"number"`` or ``"category"``, where the inferred type is wrong, or to ``"ignore"``,
            which leaves it out.
        loss: name, ``"file.py:function"`` or function; the task's usual one without it.
        metric: likewise: what validation chooses by and the verdict is about.
        optimizers: names of the catalogue, ``"all"`` for all of them, ``"file.py:rule"``,
            ``"torch.optim:RAdam"``; by default the seven basic first-order ones.
        spaces: ``{"adam.lr": (1e-4, 1e-1)}`` changes a search space; ``{"sparse.k": (5, 30)}`` likewise.
        schedules: names of the schedules that every pool may draw; constant, cosine and linear by default.
        initializations: names of the starting points that every pool may draw, with their scale and sparsity
            (``"sparse"``, ``"normalized"``, ...); by default ``"default"``, the model's own, alone.
        trials: settings in each optimizer's pool, in each replicate; 16 by default.
        splits: replicates, each with its own split, pools and seeds; at least 2.
        confirm: confirmation seeds for each optimizer in each replicate.
        epochs: passes over the training split; by default as many as make about 700 steps.
        batch_size: examples a step; by default a power of two that grows with the data.
        minutes: a budget; the plan shrinks to fit it by an estimate, is cut when the clock says so, and tells
            what was left out. Two splits are always run.
        goal: value of the metric whose reaching is timed; by default the best untuned optimizer's.
        margin: differences below it don't matter; by default the metric's usual one.
        seed: of everything random.
        device: ``"cpu"``, ``"cuda"``, ...
        engine: ``"lanes"``, ``"loop"``, or ``"auto"``: a short measurement decides.
        eliminate: stop the worse half of each pool at a quarter and at half of the run, and audit it.
        collate: turns a list of a Dataset's items into a batch (inputs, targets).
        out: the run directory; by default ``runs/race-<data>-<time>``.
        resume: go on with the race in ``out``.
        watcher: told what happens.
        command: how to make this race again, for the report.
        trust_code: with ``resume``, run code that ``out`` names though it isn't known here, or has changed.

    Returns:
        What stands in ``results.json``; the report and the winning recipe lie beside it.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM; ``resume=True`` goes on.

    >>> import tempfile, thalweg
    >>> results = thalweg.race(
    ...     "linear", "iris", optimizers=["sgd", "adam"], trials=2, splits=2, epochs=2, goal=0.9,
    ...     out=tempfile.mkdtemp() + "/iris",
    ... )
    >>> [optimizer.name for optimizer in results.optimizers]
    ['sgd', 'adam']
    """
    options = Options(
        model=model,
        data=data,
        target=target,
        task=task,
        missing=missing,
        types=types,
        loss=loss,
        metric=metric,
        optimizers=optimizers,
        spaces=spaces,
        schedules=schedules,
        initializations=initializations,
        trials=trials,
        splits=splits,
        confirm=confirm,
        epochs=epochs,
        batch_size=batch_size,
        minutes=minutes,
        goal=goal,
        margin=margin,
        seed=seed,
        device=device,
        engine=engine,
        eliminate=eliminate,
        collate=collate,
    )
    watcher = SilentRaceWatcher() if watcher is None else watcher
    results, directory = run_race(
        options, out=out, resume=resume, watcher=watcher, command=command, trust_code=trust_code
    )
    # bokeh takes half a second to import, which runs needn't wait for
    from thalweg import report

    watcher.finished(results, report.write(directory))
    return results.lies_in(directory)


def train(
    recipe: str | Path | Recipe | None,
    *,
    changes: Sequence[str] = (),
    out: str | Path | None = None,
    resume: bool = False,
    device: str = "cpu",
    checkpoint_seconds: float = 60.0,
    watcher: TrainingWatcher | None = None,
    command: str | None = None,
    trust_code: bool = False,
) -> TrainResults:
    """Train what a recipe says, whatever happens; weights, model card, results and report lie in ``out``.

    Args:
        recipe: the path of a TOML file, such as a race's ``winner.toml``, or a recipe; with ``resume`` it may
            be left out.
        changes: keys to set over what the file says, such as ``"optimizer.lr=0.01"``.
        out: the run directory; by default ``runs/train-<data>-<time>``.
        resume: go on with the training in ``out``, from its last checkpoint.
        device: ``"cpu"``, ``"cuda"``, ...
        checkpoint_seconds: between two checkpoints, which are written beside training.
        watcher: told what happens.
        command: how to make this training again, for the report.
        trust_code: with ``resume``, run code that ``out`` names though it isn't known here, or has changed.

    Returns:
        What stands in ``results.json``.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM; ``resume=True`` goes on.
        ThalwegError: training failed; the directory holds the weights that were last good.

    >>> import tempfile
    >>> from thalweg import recipe
    >>> small = recipe.loads('''
    ... data.spec = "iris"
    ... model.spec = "linear"
    ... optimizer = {name = "adam", lr = 0.1}
    ... training = {batch_size = 16, epochs = 20}
    ... ''')
    >>> results = train(small, out=tempfile.mkdtemp() + "/iris")
    >>> results.result["test"] > 0.8
    True
    """
    # as with race, nothing that other verbs don't need
    from thalweg import report
    from thalweg.recipe.run import run_recipe
    from thalweg.training.parallel import is_first

    try:
        results, directory = run_recipe(
            recipe,
            changes=changes,
            out=out,
            resume=resume,
            device=device,
            checkpoint_seconds=checkpoint_seconds,
            watcher=watcher,
            command=command,
            trust_code=trust_code,
        )
    except ThalwegError as error:
        # a training that failed has left its curves behind
        failed = not isinstance(error, (UserError, Interrupted, SaidElsewhere))
        if out is not None and failed and is_first():
            report.write(Path(out))
        raise
    results.lies_in(directory)
    if not is_first():
        return results
    page = report.write(directory)
    if watcher is not None:
        watcher.finished(results, page)
    return results


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "predict":
            from thalweg.training.predicting import predict

            return predict
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
