"""Carry out what an experiment has to train, one run after another, and keep what came out of each."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.experiment import ROOT, Before, Experiment, Panel, Variant, digest, digest_before
from thalweg.errors import Interrupted, ThalwegError, UserError
from thalweg.recipe.run import run_recipe
from thalweg.run.directory import environment
from thalweg.training.options import TrainOptions

__all__ = ["RESULTS", "carry_out", "kept"]

RESULTS = Path(__file__).parent / "results"
_NUMBERS = ("test", "test_loss", "validation", "validation_loss")
Run = dict[str, Any]


def kept(experiment: Experiment, path: Path, *, changes: Sequence[str] = ()) -> list[Run]:
    """Return the runs that a file of results holds, those of the present recipes and code."""
    if not path.exists():
        return []
    found: list[Run] = json.loads(path.read_text(encoding="utf-8"))["runs"]
    now = {
        (panel.name, variant.name): _with(digest(experiment, panel, variant), changes)
        for panel, variant in experiment.cells()
    }
    return [each for each in found if now.get((each["panel"], each["variant"])) == each["digest"]]


def carry_out(
    experiment: Experiment,
    *,
    seeds: int,
    results: Path,
    folder: Path,
    changes: Sequence[str] = (),
    only: Callable[[str, str], bool] = lambda panel, variant: True,
    until: float = float("inf"),
    said: Callable[[str], None] = print,
) -> list[Run]:
    """Train what isn't there yet, seed by seed, so that what is there at any time compares everything.

    Args:
        experiment: what is to be trained.
        seeds: how many.
        results: the file of finished runs, read first and written after each.
        folder: to work in. What comes before stays there, and isn't trained again.
        changes: of all recipes, over everything else.
        only: whether a panel's variant is to be trained.
        until: no run begins when :func:`time.monotonic` is beyond it.
        said: told of each run.

    Returns:
        All runs that there are now.
    """
    runs = kept(experiment, results, changes=changes)
    done = {(each["panel"], each["variant"], each["seed"]) for each in runs}
    places = [(panel.name, variant.name) for panel, variant in experiment.cells()]
    for seed in range(seeds):
        for panel, variant in experiment.cells():
            if (panel.name, variant.name, seed) in done or not only(panel.name, variant.name):
                continue
            if time.monotonic() > until:
                return runs
            try:
                run = _one(experiment, panel, variant, seed, folder=folder, changes=changes)
            except UserError as problem:
                said(f"{experiment.name}: {panel.name} / {variant.name}, seed {seed}: {problem}")
                continue
            runs.append(run)
            runs.sort(key=lambda each: (places.index((each["panel"], each["variant"])), each["seed"]))
            write(results, runs)
            score = run.get("failed") or f"{experiment.number} {run[experiment.number]:.4f}"
            said(
                f"{experiment.name}: {panel.name} / {variant.name}, seed {seed}: {score}, "
                f"{run['seconds']:.0f} s"
            )
    return runs


def write(path: Path, runs: Sequence[Run]) -> None:
    """Write runs, a line for each, so that nothing is lost whenever this ends."""
    lines = ",\n".join(json.dumps(each) for each in runs)
    path.parent.mkdir(parents=True, exist_ok=True)
    there = path.with_suffix(".new")
    there.write_text(f'{{"runs": [\n{lines}\n]}}\n', encoding="utf-8")
    os.replace(there, path)


def _one(
    experiment: Experiment,
    panel: Panel,
    variant: Variant,
    seed: int,
    *,
    folder: Path,
    changes: Sequence[str],
) -> Run:
    place = folder / experiment.name / str(os.getpid())
    shutil.rmtree(place, ignore_errors=True)
    (place / "runs").mkdir(parents=True)
    # recipes name files from the top of the project, and directories of runs beside it
    (place / "recipes").symlink_to(ROOT / "recipes")
    for before in experiment.needed(variant):
        (place / before.out).symlink_to(_before(experiment, before, panel, seed, place, changes))
    given = [*experiment.changes(panel, variant, seed), *changes]
    clock, load = time.perf_counter(), os.getloadavg()[0]
    run: Run = {
        "panel": panel.name,
        "variant": variant.name,
        "seed": seed,
        "digest": _with(digest(experiment, panel, variant), changes),
        "commit": _commit(),
        "machine": _machine(),
    }
    try:
        with contextlib.chdir(place):
            found, _ = run_recipe(
                TrainOptions(variant.recipe, changes=given, out="runs/here", checkpoint_seconds=3600)
            )
    except (UserError, Interrupted):
        raise
    except ThalwegError as problem:
        run["failed"] = str(problem)
    else:
        run |= {name: found.result.get(name) for name in _NUMBERS}
        run |= {
            "train_loss": found.curve[-1].train_loss if found.curve else None,
            "updates": found.updates,
            "stopped": found.stopped,
        }
    run |= {"seconds": round(time.perf_counter() - clock, 2), "load": round(load, 1)}
    return run


def _before(
    experiment: Experiment, before: Before, panel: Panel, seed: int, place: Path, changes: Sequence[str]
) -> Path:
    """Train what comes before, where it isn't there yet; return its directory."""
    name = _with(digest_before(experiment, before, panel), changes)
    there = folder_of(place) / f"{Path(before.out).name}-{name}-{seed}"
    if not (there / "results.json").exists():
        shutil.rmtree(there, ignore_errors=True)
        there.parent.mkdir(parents=True, exist_ok=True)
        given = [*experiment.changes_before(before, panel, seed), *changes]
        with contextlib.chdir(place):
            run_recipe(TrainOptions(before.recipe, changes=given, out=there, checkpoint_seconds=3600))
    return there


def folder_of(place: Path) -> Path:
    """Return where trainings that come before are kept."""
    return place.parent.parent.resolve() / "before"


def _with(name: str, changes: Sequence[str]) -> str:
    return f"{name} with {' '.join(changes)}" if changes else name


def _machine() -> str:
    about = environment()
    versions = about["versions"]
    threads = torch.get_num_threads()
    return (
        f"{about['processor']}, {threads} of {about['cores']} cores, {about['platform']}; "
        f"torch {versions['torch']}, Python {versions['python']}"
    )


def _commit() -> str:
    """Return the commit of the sources, and whether something in them differs from it."""
    said = []
    for words in (
        ("rev-parse", "--short", "HEAD"),
        ("status", "--porcelain", "--", "src", "recipes", "experiments/*.py", "experiments/*.toml"),
    ):
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=False)
        said.append(done.stdout.strip() if done.returncode == 0 else "")
    return said[0] + (", changed" if said[1] else "")
