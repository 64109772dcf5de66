"""The model card that lies beside the weights."""

from __future__ import annotations

from thalweg.layers.surgery import ModelParts
from thalweg.run.summaries import metric_label
from thalweg.training.results import Stored, TrainResults

__all__ = ["card"]


def card(results: TrainResults, stored: Stored) -> str:
    """Write what a person who finds the directory has to know of the model, as Markdown."""
    task, data, recipe = stored.task, results.data, results.recipe
    what = f"predicts {task['target']!r}" if task.get("target") else "predicts"
    if task["kind"] == "classification":
        comma = "," if task.get("target") else ""
        what += f"{comma} one of {len(task['classes'])} classes ({', '.join(task['classes'][:10])})"
        what += " and more" if len(task["classes"]) > 10 else ""
    elif task["kind"] == "regression":
        what += ", a number" if task.get("target") else " a number"
    scores = "\n".join(
        f"| {split} | {_number(results.result.get(split))} | {_number(results.result.get(f'{split}_loss'))} |"
        for split in ("validation", "test")
    )
    given = ", ".join(recipe.get("strategies", {})) or "none"
    hyper = ", ".join(f"{k} = {v}" for k, v in recipe["optimizer"].items() if k != "name")
    ended = f"\nTraining ended early: {results.stopped}.\n" if results.stopped else ""
    notes = (
        "\n".join(f"- {_line(text)}" for text in [*data.get("warnings", []), *data["notes"], *results.notes])
        or "- none"
    )
    files = ["| `weights.safetensors` | the result |"]
    who, together, steps = "A model with", "", f"{results.updates:,} steps"
    if stored.members:
        count = len(stored.members)
        files = [f"| `member-N.safetensors` | {count} independent models, an ensemble |"]
        who, together = f"{count} independent models, each with", _together(results)
        steps = f"{results.updates // count:,} steps each"
    if results.best is not None:
        files.append(f"| `best.safetensors` | the best on validation, at step {results.best.step} |")
    if stored.snapshots:
        files.append(f"| `snapshot-N.safetensors` | {stored.snapshots} snapshots, an ensemble |")
    kinds = "\n".join(files)
    put_in = ModelParts(**stored.parts)  # type: ignore[arg-type]
    parts = f"Into the model were put: {put_in}.\n" if put_in else ""
    return f"""# {results.model["spec"]} on {_line(data["name"])}

{who} {results.model["parameters"]:,} parameters{"; their average" if together else " that"} {_line(what)}.
{parts}
| split | {metric_label(results.metric)} | loss |
|---|---|---|
{scores}

The test split ({data["splits"]["test"]:,} examples) was scored once, after training.
{together}{_tempered(results)}{ended}
## Data

{_line(data["name"])}: {data["rows"]:,} rows, {_line(data["inputs"])}; fingerprint `{data["fingerprint"]}`.
{data["splits"]["train"]:,} examples trained, {data["splits"]["validation"]:,} validated.

{notes}

## Training

`{recipe["optimizer"]["name"]}`{f" ({hyper})" if hyper else ""}, schedule `{recipe["schedule"]["name"]}`,
{_length(results)} of batches of {recipe["training"]["batch_size"]},
{steps}. Strategies: {given}. The whole recipe is `recipe.toml`.

## Files

| file | what it holds |
|---|---|
{kinds}
| `model.json` | how to build the model, and how to prepare data for it |
| `results.json`, `report.html` | everything measured |

## Use

```console
$ thalweg predict DIR --data new.csv --out predictions.csv
```

Weights are safetensors: reading them runs no code.
"""


def _length(results: TrainResults) -> str:
    if results.stages:
        return f"in stages ({', '.join(_line(each.name) for each in results.stages)})"
    epochs = results.recipe["training"]["epochs"]
    return f"{epochs} epoch{'' if epochs == 1 else 's'}"


def _together(results: TrainResults) -> str:
    """What an ensemble is to its members."""
    found = results.ensemble
    assert found is not None
    scores = [m.result["test"] for m in found.members if m.result.get("test") is not None]
    alone = f"{min(scores):.5g} to {max(scores):.5g}" if scores else "-"  # type: ignore[type-var]
    kind = ", each on a bootstrap resample of the training examples" if found.resample else ""
    what = "probabilities" if found.disagreement else "predictions"
    metric = metric_label(results.metric)
    text = f"""
The table is of the ensemble: the mean of its members' {what}. Alone they reach a test {metric} of
{alone}. They differ in initial weights, order and random draws{kind}.
"""
    if results.calibration is not None and found.pooled is not None:
        text += (
            f"Expected calibration error on test: {results.calibration.error:.3g} together, "
            f"{found.pooled.error:.3g} alone.\n"
        )
    return text


def _tempered(results: TrainResults) -> str:
    found = results.temperature
    if found is None:
        return ""
    return (
        f"\nProbabilities are given at a temperature of {found.value:.5g}, found on {found.examples:,} "
        f"validation examples: on test it takes the negative log-likelihood from {found.nll['test'][0]:.5g} "
        f"to {found.nll['test'][1]:.5g}, the calibration error from {found.error['test'][0]:.3g} to "
        f"{found.error['test'][1]:.3g}.\n"
    )


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.5g}"


def _line(text: str) -> str:
    """One line, whatever a person's names hold."""
    return " ".join(text.split()).replace("|", "\\|")
