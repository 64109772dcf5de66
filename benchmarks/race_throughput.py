"""A race on the digits against Optuna with a plain PyTorch loop: settings trained a second.

    python -m benchmarks.race_throughput --json benchmarks/results/race_throughput.json

Ours is the command as a person types it, ``thalweg race --data digits``, from the start of its process to
its end: imports, the data, the choice of how to run, every stage, the verdict and the report. Optuna is two
processes that share a study in a journal file, as its documentation advises for one machine. Each has one
thread, imports, reads the same data, and trains trial after trial: the same model, batch size and epochs,
one of seven optimizers of ``torch.optim`` with learning rates from the same ranges, a cosine schedule, and
as many evaluations on validation data as ours makes. With its median pruner a trial may end early and
counts as one all the same.

A setting is one training of a model; ours trains some settings anew with other seeds, which count too,
since each is a training as well. Rounds alternate in order; the ratio is taken within a round. ``--trials``
is how many trials each of Optuna's processes carries out: their rate doesn't depend on it, but for the
start.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import records

OURS = ["race", "--data", "digits"]
PEERS = ("optuna", "optuna, median pruner")
# torch's class, its fixed settings, the range of its learning rate as our catalogue has it
OPTIMIZERS: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {}),
    "momentum": ("SGD", {"momentum": 0.9}),
    "nesterov": ("SGD", {"momentum": 0.9, "nesterov": True}),
    "adagrad": ("Adagrad", {}),
    "rmsprop": ("RMSprop", {}),
    "adam": ("Adam", {}),
    "adamw": ("AdamW", {}),
}


def race(folder: Path) -> tuple[float, int, dict[str, Any]]:
    """Run the command; return its seconds, how many trainings it made, and its plan."""
    out = folder / "race"
    begin = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "thalweg", *OURS, "--out", str(out)], check=True, capture_output=True
    )
    seconds = time.perf_counter() - begin
    results = json.loads((out / "results.json").read_text(encoding="utf-8"))
    plan = results["plan"]
    of_one = plan["trials"] + min(plan["reruns"], plan["trials"]) * plan["rerun_seeds"] + plan["confirm"]
    return seconds, of_one * len(plan["optimizers"]) * plan["splits"], plan


def peer(folder: Path, plan: dict[str, Any], trials: int, pruned: bool) -> tuple[float, int]:
    """Run two processes of Optuna; return their seconds, how many trials they finished or pruned."""
    settings = {
        "journal": str(folder / "journal.log"), "pruned": pruned, "trials": trials, "epochs": plan["epochs"],
        "batch_size": plan["batch_size"], "evaluations": plan["evaluations"],
    }  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.race_throughput", "--as-peer", json.dumps(settings)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    begin = time.perf_counter()
    both = [
        subprocess.Popen([*command, str(seed)], env=environment, stdout=subprocess.DEVNULL) for seed in (0, 1)
    ]
    for process in both:
        if process.wait():
            raise SystemExit("a process of Optuna failed; its message stands above")
    return time.perf_counter() - begin, 2 * trials


def optimize(settings: dict[str, Any], seed: int) -> None:
    """Be one of Optuna's processes."""
    import optuna
    import torch
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from torch import nn

    from thalweg import catalogue, data

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    found = data.prepare(data.load("digits"), seed=0, replicate=0)
    train, validation = found.train, found.validation
    (x, y), (xv, yv) = ((part.inputs.flatten(1), part.targets) for part in (train, validation))
    loss_of = nn.CrossEntropyLoss()
    batch = settings["batch_size"]
    steps = settings["epochs"] * (len(x) // batch)
    every = max(1, steps // settings["evaluations"])
    ranges = {
        name: next(h for h in catalogue.get(name).hyperparameters if h.name == "lr") for name in OPTIMIZERS
    }

    def objective(trial: optuna.Trial) -> float:
        name = trial.suggest_categorical("optimizer", list(OPTIMIZERS))
        space = ranges[name]
        rate = trial.suggest_float(f"{name}.lr", space.low, space.high, log=True)
        torch.manual_seed(trial.number)
        model = nn.Sequential(nn.Linear(x.shape[1], 64), nn.ReLU(), nn.Linear(64, 10))
        kind, fixed = OPTIMIZERS[name]
        optimizer = getattr(torch.optim, kind)(model.parameters(), lr=rate, **fixed)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        step, best = 0, 0.0
        for _ in range(settings["epochs"]):
            order = torch.randperm(len(x))
            for begin in range(0, len(x) - batch + 1, batch):
                rows = order[begin : begin + batch]
                optimizer.zero_grad()
                loss_of(model(x[rows]), y[rows]).backward()
                optimizer.step()
                schedule.step()
                step += 1
                if step % every == 0:
                    with torch.no_grad():
                        best = max(best, (model(xv).argmax(1) == yv).double().mean().item())
                    trial.report(best, step)
                    if trial.should_prune():
                        raise optuna.TrialPruned
        return best

    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(settings["journal"])),
        study_name="digits",
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner() if settings["pruned"] else optuna.pruners.NopPruner(),
    )
    study.optimize(objective, n_trials=settings["trials"])


def main() -> None:
    """Measure, and write the results."""
    options = records.parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--trials", type=int, default=60)
    options.add_argument("--as-peer", nargs=2, help="SETTINGS SEED: be one of Optuna's processes")
    given = options.parse_args()
    if given.as_peer:
        optimize(json.loads(given.as_peer[0]), int(given.as_peer[1]))
        return
    results = records.begin("optuna", trials_a_process=given.trials, ours=f"thalweg {' '.join(OURS)}")
    rates: dict[str, list[float]] = {"thalweg": [], **{name: [] for name in PEERS}}
    seconds: dict[str, list[float]] = {name: [] for name in rates}
    with tempfile.TemporaryDirectory() as root:
        _, runs, plan = race(Path(root))
        for number in range(given.rounds):
            names = list(rates)
            random.Random(number).shuffle(names)
            for name in names:
                with tempfile.TemporaryDirectory(dir=root) as folder:
                    if name == "thalweg":
                        spent, count, _ = race(Path(folder))
                    else:
                        spent, count = peer(Path(folder), plan, given.trials, name != "optuna")
                rates[name].append(count / spent)
                seconds[name].append(spent)
            print(f"round {number + 1} of {given.rounds}", flush=True)
    results["plan"] = {
        name: plan[name] for name in ("trials", "splits", "epochs", "batch_size", "evaluations")
    }
    results["runs"] = runs
    results["seconds"] = {name: records.spread(values) for name, values in seconds.items()}
    results["settings_a_second"] = {name: records.spread(values) for name, values in rates.items()}
    results["ratio"] = {name: records.ratio(rates["thalweg"], rates[name]) for name in PEERS}
    results["rounds"] = given.rounds
    print(f"the race takes {records.said(results['seconds']['thalweg'], '.1f')} s for {runs} settings")
    for name, found in results["ratio"].items():
        print(f"settings a second, ours over {name}: {records.said(found)}")
    records.end(results, given.json)


if __name__ == "__main__":
    main()
