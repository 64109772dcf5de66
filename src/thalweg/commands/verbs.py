"""The verbs: what ``thalweg.race`` and the commands call; they compose the rooms and hold no logic."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.errors import Interrupted, SaidElsewhere, ThalwegError, UserError
from thalweg.racing.options import Options
from thalweg.racing.race import run_race
from thalweg.racing.results import Results
from thalweg.settings.declared import has_signature_of
from thalweg.training.options import TrainOptions
from thalweg.training.transfer_options import TransferOptions

if TYPE_CHECKING:
    from thalweg.training.predicting import predict as predict
    from thalweg.training.results import TrainResults
    from thalweg.training.transfer_results import TransferResults

__all__ = ["predict", "race", "train", "transfer"]


@has_signature_of(Options)
def race(*places: Any, **given: Any) -> Results:
    """Find which optimizer, tuned with this budget, is best on this task.

    Args:

    Returns:
        What stands in ``results.json``; the report and the winning recipe lie beside it.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM; ``resume=True`` resumes.

    >>> import tempfile, thalweg
    >>> results = thalweg.race(
    ...     "linear", "iris", optimizers=["sgd", "adam"], trials=2, splits=2, epochs=2, goal=0.9,
    ...     out=tempfile.mkdtemp() + "/iris",
    ... )
    >>> [optimizer.name for optimizer in results.optimizers]
    ['sgd', 'adam']
    """
    options = Options(*places, **given)
    results, directory = run_race(options)
    # bokeh takes half a second to import, which runs needn't wait for
    from thalweg import report

    page = report.write(directory)
    if options.watcher is not None:
        options.watcher.finished(results, page)
    return results.lies_in(directory)


@has_signature_of(TrainOptions)
def train(*places: Any, **given: Any) -> TrainResults:
    """Train what a recipe says, whatever happens; weights, model card, results and report lie in ``out``.

    Args:

    Returns:
        What stands in ``results.json``.

    Raises:
        UserError: something given can't be used; nothing has been written then.
        Interrupted: Ctrl-C or SIGTERM; ``resume=True`` resumes.
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

    options = TrainOptions(*places, **given)
    try:
        results, directory = run_recipe(options)
    except ThalwegError as error:
        # a training that failed has left its curves behind
        failed = not isinstance(error, (UserError, Interrupted, SaidElsewhere))
        if options.out is not None and failed and is_first():
            report.write(Path(options.out))
        raise
    results.lies_in(directory)
    if not is_first():
        return results
    page = report.write(directory)
    if options.watcher is not None:
        options.watcher.finished(results, page)
    return results


@has_signature_of(TransferOptions)
def transfer(*places: Any, **given: Any) -> TransferResults:
    """Measure how much data there is and how similar it is to a trained net's, and write the recipe for that.

    Probes at every depth of the net, against nets with random weights, say how similar the data are, and a
    learning curve of the best probe whether there is enough of them. The recipe is ``transfer.toml`` in
    ``out``, for ``thalweg.train``; results and report lie beside it.

    Args:

    Returns:
        What stands in ``results.json``.

    Raises:
        UserError: something given can't be used; nothing has been written then.

    >>> import tempfile
    >>> from thalweg import recipe
    >>> folder = tempfile.mkdtemp()
    >>> small = recipe.loads('''
    ... data.spec = "iris"
    ... model.spec = "mlp:16,8"
    ... optimizer = {name = "adam", lr = 0.01}
    ... training = {batch_size = 16, epochs = 5}
    ... ''')
    >>> _ = train(small, out=f"{folder}/source")
    >>> results = transfer(f"{folder}/source", data="iris", out=f"{folder}/transfer")
    >>> [block.name for block in results.blocks]
    ['0', '2']

    Source: P4 (S).
    """
    # as with race, nothing that other verbs don't need
    from thalweg import report
    from thalweg.recipe.transferring import measure_transfer

    options = TransferOptions(*places, **given)
    results, directory = measure_transfer(options)
    page = report.write(directory)
    if options.watcher is not None:
        options.watcher.finished(results, page)
    return results


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "predict":
            from thalweg.training.predicting import predict

            return predict
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
