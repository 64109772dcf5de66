"""What a training leaves behind: weights, model card, results, and what predictions are made by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import safetensors.torch

from thalweg.data.stored import store
from thalweg.ensembles import tempering
from thalweg.ensembles.evaluate import EnsembleEvaluation, evaluate_models
from thalweg.ensembles.store import MemberStore
from thalweg.errors import DataError
from thalweg.recipe.build import BuiltRun
from thalweg.recipe.members import mean_curve, recorded
from thalweg.recipe.schema import mirrors
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.environment import environment
from thalweg.settings import trust
from thalweg.strategies import Snapshots
from thalweg.training.model_card import card
from thalweg.training.predicting import load_model, predicting_model
from thalweg.training.results import (
    CalibrationRecord,
    CurvePoint,
    EnsembleRecord,
    StageResult,
    Stored,
    TemperatureRecord,
    TrainResults,
)
from thalweg.training.training_run import Fitted, on_one_axis
from thalweg.training.watch import Evaluation

__all__ = ["export_members", "export_run"]


def _evaluate(
    made: BuiltRun, stored: Stored, names: list[str], directory: RunDirectory
) -> EnsembleEvaluation:
    """Evaluate the weights in files, which are what predictions will be made with."""
    device = str(made.backend.device)
    _, judged, metric = made.problem.functions
    return evaluate_models(
        (
            predicting_model(
                load_model(directory.path, stored, name, device), stored.prediction, stored.activation
            )
            for name in names
        ),
        made.prepared,
        loss=judged,
        metric=metric,
        activation=stored.activation,
        whole=made.read.objective.interface.gives_whole,
    )


def export_run(
    made: BuiltRun, fitted: Fitted, directory: RunDirectory | None, config: dict[str, Any]
) -> TrainResults:
    """Write what came out of a training; of many processes all call it, and 0 alone has the directory."""
    backend = made.backend
    snapshots = next((s for s in made.strategies if isinstance(s, Snapshots)), None)
    taken = snapshots.states() if snapshots is not None else []
    states = {"weights": fitted.model.state_dict()}
    if fitted.best_state is not None:
        states["best"] = fitted.best_state
    states |= {f"snapshot-{number}": state for number, state in enumerate(taken, 1)}
    for name, state in states.items():
        whole = backend.full_state(state)
        if directory is not None:
            directory.write_bytes(f"{name}.safetensors", safetensors.torch.save(whole))
    stored = _stored(made, snapshots=len(taken))
    calibration, ensemble = None, None
    evaluation: dict[Any, EnsembleEvaluation] = {}
    calibrates = made.recipe.prediction.calibrate is not None
    if directory is not None and made.prepared.task.kind == "classification":
        evaluation["result"] = _evaluate(made, stored, ["weights.safetensors"], directory)
        calibration = evaluation["result"].calibration
        if calibrates and fitted.best_state is not None:
            evaluation["best"] = _evaluate(made, stored, ["best.safetensors"], directory)
    if directory is not None and (len(taken) > 1 or (taken and calibrates)):
        files = [f"snapshot-{number}.safetensors" for number in range(1, len(taken) + 1)]
        evaluation["snapshots"] = _evaluate(made, stored, files, directory)
        ensemble = recorded(evaluation["snapshots"], None) if len(taken) > 1 else None
    found, temperature, notes = _calibrated(made, evaluation)
    stored = stored.model_copy(update={"temperatures": found})
    axis = on_one_axis(fitted)
    results = _results(
        made, config,
        curve=axis.curve, result=fitted.final, updates=fitted.updates, notes=[*fitted.notes, *notes],
        seconds=fitted.seconds, best=axis.best, stopped=fitted.stopped, failed=fitted.failed,
        stages=[
            StageResult(
                name=each.name, began=each.began, updates=each.updates, trained=each.trained,
                result=each.final, stopped=each.stopped,
            )
            for each in fitted.stages
        ],
        calibration=calibration, ensemble=ensemble, temperature=temperature,
    )  # fmt: skip
    if directory is not None:
        _conclude(results, stored, directory)
    return results


def export_members(
    made: BuiltRun, member_store: MemberStore, directory: RunDirectory, config: dict[str, Any]
) -> TrainResults:
    """Lay down what came out of an ensemble, whose members' weights are there already."""
    assert made.recipe.ensemble is not None
    assert member_store.plan is not None
    good = [number for number, member in sorted(member_store.members.items()) if not member.failed]
    stored = _stored(made, members=good)
    evaluation = _evaluate(made, stored, [f"member-{number}.safetensors" for number in good], directory)
    record = recorded(evaluation, member_store, resample=made.recipe.ensemble.resample)
    found, temperature, said = _calibrated(made, {"result": evaluation})
    stored = stored.model_copy(update={"temperatures": found})
    members = [member_store.members[number] for number in good]
    notes = [
        f"member {each.number} is left out: {each.stopped}" if each.failed
        else f"member {each.number}: {text}"
        for each in member_store.members.values()
        for text in (each.notes or [""] if each.failed else each.notes)
    ]  # fmt: skip
    results = _results(
        made, config,
        curve=mean_curve(members), result=evaluation.result, updates=sum(each.updates for each in members),
        notes=[*notes, *said], seconds=member_store.seconds, calibration=evaluation.calibration,
        ensemble=record, temperature=temperature, engine=member_store.plan.reason,
    )  # fmt: skip
    _conclude(results, stored, directory)
    return results


def _calibrated(
    made: BuiltRun, evaluation: dict[Any, EnsembleEvaluation]
) -> tuple[dict[Any, float], TemperatureRecord | None, list[str]]:
    """Find the temperatures that a recipe asks for, the record of what predicts by default, and notes."""
    found: dict[Any, float] = {}
    record: TemperatureRecord | None = None
    notes: list[str] = []
    if made.recipe.prediction.calibrate is None:
        return found, record, notes
    default = "snapshots" if "snapshots" in evaluation else "result"
    for kind, each in evaluation.items():
        try:
            temperature = tempering.ensemble_temperature(each)
        except DataError as problem:
            notes.append(f"no temperature for the {'best weights' if kind == 'best' else kind}: {problem}")
            continue
        found[kind] = temperature.value
        if kind == default:
            record = tempering.recorded(each, temperature)
    return found, record, notes


def _stored(made: BuiltRun, *, snapshots: int = 0, members: Sequence[int] = ()) -> Stored:
    prepared, wanted = made.prepared, made.recipe
    inputs = store(made.source, prepared.indices, wanted.data.missing)
    return Stored(
        spec=wanted.model.spec,
        input_shape=list(prepared.input_shape),
        outputs=prepared.outputs,
        parts=wanted.model.parts.given(),
        raw_input=wanted.model.raw_input,
        output=wanted.model.output,
        task=asdict(prepared.task),
        activation=made.activation,
        inputs=inputs,
        snapshots=snapshots,
        members=list(members),
        prediction=wanted.prediction,
        mirrored=mirrors(wanted),
        code=trust.current().written().get(wanted.model.spec, {}),
    )


def _results(
    made: BuiltRun,
    config: dict[str, Any],
    *,
    curve: Sequence[Evaluation],
    result: dict[str, float | None],
    updates: int,
    notes: list[str],
    seconds: float,
    best: Evaluation | None = None,
    stopped: str | None = None,
    failed: bool = False,
    calibration: CalibrationRecord | None = None,
    temperature: TemperatureRecord | None = None,
    ensemble: EnsembleRecord | None = None,
    engine: str | None = None,
    stages: Sequence[StageResult] = (),
) -> TrainResults:
    prepared, wanted, source = made.prepared, made.recipe, made.source
    timing: dict[str, Any] = {"started": config.get("started"), "seconds": seconds}
    if engine is not None:
        timing["engine"] = engine
    return TrainResults(
        recipe=wanted.model_dump(exclude_none=True, by_alias=True),
        data={
            "name": source.name,
            "rows": source.rows,
            "inputs": source.inputs,
            "classes": list(source.task.classes),
            "splits": {part: len(getattr(prepared, part)) for part in ("train", "validation", "test")},
            "fingerprint": source.fingerprint,
            "notes": list(dict.fromkeys([*source.notes, *prepared.notes])),
            "warnings": list(source.warnings),
        },
        model={
            "spec": wanted.model.spec,
            "parts": wanted.model.parts.given(),
            "parameters": sum(p.numel() for p in made.model.parameters()),
            "text": made.text,
        },
        metric=made.problem.functions.metric.name,
        higher_is_better=made.problem.functions.metric.higher_is_better,
        curve=[CurvePoint(**asdict(each)) for each in curve],
        best=None if best is None else CurvePoint(**asdict(best)),
        result=result,
        updates=updates,
        stopped=stopped,
        failed=failed,
        notes=notes,
        machine=environment(str(made.backend.device)),
        timing=timing,
        calibration=calibration,
        temperature=temperature,
        ensemble=ensemble,
        stages=list(stages),
    )


def _conclude(results: TrainResults, stored: Stored, directory: RunDirectory) -> None:
    directory.write_text("model.json", stored.model_dump_json(indent=1))
    directory.write_text("README.md", card(results, stored))
    # last of all: a directory with results is a finished one
    directory.write_json("results.json", results.model_dump(mode="json"))
