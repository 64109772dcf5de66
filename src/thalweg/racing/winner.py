"""``winner.py``: a recipe as a short script in plain torch that gives the same curve without thalweg."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap

from torch import nn

from thalweg import catalogue, objectives, schedules
from thalweg.catalogue import Entry
from thalweg.catalogue.entry import Script
from thalweg.data.source import Prepared, Source
from thalweg.errors import OptionError
from thalweg.layers import models
from thalweg.layers.modes import held
from thalweg.layers.surgery import with_parts
from thalweg.objectives import activations
from thalweg.objectives import loss as loss_of
from thalweg.racing.part_reading import PartReading, reading_of
from thalweg.randomness.generators import seeds
from thalweg.randomness.streams import seed32
from thalweg.recipe import Recipe
from thalweg.run.objective import leaves_out
from thalweg.run.problem import initial_module
from thalweg.run.sampler import steps_an_epoch
from thalweg.settings.plugins import is_file_spec, load_object
from thalweg.strategies.initialization import InitializationSettings

__all__ = ["script"]


def script(recipe: Recipe, *, source: Source, prepared: Prepared) -> str | None:
    """Write a recipe as a script of torch, NumPy, scikit-learn and, for tables, polars.

    Run, it prints ``step N validation V`` at each evaluation and ``test T`` after the last step: split,
    preparation, initial weights, order, schedule and optimizer are those of a run of this recipe, so that the
    values are the same within rounding.

    Args:
        recipe: with the seed of the run in ``training.seed``, of the split in ``data``.
        source: what ``recipe.data`` names.
        prepared: its split.

    Returns:
        The text; ``None`` where data, model, loss, metric or optimizer were given as Python objects or come
        from a collate function, or strategies beside weights by a scheme accompany the run, which no script
        can spell.

    >>> from thalweg import data, recipe
    >>> iris = data.load("iris")
    >>> winner = recipe.Recipe(
    ...     data=recipe.DataTable(spec="iris"),
    ...     model=recipe.ModelTable(spec="linear"),
    ...     optimizer=recipe.OptimizerTable(name="adam", lr=0.1),
    ...     schedule=recipe.ScheduleTable(name="cosine"),
    ...     training=recipe.TrainingTable(batch_size=16, epochs=10),
    ... )
    >>> text = script(winner, source=iris, prepared=data.prepare(iris, seed=0, replicate=0))
    >>> for line in text.splitlines():
    ...     if line.startswith(("model", "optimizer", "factor")):
    ...         print(line)
    model = nn.Sequential(
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1, betas=(0.9, 0.999), eps=1e-08)
    factor = lambda step: 0.5 * (1 + math.cos(math.pi * min(step / 50, 1)))
    """
    task = prepared.task
    loss = recipe.objective.loss or objectives.default("loss", task)
    judge = recipe.objective.validation_loss or loss
    metric = recipe.objective.metric
    if metric is None:
        # where data settle no metric, the validation loss chooses
        metric = judge if task.kind == "custom" else objectives.default("metric", task)
    named = (recipe.model.spec, loss, judge, metric, recipe.optimizer.name)
    if any(spec.startswith("python:") for spec in named):
        return None
    begins = _beginning(recipe)
    if begins is None:
        return None
    if any(one != "bce" and activations.family(loss_of(one, task)) == "two classes" for one in (loss, judge)):
        # torch's own, which takes targets in a type and shape that they needn't have
        return None
    data = source.script(recipe.data.seed, recipe.data.replicate)
    model = models.script(recipe.model.spec, prepared.input_shape, prepared.outputs)
    if data is None or model is None:
        return None
    entry = catalogue.resolve(recipe.optimizer.name)
    optimizer = entry.script(recipe.optimizer.hyperparameters)
    # It evaluates a mean of what it trains, and has to be told which of both is wanted.
    averages = hasattr(entry.call.target, "eval")
    borrowed = ["its optimizer"] if any("thalweg" in line for line in optimizer.imports) else []
    borrowed += ["its initial weights"] if begins else []
    borrowed += ["its parts"] if recipe.model.parts else []
    module = initial_module(
        with_parts(models.factory(recipe.model.spec), recipe.model.parts),
        prepared.input_shape, prepared.outputs, recipe.training.seed,
    )  # fmt: skip
    reading = reading_of(recipe, prepared, module, loss=loss, judge=judge, metric=metric)
    if reading is None:
        return None

    training = recipe.training
    total = training.epochs * steps_an_epoch(len(prepared.train), training.batch_size)
    plateau = recipe.schedule.name == "plateau"
    own = _draws(model) or ":" in loss or ":" in judge
    frozen = _FROZEN if held(module) else ""
    parts = [
        _section("data", f"{_seeded(recipe.data.seed, 'data') if _draws(data) else ''}{_body(data)}"),
        _section(
            "loss and metric",
            _objective(
                loss, judge, metric, prepared, reading, built=model.startswith(_BUILT), averages=averages
            ),
        ),
        _section(
            "model, with the run's initial weights",
            f"{_model(model, recipe, prepared, own=own)}{begins}{frozen}{reading.hook}",
        ),
        _section("optimizer and schedule", _optimizer(optimizer, recipe, total)),
        _section(
            "training",
            _loop(recipe, plateau, averages=averages, judge="loss" if judge == loss else "validation_loss")
            if entry.step_kind == "gradient"
            else _by_work(recipe, entry),
        ),
    ]
    code = "\n\n".join(parts)
    if frozen:
        code = code.replace(_TRAIN, f"{_TRAIN}    for part in frozen:\n        part.training = False\n")
    used = {line for line in (*data.splitlines(), *optimizer.imports) if _is_import(line)}
    for name, line in _IMPORTS.items():
        if re.search(rf"(?<![\w.]){name}[.(]", code):
            used.add(line)
    heading = f'"""{_summary(recipe, source, total, borrowed)}"""'
    return f"{heading}\n\n{_sorted_imports(used)}\n\n{code}\n"


_IMPORTS = {
    "copy": "import copy",
    "math": "import math",
    "random": "import random",
    "runpy": "import runpy",
    "importlib": "import importlib",
    "np": "import numpy as np",
    "torch": "import torch",
    "nn": "from torch import nn",
    "F": "import torch.nn.functional as F",
    "initialize": "from thalweg.initial import initialize",
    "insert_parts": "from thalweg.layers.surgery import ModelParts, insert_parts",
    "roc_auc_score": "from sklearn.metrics import roc_auc_score",
    "balanced_accuracy_score": "from sklearn.metrics import balanced_accuracy_score",
}
_BUILT = "nn.Sequential("
_TRAIN = "    model.train()\n"
_FROZEN = """
# These parts are in evaluation mode, and stay so while the others train.
frozen = [part for part in model.modules() if not part.training]"""


def _beginning(recipe: Recipe) -> str | None:
    """A line that draws the weights by the recipe's scheme; ``None`` where strategies are more than that."""
    given = recipe.strategies.given()
    if not given:
        return ""
    begins = recipe.strategies.of(InitializationSettings)
    options = begins.by_scheme_alone() if begins is not None else None
    if options is None or len(given) > 1:
        return None
    scheme = options.pop("scheme")
    spelled = "".join(f", {name}={value!r}" for name, value in options.items())
    return f"\ninitialize(model, {scheme!r}, seed={recipe.training.seed}{spelled})"


def _summary(recipe: Recipe, source: Source, total: int, borrowed: list[str]) -> str:
    needed = f"needs {' and '.join(borrowed)} alone" if borrowed else "doesn't need it"
    words = (
        f"{recipe.model.spec} on {source.name} by {recipe.optimizer.name}, {total} steps of "
        f"{recipe.training.batch_size} examples. Prints the validation {recipe.objective.metric or 'metric'} "
        f"at each evaluation and the test score after the last step. Written by thalweg race; {needed}."
    )
    return "\n".join(textwrap.wrap(words.replace("\\", "/").replace('"', "'"), 100))


def _section(title: str, lines: str) -> str:
    return f"# {title}\n{lines.strip()}"


def _is_import(line: str) -> bool:
    return line.startswith(("import ", "from "))


def _body(data: str) -> str:
    return "\n".join(line for line in data.splitlines() if not _is_import(line))


def _sorted_imports(lines: set[str]) -> str:
    own = sorted(line for line in lines if line.split()[1].partition(".")[0] in sys.stdlib_module_names)
    others = sorted(lines - set(own), key=lambda line: (line.startswith("from"), line.split()[1].lower()))
    return "\n".join([*own, *([""] if own else []), *others])


def _spelled(spec: str) -> str:
    """An expression for the object that ``file.py:name`` or ``package.module:name`` names."""
    place, _, name = spec.rpartition(":")
    first, *rest = name.split(".")
    if is_file_spec(spec):
        return ".".join([f"runpy.run_path({place!r})[{first!r}]", *rest])
    return f"importlib.import_module({place!r}).{name}"


def _function(spec: str, what: str) -> str:
    """An expression for a function; a module class is made without arguments."""
    thing = load_object(spec, what, OptionError)
    return _spelled(spec) + ("()" if isinstance(thing, type) and issubclass(thing, nn.Module) else "")


def _objective(
    loss: str,
    judge: str,
    metric: str,
    prepared: Prepared,
    reading: PartReading,
    *,
    built: bool,
    averages: bool,
) -> str:
    custom = prepared.task.kind == "custom"
    several = custom and prepared.train.targets is not None and prepared.train.targets.ndim > 1
    # anybody's own model may give one number an example without an axis of its own
    columns = "outputs" if built else "outputs.reshape(len(outputs), -1)"
    predicted = "outputs" if several else f"{columns}[:, 0]"
    logit = "outputs[:, 1] - outputs[:, 0]"
    binary = "bce" in (loss, judge)
    if binary and not built:
        logit = f"({columns}[:, -1] - (outputs[:, 0] if outputs.shape[1:].numel() > 1 else 0))"
    chosen = f"({logit} > 0)" if binary else "outputs.argmax(1)"
    losses = {
        "cross-entropy": "F.cross_entropy(outputs, targets)",
        "bce": f"F.binary_cross_entropy_with_logits({logit}, targets.to(outputs.dtype))",
        "mse": f"F.mse_loss({predicted}, targets)",
        "mae": f"F.l1_loss({predicted}, targets)",
        "huber": f"F.huber_loss({predicted}, targets)",
    }
    error = f"({columns}[:, 0].double() - targets.double())"
    metrics = {
        "accuracy": f"({chosen} == targets).double().mean()",
        "balanced-accuracy": f"balanced_accuracy_score(targets, {chosen})",
        "log-loss": f"{losses['bce' if binary else 'cross-entropy']}",
        "auc": f"roc_auc_score(targets, {logit})",
        "rmse": f"y_scale * {error}.square().mean().sqrt()",
        "mae": f"y_scale * {error}.abs().mean()",
        "r2": f"1 - {error}.square().mean() / targets.double().var(correction=0)",
    }
    if custom:
        # outputs and targets have one shape, or scores of classes stand at axis 1 beside class numbers
        counts = f"targets != {leaves_out(judge)}"
        losses["bce"] = "F.binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype))"
        error, right = "(outputs.double() - targets.double())", "(outputs.argmax(1) == targets)"
        metrics = {
            "accuracy": f"{right}[{counts}].double().mean()",
            "balanced-accuracy": f"balanced_accuracy_score(targets[{counts}], outputs.argmax(1)[{counts}])",
            "log-loss": f"F.cross_entropy(outputs, targets, ignore_index={leaves_out(judge)})",
            "auc": f"roc_auc_score(targets[{counts}], (outputs[:, 1] - outputs[:, 0])[{counts}])",
            "rmse": f"{error}.square().mean().sqrt()",
            "mae": f"{error}.abs().mean()",
            "r2": f"(1 - {error}.square().mean(0) / targets.double().var(0, correction=0)).mean()",
        }
    lines = []
    if reading.part is not None:
        lines += ["def part_of(outputs):"]
        lines += [f"    return outputs if isinstance(outputs, torch.Tensor) else {reading.part}", "", ""]

    def body(name: str, value: str) -> list[str]:
        return [*(["    outputs = part_of(outputs)"] if reading.taken(name) else []), f"    return {value}"]

    for name, called, spec in (
        ("loss", "loss", loss),
        *([] if judge == loss else [("validation_loss", "judged", judge)]),
    ):
        if spec in losses:
            lines += [f"def {name}(outputs, targets):", *body(called, losses[spec])]
        elif reading.taken(called):
            lines += [f"own_{name} = {_function(spec, 'loss')}", "", "", f"def {name}(outputs, targets):"]
            lines += body(called, f"own_{name}(outputs, targets)")
        else:
            lines += [f"{name} = {_function(spec, 'loss')}"]
        lines += ["", ""]
    value = metrics.get(metric) or losses.get(metric)
    if value is not None:
        lines += ["def metric(outputs, targets):", *body("metric", f"float({value})")]
    elif prepared.task.kind == "regression":
        lines += [f"own_metric = {_function(metric, 'metric')}", "", ""]
        units = "y_center + y_scale * outputs, y_center + y_scale * targets"
        lines += ["def metric(outputs, targets):", *body("metric", f"float(own_metric({units}))")]
    elif reading.taken("metric"):
        lines += [f"own_metric = {_function(metric, 'metric')}", "", "", "def metric(outputs, targets):"]
        lines += body("metric", "own_metric(outputs, targets)")
    else:
        lines += [f"metric = {_function(metric, 'metric')}"]
    lines += ["", ""]
    lines += [
        "@torch.no_grad()",
        "def evaluate(measure, x, y):",
        "    model.eval()",
        *(["    optimizer.eval()"] if averages else []),
        "    return float(measure(model(x), y))"
        if reading.whole
        else "    return float(measure(torch.cat([model(part) for part in x.split(256)]), y))",
        "",
    ]
    return "\n".join(lines)


def _draws(code: str) -> bool:
    """Whether code of a person's own is run, which may draw from any generator."""
    return "runpy." in code or "importlib." in code


def _seeded(seed: int, *names: str, torch: int | None = None) -> str:
    """Lines that seed torch's, NumPy's and Python's generators as a run does."""
    own = seeds(seed, *names)
    return (
        f"torch.manual_seed({own['torch'] if torch is None else torch})\n"
        f"np.random.seed({own['numpy']})\nrandom.seed({own['python']})\n"
    )


def _model(model: str, recipe: Recipe, prepared: Prepared, *, own: bool) -> str:
    seed = recipe.training.seed
    initial = f"torch.manual_seed({seed32(seed, 'initial')})"
    parts = ", ".join(f"{name}={value!r}" for name, value in recipe.model.parts.given().items())
    shape = tuple(prepared.input_shape)
    insert = [f"insert_parts(model, ModelParts({parts}), input_shape={shape})"] if parts else []
    if model.startswith(_BUILT):
        lines = [initial, f"model = {model}", *insert, *([_seeded(seed).strip()] if own else [])]
        return "\n".join(lines)
    initial = _seeded(seed, "initial", torch=seed32(seed, "initial")).strip()
    # The file is run before the seed is set: it may draw numbers of its own.
    found = _spelled(recipe.model.spec)
    if model == found:
        lines = [
            f"model = {found}",
            initial,
            "for part in model.modules():",
            "    if hasattr(part, 'reset_parameters'):",
            "        part.reset_parameters()",
        ]
    else:
        lines = [f"factory = {found}", initial, f"model = factory{model.removeprefix(found)}"]
    lines += insert
    lines += [
        "# Random layers draw otherwise here than under thalweg: with them, the curve has other noise.",
        _seeded(seed).strip(),
    ]
    return "\n".join(lines)


def _optimizer(optimizer: Script, recipe: Recipe, total: int) -> str:
    lines = [line for line in optimizer.imports if not _is_import(line)]
    lines += [f"optimizer = {optimizer.expression}"]
    if recipe.schedule.name == "plateau":
        lines += ["plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=2, eps=0.0)"]
    else:
        schedule = schedules.build(recipe.schedule.name, total=total, **recipe.schedule.options)
        lines += ["rates = [group['lr'] for group in optimizer.param_groups]"]
        lines += [f"factor = {schedule.script()}"]
    return "\n".join(lines)


def _loop(recipe: Recipe, plateau: bool, *, averages: bool, judge: str) -> str:
    ready = "\n    optimizer.train()" if averages else ""
    training = recipe.training
    rates = """
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate * factor(step)"""
    watch = f"""
        if step > 0:
            plateau.step(evaluate({judge}, x_validation, y_validation))"""
    watch, rates = (watch, "") if plateau else ("", rates)
    return f"""
batch_size, epochs, evaluations = {training.batch_size}, {training.epochs}, {training.evaluations}
steps = len(x_train) // batch_size  # of an epoch
total = steps * epochs
points = {{round(total * i / evaluations) for i in range(evaluations + 1)}}

for step in range(total + 1):
    if step in points:
        print("step", step, "validation", evaluate(metric, x_validation, y_validation)){watch}
    if step == total:
        break
    if step % steps == 0:
        draws = np.random.Philox(key=[{training.seed}, step // steps]).random_raw(len(x_train))
        order = torch.from_numpy(np.argsort(draws, kind="stable"))
    batch = order[step % steps * batch_size :][:batch_size]{rates}
    model.train(){ready}
    optimizer.zero_grad()
    loss(model(x_train[batch]), y_train[batch]).backward()
    optimizer.step()
print("test", evaluate(metric, x_test, y_test))
"""


_CLOSURES = {
    "closure": """
    global passes
    passes += 3
    optimizer.zero_grad()
    value = loss(model(x_train[batch]), y_train[batch])
    value.backward()
    return value""",
    "graph": """
    return loss(model(x_train[batch]), y_train[batch])""",
    "outputs": """
    return model(x_train[batch]), lambda outputs: loss(outputs, y_train[batch])""",
}


def _by_work(recipe: Recipe, entry: Entry) -> str:
    """A loop whose clock is work: what a step takes isn't known beforehand; nothing beyond the end counts."""
    training = recipe.training
    of_run = entry.of_run(recipe.optimizer.hyperparameters)
    before, taken = "passes = 0", "passes"
    most = room = ""
    if entry.step_kind == "closure" and "max_eval" in inspect.signature(entry.call.target).parameters:
        most = "\nmost = [group['max_eval'] for group in optimizer.param_groups]"
        room = """
    for group, own in zip(optimizer.param_groups, most):
        group["max_eval"] = int(max(1, min(own, (total - clock) / (size / batch_size) * 3 // 3)))"""
    tracking = "\noptimizer.track(model)" if hasattr(entry.call.target, "track") else ""
    if entry.step_kind != "closure":
        before, taken = "before_step = optimizer.passes", "(optimizer.passes - before_step)"
    return f"""
batch_size, epochs, evaluations = {training.batch_size}, {training.epochs}, {training.evaluations}
factor, growth = {of_run["batch_factor"]!r}, {of_run["batch_growth"]!r}
# The clock counts work: one is a forward and backward pass (3 forward passes) over batch_size examples.
total = len(x_train) // batch_size * epochs
points = sorted({{round(total * i / evaluations) for i in range(evaluations + 1)}})


def show(point):
    print("step", point, "validation", evaluate(metric, x_validation, y_validation))


def closure():{_CLOSURES[entry.step_kind]}

{tracking}{most}
clock, epoch, position = 0.0, 0, 0
show(0)
while True:
    size = min(len(x_train), max(1, round(batch_size * factor * growth ** (clock / total))))
    if position + size > len(x_train):
        epoch, position = epoch + 1, 0
    draws = np.random.Philox(key=[{training.seed}, epoch]).random_raw(len(x_train))
    batch = torch.from_numpy(np.argsort(draws, kind="stable"))[position : position + size]
    position += size
    model.train()
    before = copy.deepcopy(model.state_dict()){room}
    {before}
    optimizer.step(closure)
    reached = clock + {taken} / 3 * (size / batch_size)
    after = copy.deepcopy(model.state_dict())
    # At a point that the step went past stands what was there before it.
    model.load_state_dict(before)
    for point in points:
        if clock < point < reached:
            show(point)
    if reached > total:
        break
    model.load_state_dict(after)
    clock = reached
    if clock in points:
        show(int(clock))
    if clock == total:
        break
print("test", evaluate(metric, x_test, y_test))
"""
