"""Train what experiments compare, and write their pages.

    python -m experiments greedy --seeds 10 --write

Names are those of the TOML files beside this one; ``all`` stands for every one, and without any only pages
are written. Finished runs are kept in experiments/results and not repeated, so that the command goes on where
it was stopped; runs of recipes or code that have changed since are dropped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# as the command does for itself: bits that don't depend on what a processor has
os.environ.setdefault("MKL_CBWR", "AVX2")

import torch

from experiments.carrying_out import RESULTS, carry_out
from experiments.experiment import ROOT, load, names
from experiments.page import documents, page
from thalweg.errors import Interrupted


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and write what is asked for; the exit code is 1 if a recipe was refused."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names())}, or all")
    parser.add_argument("--seeds", type=int, help="of each variant (default: as the experiment says)")
    parser.add_argument("--write", action="store_true", help="write all pages into docs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of finished runs")
    parser.add_argument(
        "--folder", type=Path, help="to work in, which keeps teachers; by default a temporary"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of all runs")
    parser.add_argument("--only", metavar="TEXT", help="only those with this in 'panel / variant'")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no run after so many")
    asked = parser.parse_args(arguments)
    wanted = names() if asked.names == ["all"] else asked.names
    for name in wanted:
        if name not in names():
            parser.error(f"there is no experiment {name!r}; known: {', '.join(names())}")
    torch.set_num_threads(1)
    until, refused = time.monotonic() + 60 * asked.minutes, False

    with tempfile.TemporaryDirectory(prefix="thalweg-experiments-") as temporary:
        folder = (asked.folder or Path(temporary)).resolve()
        # what is remembered of code and of test splits is none of the person's
        os.environ["THALWEG_STATE_DIR"] = str(folder / "state")
        for name in wanted:
            experiment = load(name)
            seeds = experiment.seeds if asked.seeds is None else asked.seeds
            runs = carry_out(
                experiment,
                seeds=seeds,
                results=asked.results.resolve() / f"{name}.json",
                folder=folder,
                changes=asked.set,
                only=lambda panel, variant: asked.only is None or asked.only in f"{panel} / {variant}",
                until=until,
                said=lambda text: print(text, flush=True),
            )
            there = {(each["panel"], each["variant"]) for each in runs}
            if not asked.write and runs:
                print(page(experiment, runs))
            missing = len(experiment.cells()) - len(there)
            refused = refused or (missing > 0 and asked.only is None and time.monotonic() < until)
    if asked.write:
        for path, text in documents().items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            print(path.relative_to(ROOT))
    return int(refused)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Interrupted, KeyboardInterrupt):
        print("interrupted; finished runs are kept, and the same command goes on", file=sys.stderr)
        sys.exit(130)
