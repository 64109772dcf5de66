"""Write run directories of the present version of the format, for tests of what later code makes of them.

::

    python tests/directories/make.py            # all kinds
    python tests/directories/make.py race train

Each goes to ``tests/directories/KIND-vVERSION/``: ``run/`` is the run directory; beside it lie its data,
and what was predicted then. Directories of earlier versions stay as they are.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import thalweg
from thalweg.errors import Interrupted
from thalweg.racing.watch import RaceProgress, RaceWatcher
from thalweg.run.directory.kinds import VERSION
from thalweg.training.watch import Evaluation, TrainingWatcher

HERE = Path(__file__).parent
RUN = Path("run")

RACE: dict[str, Any] = {
    "model": "linear", "data": "iris", "optimizers": ["sgd", "adam"], "schedules": ["constant"], "trials": 2,
    "splits": 2, "confirm": 1, "epochs": 2, "batch_size": 32, "engine": "lanes",
}  # fmt: skip
TABLE = """version = 1
[data]
spec = "table.csv"
target = "price"
missing = "median"
[model]
spec = "mlp:4"
[optimizer]
name = "adam"
lr = 0.02
[schedule]
name = "cosine"
[strategies.averaging]
decay = 0.9
[strategies.clipping]
norm = 1.0
[training]
batch_size = 16
epochs = 3
evaluations = 3
seed = 1
"""
ENSEMBLE = """version = 1
[data]
spec = "iris"
[model]
spec = "mlp:4"
[optimizer]
name = "sgd"
lr = 0.1
[schedule]
name = "constant"
[ensemble]
members = 2
[training]
batch_size = 16
epochs = 2
evaluations = 2
"""
IMAGES = """version = 1
[data]
spec = "images:pictures"
[model]
spec = "cnn:2"
[optimizer]
name = "adam"
lr = 0.05
[schedule]
name = "constant"
[training]
batch_size = 4
epochs = 3
evaluations = 3
"""
SWEEP: dict[str, Any] = {
    "model": "linear", "data": "iris", "settings": {"optimizer": "adam", "lr": [0.1, 0.01]}, "seeds": 2,
    "epochs": 1, "batch_size": 32, "evaluations": 2,
}  # fmt: skip


class _Until(TrainingWatcher, RaceWatcher):
    """Asks for an end at the second evaluation, or half-way."""

    seen = 0

    def evaluated(self, evaluation: Evaluation, best: Evaluation | None) -> None:
        self.seen += 1
        self._end(self.seen == 2)

    def progress(self, progress: Any) -> None:
        if isinstance(progress, RaceProgress):
            self._end(progress.done > progress.total / 2)

    def _end(self, now: bool) -> None:
        if now:
            os.kill(os.getpid(), signal.SIGTERM)


def fit(**more: Any) -> Any:
    """Fit a line in Python."""
    torch.manual_seed(0)
    x = torch.linspace(-1, 1, 32).reshape(-1, 1)
    return thalweg.fit(
        torch.nn.Linear(1, 1), (x, 3 * x), "mse", "sgd", epochs=2, batch_size=8, validation=(x, 3 * x),
        metric="rmse", evaluations=2, hyperparameters={"lr": 0.1}, out=RUN, **more,
    )  # fmt: skip


def _table(path: Path, rows: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    lines = ["area,kind,built,price"]
    for _ in range(rows):
        area, kind = round(float(draw.uniform(20, 200)), 1), ("flat", "house", "barn")[draw.integers(3)]
        built = f"{draw.integers(1950, 2020)}-06-01"
        price = area * {"flat": 3.0, "house": 2.0, "barn": 1.0}[kind] + draw.normal()
        lines.append(f"{area if draw.random() < 0.9 else ''},{kind},{built},{price:.2f}")
    path.write_text("\n".join(lines) + "\n")


def _pictures(path: Path, each: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    for name, axis in (("rows", 0), ("stripes", 1)):
        (path / name).mkdir(parents=True)
        for number in range(each):
            wave = np.sin(np.arange(6) * math.pi / 1.5 + draw.uniform(0, 6))
            picture = np.broadcast_to(wave if axis else wave[:, None], (6, 6))
            Image.fromarray((picture * 100 + 128).astype(np.uint8)).save(path / name / f"{number}.png")


def _interrupted(begun: Callable[..., Any], *given: Any, **more: Any) -> None:
    try:
        begun(*given, out=RUN, watcher=_Until(), **more)
    except Interrupted:
        return
    raise AssertionError("it came to its end")


def _trained(recipe: str, new: str, *, unfinished: bool = False) -> None:
    Path("recipe.toml").write_text(recipe)
    if unfinished:
        _interrupted(thalweg.train, "recipe.toml")
        return
    thalweg.train("recipe.toml", out=RUN)
    thalweg.predict(RUN, new, out="predictions.csv")


def _race() -> None:
    thalweg.race(out=RUN, **RACE)


def _train(*, unfinished: bool = False) -> None:
    _table(Path("table.csv"), 60, 0)
    if not unfinished:
        _table(Path("new.csv"), 5, 1)
    _trained(TABLE, "new.csv", unfinished=unfinished)


def _ensemble() -> None:
    rows = ["sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)", "5,3,1.5,0.2", "6,3,5,2"]
    Path("new.csv").write_text("\n".join(rows) + "\n")
    _trained(ENSEMBLE, "new.csv")


def _images() -> None:
    _pictures(Path("pictures"), 16, 0)
    _pictures(Path("new"), 2, 1)
    _trained(IMAGES, "new")


KINDS: dict[str, Callable[[], Any]] = {
    "race": _race,
    "race-unfinished": lambda: _interrupted(thalweg.race, **RACE),
    "train": _train,
    "train-unfinished": lambda: _train(unfinished=True),
    "ensemble": _ensemble,
    "images": _images,
    "fit": fit,
    "sweep": lambda: thalweg.sweep(out=RUN, **SWEEP),
}


# as from a disk that didn't hold them; two kinds with states are enough
_WITHOUT_STATES = ("race-unfinished", "images", "fit")


def _thin_out(folder: Path, *, everything: bool) -> None:
    """Leave the newest state of each name alone, or none."""
    newest = {state.name.partition(".")[0]: state for state in sorted(folder.glob("*.pt"))}
    for state in folder.glob("*.pt"):
        if everything or state not in newest.values():
            state.unlink()


def make(kind: str) -> Path:
    """Write the directory of a kind anew."""
    folder = HERE / f"{kind}-v{VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    os.chdir(folder)
    KINDS[kind]()
    for name in (".lock", "report.html"):
        (RUN / name).unlink(missing_ok=True)
    _thin_out(RUN / "checkpoints", everything=kind in _WITHOUT_STATES)
    return folder


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as state_folder:
        os.environ["THALWEG_STATE_DIR"] = state_folder
        for asked in sys.argv[1:] or KINDS:
            print(make(asked))
