"""From a trained net and new data to a recipe: how much data there is, how similar, and what to train."""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w
import torch
from torch import nn

from thalweg import data as loading
from thalweg import recipe
from thalweg.data.examples import Examples, at_places
from thalweg.data.source import Prepared
from thalweg.errors import DataError, ModelError, OptionError, UserError, option
from thalweg.layers import models
from thalweg.layers.models import Factory
from thalweg.layers.surgery import with_parts
from thalweg.randomness import streams
from thalweg.randomness.generators import undisturbed
from thalweg.recipe.transfer_source import SourceNet, source_of
from thalweg.recipe.tuning_trial import errors_by
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.environment import environment
from thalweg.run.directory.kinds import default_place, refuse_existing
from thalweg.run.problem import initial_module
from thalweg.run.problem_data import ProblemData
from thalweg.run.sampler import default_batch_size, steps_an_epoch
from thalweg.settings import trust
from thalweg.settings.declared import checked
from thalweg.stages import (
    BlockFeatures,
    Probes,
    Stage,
    TransferAdvice,
    TuningTrial,
    choose_row,
    domain_errors,
    features_of_blocks,
    first_blocks,
    probe_blocks,
    probe_parts,
    take_blocks,
    transfer,
)
from thalweg.training.transfer_options import TransferOptions, TransferWatcher
from thalweg.training.transfer_results import BlockRecord, PartRecord, TransferResults, TrialRecord

__all__ = ["measure_transfer"]

_RANDOM_NETS, _TRIAL_SEEDS = 3, 2
_BATCH, _STEPS, _MOST_EPOCHS = 64, 700, 200
_OPTIMIZER: dict[str, Any] = {"name": "adam", "lr": 0.001}
_FACTOR = 0.7

# The measurements ----------------------------------------------------------------------------------------


class _Steps:
    """Counts what is done."""

    def __init__(self, watcher: TransferWatcher, total: int) -> None:
        self._watcher, self._total, self._done = watcher, total, 0

    def next(self, what: str) -> None:
        self._watcher.progress(self._done, self._total, what)
        self._done += 1


def measure_transfer(options: TransferOptions) -> tuple[TransferResults, Path]:
    """Measure how much data there is and how similar it is, and write the recipe that the table asks for.

    Args:
        options: what was asked for.

    Returns:
        What was measured, and the directory with ``results.json`` and ``transfer.toml``.

    Raises:
        UserError: something given can't be used, in one sentence; nothing has been written then.
    """
    options = checked(options)
    began = time.monotonic()
    watcher = TransferWatcher() if options.watcher is None else options.watcher
    with trust.own_code(accepted=options.trust_code):
        if options.out is not None:
            refuse_existing(Path(options.out))
        net = source_of(options)
        if options.data is None:
            raise OptionError(f"there are no data to learn; give {option('data', 'DATA')}")
        if not isinstance(options.data, str | Path):
            raise OptionError(
                f"the data are of type {type(options.data).__name__}, which a recipe can't name; give a "
                "file, or a function of yours as file.py:function"
            )
        if (text := loading.announcement(options.data)) is not None:
            watcher.note(text)
        read = _read(str(options.data), options, net.output)
        task = read.prepared.task
        if task.kind == "custom" or task.columns > 1:
            raise DataError(
                f"the task of {options.data} is custom, but probes are of one class or one number for each "
                "example; train with thalweg.stages.transfer itself"
            )
        factory = net.factory()
        # random weights first, which tells what doesn't fit
        with net.gate():
            model, _ = read.check(factory, seed=options.seed, examples=8)
            model = model.to(read.device)
            nets = [_random_net(read, factory, number) for number in range(1, _RANDOM_NETS + 1)]
        train, validation = _some(read.prepared, options)
        example, _ = train.batch(torch.arange(2))
        try:
            said = take_blocks(model, net.path, example)
        except UserError as problem:
            shapes = net.input_shape, list(read.prepared.input_shape)
            if shapes[0] in (None, shapes[1]):
                raise
            raise DataError(
                f"the source takes inputs of shape {shapes[0]}, but an example of {options.data} has shape "
                f"{shapes[1]}, and its first layers don't fit; give data of the source's shape"
            ) from problem
        watcher.begun(_lines(net, read, train, validation, said.blocks))
        measured = _measure(net, model, nets, train, validation, read, options, watcher)
        place = default_place("transfer", read.source.name) if options.out is None else Path(options.out)
        text, files = _recipe(net, factory, measured.advice, read, example, options, place, measured.notes)
        results = _results(net, read, measured, text, options, time.monotonic() - began)
        config = {
            "kind": "transfer", "command": options.command, "source": str(net.path),
            "data": str(options.data), "seed": options.seed,
        }  # fmt: skip
        recipe.loads(text)
        with RunDirectory.create(place, config) as directory:
            for name, content in files.items():
                directory.write_text(name, content)
            directory.write_text("transfer.toml", text)
            directory.write_text("results.json", results.model_dump_json(indent=2) + "\n")
    return results.lies_in(place), place


def _read(spec: str, options: TransferOptions, output: str | None) -> ProblemData:
    return ProblemData.read(
        spec, output=output, target=options.target, task=options.task, missing=options.missing,
        types=options.types, seed=options.seed, examples=options.examples, device=options.device,
    )  # fmt: skip


def _random_net(read: ProblemData, factory: Factory, seed: int) -> nn.Module:
    prepared = read.prepared
    module = initial_module(factory, prepared.input_shape, prepared.outputs, seed)
    return read.objective.interface.attach(module.to(read.device))


def _some(prepared: Prepared, options: TransferOptions) -> tuple[Examples, Examples]:
    """No more examples of each split than are to be measured on, drawn by the seed."""
    found = []
    for number, (examples, most) in enumerate(
        ((prepared.train, options.most), (prepared.validation, max(options.most // 3, 1)))
    ):
        if len(examples) > most:
            order = streams.order(len(examples), seed=options.seed, epoch=number)[:most]
            examples = at_places(examples, torch.from_numpy(order).sort().values)
        found.append(examples)
    return found[0], found[1]


def _lines(
    net: SourceNet, read: ProblemData, train: Examples, validation: Examples, blocks: int
) -> dict[str, list[str]]:
    model = f"{net.spec} with {net.parts}" if net.parts else net.spec
    return {
        "source": [f"{net.path}: {model}, {blocks} block{'' if blocks == 1 else 's'} before its head"],
        "data": [
            read.source.summary(),
            f"measured on {len(train):,} training and {len(validation):,} validation examples",
            *read.source.notes,
        ],
    }


@dataclass(frozen=True, kw_only=True)
class _Measured:
    probes: Probes
    random: list[Probes]
    parts: list[Any]
    errors: list[Any] | None
    advice: TransferAdvice
    trial: TuningTrial | None
    notes: list[str]


def _measure(
    net: SourceNet, model: nn.Module, nets: list[nn.Module], train: Examples, validation: Examples,
    read: ProblemData, options: TransferOptions, watcher: TransferWatcher,
) -> _Measured:  # fmt: skip
    steps = _Steps(watcher, len(nets) + 4 + 2 * _TRIAL_SEEDS * bool(options.trial))
    outputs = len(read.prepared.task.classes) or None
    steps.next("features of the source")
    here = features_of_blocks(model, train)
    there = features_of_blocks(model, validation)
    steps.next("probes of the source's features")
    probes = probe_blocks(here, here, there, outputs=outputs)
    random = []
    for number, each in enumerate(nets, 1):
        steps.next(f"probes of random net {number} of {len(nets)}")
        both = (features_of_blocks(each, examples) for examples in (train, validation))
        random.append(probe_blocks(each, *both, outputs=outputs))
    steps.next("the learning curve")
    best = probes.best - 1
    parts = probe_parts(
        here.values[best], here.targets, (there.values[best], there.targets), outputs=outputs,
        seed=options.seed,
    )  # fmt: skip
    steps.next("the distance of the data")
    notes: list[str] = []
    errors = None
    try:
        errors = domain_errors(_features_of_source(net, model, read, options), here, seed=options.seed)
    except UserError as problem:
        notes.append(f"the distance of the data isn't measured: {problem}")
    advice = choose_row(probes, random, parts)
    trial = None
    if options.trial:
        try:
            trial = _trial(net, advice, read, train, validation, options, steps)
            advice = choose_row(probes, random, parts, trial)
        except UserError as problem:
            notes.append(f"tuning wasn't tried: {problem}")
    return _Measured(
        probes=probes, random=random, parts=parts, errors=errors, advice=advice, trial=trial, notes=notes
    )


def _trial(
    net: SourceNet, advice: TransferAdvice, read: ProblemData, train: Examples, validation: Examples,
    options: TransferOptions, steps: _Steps,
) -> TuningTrial:  # fmt: skip
    """Begin both recipes, the one for little data and the one for much, and score them after a short time.

    Heads begin alike, batches are the same, and so are the numbers of updates: so many of the head alone,
    then as many of what is tuned.
    """
    prepared, updates, began = read.prepared, options.trial, time.monotonic()
    factory, (example, _) = net.factory(), train.batch(torch.arange(2))
    little, much = (replace(advice, data=data) for data in ("little", "much"))

    def model_of(seed: int) -> nn.Module:
        with net.gate():
            return initial_module(factory, prepared.input_shape, prepared.outputs, seed).to(read.device)

    def frozen(seed: int) -> tuple[nn.Module, list[Stage]]:
        model = model_of(seed)
        if little.take < little.blocks:
            with suppress(ModelError):
                model = first_blocks(model, example, little.take, prepared.outputs)
        (stage,) = transfer(model, net.path, example, tune=0, steps=updates)
        return model, [stage, replace(stage, name="more", begin=None, adds=())]

    def tuned(seed: int) -> tuple[nn.Module, list[Stage]]:
        model = model_of(seed)
        head, rest = transfer(
            model, net.path, example, tune=much.tune, head_epochs=1, steps=updates,
            depth_factor=_FACTOR if much.tune is None else 1.0,
        )  # fmt: skip
        return model, [replace(head, epochs=None, steps=updates), rest]

    found = []
    for what, plan in (("frozen", frozen), ("tuned", tuned)):

        def told(seed: str, what: str = what) -> None:
            steps.next(f"a trial with blocks {what}, {2 * updates} updates, {seed}")

        found.append(
            errors_by(
                plan, train=train, validation=validation, read=read,
                optimizer=net.recipe.get("optimizer", _OPTIMIZER), batch_size=_batch_size(net, len(train)),
                seeds=_TRIAL_SEEDS, told=told,
            )
        )  # fmt: skip
    return TuningTrial(
        frozen=found[0], tuned=found[1], updates=2 * updates, seeds=_TRIAL_SEEDS,
        seconds=time.monotonic() - began,
    )  # fmt: skip


def _batch_size(net: SourceNet, examples: int) -> int:
    given = int(net.recipe.get("training", {}).get("batch_size", _BATCH))
    return min(given, default_batch_size(examples), examples)


def _features_of_source(
    net: SourceNet, model: nn.Module, read: ProblemData, options: TransferOptions
) -> BlockFeatures:
    """The source's features of examples that it was trained on."""
    table: dict[str, Any] = dict(net.recipe.get("data", {}))
    if options.source_data is not None:
        table = {"spec": str(options.source_data)}
    if not table:
        raise OptionError(
            f"{net.path} doesn't say what it was trained on; give {option('source_data', 'DATA')}"
        )
    with net.gate() if options.source_data is None else nullcontext():
        other = ProblemData.read(
            str(table["spec"]), target=table.get("target"), task=table.get("task"),
            missing=table.get("missing"), types=table.get("types") or None,
            loss=net.recipe.get("objective", {}).get("loss"),
            metric=net.recipe.get("objective", {}).get("metric"),
            seed=table.get("seed", 0), replicate=table.get("replicate", 0),
            examples=table.get("examples"), device=options.device,
        )  # fmt: skip
    if other.prepared.input_shape != read.prepared.input_shape:
        raise DataError(
            f"an example of {table['spec']} has shape {list(other.prepared.input_shape)}, one of these data "
            f"{list(read.prepared.input_shape)}"
        )
    train, _ = _some(other.prepared, options)
    return features_of_blocks(model, train)


def _results(
    net: SourceNet, read: ProblemData, measured: _Measured, text: str, options: TransferOptions,
    seconds: float,
) -> TransferResults:  # fmt: skip
    prepared, probes, advice = read.prepared, measured.probes, measured.advice
    classes: dict[str, int] = {}
    if prepared.task.classes and prepared.train.targets is not None:
        counts = torch.bincount(prepared.train.targets.cpu(), minlength=len(prepared.task.classes))
        classes = dict(zip(prepared.task.classes, counts.tolist(), strict=False))
    blocks = [
        BlockRecord(
            name=name,
            features=probes.features[place],
            penalty=probe.penalty,
            score=probe.score,
            train=probe.train,
            random=[each.probes[place].score for each in measured.random],
            error=None if measured.errors is None else measured.errors[place].error,
        )
        for place, (name, probe) in enumerate(zip(probes.names, probes.probes, strict=True))
    ]
    return TransferResults(
        source=str(net.path),
        data={
            "name": read.source.name, "spec": read.source.spec, "train": len(prepared.train),
            "validation": len(prepared.validation), "classes": classes,
        },
        model={"spec": net.spec, "parts": net.parts.given()},
        metric="accuracy" if prepared.task.kind == "classification" else "R²",
        blocks=blocks,
        best=probes.best,
        tied=list(probes.tied),
        parts=[
            PartRecord(examples=each.examples, draws=each.draws, score=each.score)
            for each in measured.parts
        ],
        row=advice.row,
        little=advice.data == "little",
        similar=advice.similar,
        sure=(advice.sure_of_data, advice.sure_of_similarity),
        saved=advice.saved,
        gain=advice.gain,
        lost_at_top=advice.lost_at_top,
        trial=_recorded(measured),
        evidence=list(advice.evidence),
        notes=measured.notes,
        recipe=text,
        command=options.command,
        machine=environment(options.device),
        seconds=seconds,
    )  # fmt: skip


def _recorded(measured: _Measured) -> TrialRecord | None:
    trial, saved = measured.trial, measured.advice.tuning
    if trial is None or saved is None:
        return None
    return TrialRecord(
        updates=trial.updates, seeds=trial.seeds, frozen=1 - float(trial.frozen.mean()),
        tuned=1 - float(trial.tuned.mean()), saved=saved, seconds=trial.seconds,
    )  # fmt: skip


# The recipe ----------------------------------------------------------------------------------------------

_FILE = "transfer_net.py"


def _recipe(
    net: SourceNet, factory: Factory, advice: TransferAdvice, read: ProblemData, example: Any,
    options: TransferOptions, place: Path, notes: list[str],
) -> tuple[str, dict[str, str]]:  # fmt: skip
    """The recipe's text, and files that it needs beside it."""
    training = dict(net.recipe.get("training", {}))
    examples = len(read.prepared.train)
    batch = _batch_size(net, examples)
    # few examples need more passes than the source's many
    enough = min(round(_STEPS / steps_an_epoch(examples, batch)), _MOST_EPOCHS)
    epochs = max(int(training.get("epochs", 1)), enough, 1)
    values: dict[str, Any] = {"version": recipe.VERSION}
    given = {
        "spec": str(options.data), "target": options.target, "task": options.task,
        "missing": options.missing, "types": dict(options.types or {}), "seed": options.seed,
        "examples": options.examples,
    }  # fmt: skip
    values["data"] = {name: value for name, value in given.items() if value}
    files: dict[str, str] = {}
    values["model"] = net.table
    if advice.take < advice.blocks:
        try:
            spec, files = _shorter(net, factory, advice.take, read, example, place)
            values["model"] = {"spec": spec} if files else {**net.table, "spec": spec}
        except ModelError as problem:
            notes.append(f"the recipe takes all blocks: {problem}")
    if net.output is not None:
        values["model"]["output"] = net.output
    values["optimizer"] = dict(net.recipe.get("optimizer", _OPTIMIZER))
    if net.recipe.get("schedule", {}).get("name", "constant") != "constant":
        values["schedule"] = dict(net.recipe["schedule"])
    values["training"] = {
        "batch_size": batch,
        "epochs": epochs,
        "seed": options.seed,
        "evaluations": min(epochs, 20),
    }
    stage: dict[str, Any] = {"method": "transfer", "source": str(net.path)}
    if advice.tune is not None:
        stage["tune"] = advice.tune
    if advice.tune != 0:
        stage["head_epochs"] = max(1, round(epochs / 4))
    if advice.tune is None:
        stage["depth_factor"] = _FACTOR
    first = f"From {net.path} to {read.source.name}, by the table of transfer: {advice.row}."
    # a name may hold anything
    lines = [f"# {' '.join(line.split())}" for line in (first, *(f"- {each}" for each in advice.evidence))]
    return "\n".join([*lines, "", tomli_w.dumps(values), "[[stage]]", tomli_w.dumps(stage)]), files


def _shorter(
    net: SourceNet, factory: Factory, blocks: int, read: ProblemData, example: Any, place: Path
) -> tuple[str, dict[str, str]]:
    """The model that ends behind some blocks: by its name, or in a file of its own."""
    prepared = read.prepared
    whole = factory(prepared.input_shape, prepared.outputs)
    cut = first_blocks(whole, example, blocks, prepared.outputs)
    family, _, widths = net.spec.partition(":")
    if family in ("mlp", "cnn") and not net.raw_input:
        spec = f"{family}:{','.join(widths.split(',')[:blocks])}"
        made = with_parts(models.factory(spec), net.parts)(prepared.input_shape, prepared.outputs)
        if _alike(made, cut, net, example):
            return spec, {}
    parts = ", ".join(f"{name}={value!r}" for name, value in net.parts.given().items())
    text = (
        f'"""The first {blocks} blocks of the net that was transferred from, with a linear head."""\n\n'
        "import torch\n\n"
        "from thalweg.layers import models\n"
        "from thalweg.layers.surgery import ModelParts, with_parts\n"
        "from thalweg.stages import first_blocks\n"
        "from thalweg.stages.raw_input import with_raw_input\n\n\n"
        "def net(input_shape, outputs):\n"
        f"    equipped = with_parts(models.factory({net.spec!r}), ModelParts({parts}))\n"
        f"    whole = with_raw_input(equipped, {net.raw_input})(input_shape, outputs)\n"
        f"    return first_blocks(whole, torch.zeros(2, *input_shape), {blocks}, outputs)\n"
    )
    return f"{place / _FILE}:net", {_FILE: text}


def _alike(made: nn.Module, cut: nn.Module, net: SourceNet, example: Any) -> bool:
    """Whether two nets have the same features once they are filled from the source."""
    try:
        with undisturbed():
            for each in (made, cut):
                take_blocks(each, net.path, example)
            one, other = (features_of_blocks(each, (example, torch.zeros(2))) for each in (made, cut))
    except ModelError:
        return False
    return len(one.values) == len(other.values) and torch.allclose(one.values[-1], other.values[-1])
