"""What each part of recipes/fashion-mnist.toml gains, taken out of it and added to plain Adam.

    python -m benchmarks.recipes --results benchmarks/results/recipes.json --write

Every row is a recipe under some changes, trained on the same split from the same seeds, one thread a run, by
the public path. Finished runs are kept in the results and not repeated, so that the command goes on where it
was stopped; runs of another recipe than the present one are dropped. ``--write`` puts the table into
docs/recipes.md.
``--quick`` trains for moments on the digits, to see that everything works.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from scipy.stats import t as student

from thalweg import recipe
from thalweg.recipe.run import run_recipe
from thalweg.training.options import TrainOptions

ROOT = Path(__file__).parent.parent
FULL = ROOT / "recipes" / "fashion-mnist.toml"
PLAIN = ROOT / "recipes" / "fashion-mnist-plain.toml"
DOC = ROOT / "docs" / "recipes.md"
WHOLE = "the whole recipe"
BARE = "plain Adam"
CONSTANT = 'schedule={name="constant", factor=1.0}'

# a row: the recipe, and what is changed in it
OUT: dict[str, tuple[Path, tuple[str, ...]]] = {
    WHOLE: (FULL, ()),
    "without initialization": (FULL, ("strategies.initialization=false",)),
    "without batch norm": (FULL, ("model.batch_norm=false",)),
    "without augmentation": (FULL, ("strategies.augmentation=false",)),
    "without the schedule": (FULL, (CONSTANT,)),
    "without averaging": (FULL, ("strategies.averaging=false",)),
    "without dropout": (FULL, ("model.dropout=0",)),
    "without schedule and averaging": (FULL, (CONSTANT, "strategies.averaging=false")),
    BARE: (PLAIN, ()),
    "plain Adam, the recipe's rate": (PLAIN, ("optimizer.lr=0.01",)),
}
IN: dict[str, tuple[Path, tuple[str, ...]]] = {
    "plain Adam and initialization": (PLAIN, ('strategies.initialization={scheme="he", output_bias=true}',)),
    "plain Adam and batch norm": (PLAIN, ("model.batch_norm=true",)),
    "plain Adam and augmentation": (PLAIN, ("strategies.augmentation.flip=0.5",)),
    "plain Adam and the schedule, its rate too": (PLAIN, ("schedule.name=one-cycle", "optimizer.lr=0.01")),
    "plain Adam and averaging": (PLAIN, ("strategies.averaging.decay=0.99",)),
    "plain Adam and dropout": (PLAIN, ("model.dropout=0.1",)),
}
ROWS = OUT | IN
QUICK = ("data.spec=digits", "model.spec=cnn:4,8", "training.epochs=1", "training.evaluations=1")


def read(row: str, seed: int, changes: Sequence[str] = ()) -> recipe.Recipe:
    """Return the recipe of a row."""
    path, own = ROWS[row]
    return recipe.read(path, [*own, *changes, f"training.seed={seed}"])


def digest(wanted: recipe.Recipe) -> str:
    """Return what tells a recipe from another, whatever settings recipes may get in time."""
    given = wanted.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    return hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()[:16]


def run(row: str, seed: int, changes: Sequence[str] = ()) -> dict[str, Any]:
    """Train one recipe in a directory that is thrown away; return what it came to."""
    wanted = read(row, seed, changes)
    clock, processor, load = time.perf_counter(), time.process_time(), os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        results, _ = run_recipe(TrainOptions(wanted, out=Path(folder) / "run", checkpoint_seconds=3600))
    score = results.result
    return {
        "row": row,
        "seed": seed,
        "digest": digest(wanted),
        "test": score["test"],
        "test_loss": score["test_loss"],
        "validation": score["validation"],
        "validation_loss": score["validation_loss"],
        "train_loss": results.curve[-1].train_loss,
        "parameters": results.model["parameters"],
        "fingerprint": results.data["fingerprint"],
        "splits": results.data["splits"],
        "steps": results.updates,
        "seconds": round(time.perf_counter() - clock, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "load": round(load, 1),
        "machine": results.machine,
    }


def carried(
    jobs: Sequence[tuple[str, int]], workers: int, changes: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Train all jobs, several at a time, each with one thread; yield them as they end."""
    if workers == 0:
        yield from (run(row, seed, changes) for row, seed in jobs)
        return
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        futures: list[Future[dict[str, Any]]] = [pool.submit(run, row, seed, changes) for row, seed in jobs]
        for done in as_completed(futures):
            yield done.result()


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation of shares, in percent."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{100 * statistics.fmean(values):.2f} ± {100 * deviation:.2f}"


def interval(differences: Sequence[float]) -> str:
    """Return mean and 95 % t interval of paired differences of shares, in points of a hundred."""
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return f"{100 * mean:+.2f}"
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return f"{100 * mean:+.2f} ({100 * (mean - half):+.2f} to {100 * (mean + half):+.2f})"


def table(runs: Sequence[dict[str, Any]]) -> str:
    """Return two tables in Markdown; gains are computed seed by seed."""
    scores = {(each["row"], each["seed"]): each for each in runs}
    taken = _table(scores, OUT, WHOLE, "gain of what is left out")
    text = f"Taken out of the whole recipe:\n\n{taken}"
    if any(row in IN for row, _ in scores):
        added = _table(scores, {BARE: (PLAIN, ()), **IN}, BARE, "gain of what is added")
        text += f"\n\nAdded to plain Adam:\n\n{added}"
    return text


def _table(scores: Mapping[tuple[str, int], Any], rows: Iterable[str], reference: str, gained: str) -> str:
    sign = 1 if reference == WHOLE else -1
    lines = [
        f"| | test accuracy, % | {gained}, points | validation accuracy, % | likewise | n |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        seeds = sorted(seed for name, seed in scores if name == row)
        paired = [seed for seed in seeds if (reference, seed) in scores]
        if not seeds:
            continue
        cells = []
        for split in ("test", "validation"):
            cells.append(spread([scores[row, seed][split] for seed in seeds]))
            gains = [sign * (scores[reference, seed][split] - scores[row, seed][split]) for seed in paired]
            cells.append(interval(gains) if gains and row != reference else "")
        lines.append(f"| {row} | {' | '.join(cells)} | {len(seeds)} |")
    return "\n".join(lines)


def write(text: str, runs: Sequence[dict[str, Any]]) -> str:
    """Return the document with the table between its marks."""
    begin, end = "<!-- table: begin -->", "<!-- table: end -->"
    return f"{text.split(begin)[0]}{begin}\n{table(runs)}\n{end}{text.split(end)[1]}"


def kept(path: Path, changes: Sequence[str]) -> list[dict[str, Any]]:
    """Return the runs that a file of results holds, those of the present recipes."""
    if not path.exists():
        return []
    found = json.loads(path.read_text(encoding="utf-8"))["runs"]
    return [
        r for r in found if r["row"] in ROWS and r["digest"] == digest(read(r["row"], r["seed"], changes))
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train what isn't there yet, seed by seed, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, help="file of finished runs, read and written")
    parser.add_argument("--seeds", type=int, default=5, help="runs of each row (default 5)")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time; 0: in this process")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of all rows")
    parser.add_argument("--write", action="store_true", help="put the table into docs/recipes.md")
    parser.add_argument("--quick", action="store_true", help="the digits, for a moment")
    options = parser.parse_args(arguments)
    changes = [*options.set, *(QUICK if options.quick else ())]
    runs = [] if options.results is None else kept(options.results, changes)
    done = {(each["row"], each["seed"]) for each in runs}
    # seed by seed, so that what is there at any time compares all rows
    jobs = [
        (row, seed)
        for rows in (OUT, IN)
        for seed in range(options.seeds)
        for row in rows
        if (row, seed) not in done
    ]
    for each in carried(jobs, options.workers, changes):
        runs.append(each)
        print(
            f"{len(runs):3d} {each['row']:42s} seed {each['seed']}: test {each['test']:.4f}, validation "
            f"{each['validation']:.4f}, {each['processor_seconds']:.0f} s",
            flush=True,
        )
        if options.results is not None:
            runs.sort(key=lambda r: (list(ROWS).index(r["row"]), r["seed"]))
            options.results.parent.mkdir(parents=True, exist_ok=True)
            text = json.dumps({"changes": changes, "runs": runs}, indent=1)
            options.results.write_text(text + "\n", encoding="utf-8")
    print(table(runs))
    if options.write:
        DOC.write_text(write(DOC.read_text(encoding="utf-8"), runs), encoding="utf-8")


if __name__ == "__main__":
    main()
