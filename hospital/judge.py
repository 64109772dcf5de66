"""One case judged: what the diagnosis says, what it costs, and what its remedy is worth."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hospital.case import Case, Given, score, worst
from hospital.table import named, rank
from hospital.training import spent, train, trained
from thalweg.diagnosis import Setup, diagnose
from thalweg.errors import UserError

__all__ = ["examined"]

ALARMS = ("error", "risk")


def examined(case: Case, seed: int, *, gain: bool = True, seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Diagnose a case; for one that is ill, train it with and without the remedy of what was named first.

    Args:
        case: that is diagnosed.
        seed: of its data, of its model, and of the diagnosis.
        gain: whether the remedy is tried.
        seeds: of the trainings that try it, the same for all.
    """
    given = case.make(seed)
    begun = time.perf_counter()
    found: dict[str, Any] = {
        "name": case.name,
        "seed": seed,
        "causes": list(case.causes),
        "also": list(case.also),
        "pair": case.pair,
        "odd": case.odd,
        "generated": case.name.startswith("generated"),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            diagnosis = diagnose(**given.keywords(seed), seed=seed)
        except Exception as problem:
            kind = "refused" if isinstance(problem, UserError) else "crashed"
            return found | {
                kind: f"{type(problem).__name__}: {problem}",
                "findings": [],
                "seconds": _since(begun),
            }
    found |= {
        "findings": [
            {
                "code": each.code,
                "severity": each.severity,
                "confidence": round(each.confidence, 2),
                "title": each.title,
                "evidence": list(each.evidence),
                "remedy": each.remedy.text if each.remedy else None,
                "applicable": bool(each.remedy and each.remedy.change),
            }
            for each in diagnosis.findings
        ],
        "gradients": round(diagnosis.gradients),
        "seconds": _since(begun),
    }
    if (case.causes and (rank(found) or 9) <= 2) or (not case.causes and not named(found)):
        # the evidence is of interest where the verdict is wrong; all of it would be a megabyte
        for each in found["findings"]:
            del each["evidence"], each["remedy"]
    top = next((each for each in diagnosis.findings if each.severity in ALARMS), None)
    if gain and case.causes and case.tried and top is not None and top.remedy and top.remedy.change:
        found["gain"] = _gain(given, top.remedy.apply, seeds) | {"code": top.code}
    return found


def _since(begun: float) -> float:
    return round(time.perf_counter() - begun, 2)


def _gain(given: Given, apply: Callable[[Setup], Setup], seeds: Sequence[int]) -> dict[str, Any]:
    """Train as it is, with a remedy, and with the generic one, paired over seeds, with as many gradients."""
    budget = spent(given)
    arms: dict[str, Any] = {"examples": budget, "unchanged": [], "remedied": [], "generic": []}
    for seed in seeds:
        arms["unchanged"].append(trained(given, seed))
        arms["generic"].append(trained(_generic(given), seed, examples=budget))
        setup = apply(Setup.of(**given.keywords(seed)))
        arms["remedied"].append(_remedied(given, setup, seed, budget))
        if setup.epochs > given.epochs:
            # what it asks for, and the generic one with as many
            more = len(given.x) * setup.epochs
            arms.setdefault("asked", []).append(_remedied(given, setup, seed, more))
            arms.setdefault("generic_asked", []).append(trained(_generic(given), seed, examples=more))
    return {name: [round(x, 4) for x in v] if isinstance(v, list) else v for name, v in arms.items()}


def _generic(given: Given) -> Given:
    """Adam at 1e-3 on standardized inputs."""
    if given.x.is_floating_point():
        held = (
            given.x.flatten(2).transpose(1, 2).flatten(0, 1) if given.x.dim() > 3 else given.x.flatten(0, -2)
        )
        shape = (1, -1, 1, 1) if given.x.dim() > 3 else (-1,)
        mean, std = held.mean(0).reshape(shape), held.std(0).clamp_min(1e-8).reshape(shape)

        def standardized(x: Tensor) -> Tensor:
            return (x - mean) / std

        given = replace(given, x=standardized(given.x), test=(standardized(given.test[0]), given.test[1]))
    return replace(given, optimizer=lambda model: torch.optim.Adam(model.parameters(), lr=1e-3))


def _remedied(given: Given, setup: Setup, seed: int, examples: int) -> float:
    """Train a changed set-up by the plain loop and return the score on the test set."""
    torch.manual_seed(seed)
    clip = setup.clip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            model, optimizer = setup.start(seed)
            train(
                model,
                optimizer,
                lambda outputs, targets: setup.loss(outputs, setup.encode(targets)),
                setup.inputs,
                setup.targets,
                batch_size=setup.batch_size,
                examples=examples,
                shuffle=setup.shuffled,
                seed=seed,
                before_step=None
                if clip is None
                else (lambda m: torch.nn.utils.clip_grad_norm_(m.parameters(), clip)),
                falls=setup.falling,
            )
            model.eval()
            with torch.no_grad():
                outputs = setup.decode(model(given.test[0]))
        except (RuntimeError, ValueError, IndexError):
            return worst(given.scored)
        try:
            predictions = given.read(outputs)
        except (RuntimeError, IndexError):
            # they are in the units of the targets already
            predictions = outputs
        try:
            return score(given.scored, predictions, given.test[1])
        except (RuntimeError, ValueError, IndexError):
            return worst(given.scored)
