"""Runs the scenarios and writes the table."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

# as the command does for itself: bits that don't depend on what a processor has
os.environ.setdefault("MKL_CBWR", "AVX2")

from faults.scenarios import SCENARIOS
from faults.table import page
from faults.workshop import Workshop
from thalweg.run.directory import environment

HEAD = """# Whatever happens

What was done to real trainings, each compared with the same training left alone: the bytes of all weights
(`weights.safetensors`, `best.safetensors`, snapshots), and everything in `results.json` but times. "Nothing"
was lost if all of it is equal, nothing is left behind, and what stood before stands unharmed. Recipes are
drawn at random: data, model (batch norm, dropout, draws from torch's own generator), optimizer, schedule,
accumulation, precision, strategies. The moments of signals are drawn too; where they hit depends on the
machine. Trainings of two processes are started by torchrun, or, where it isn't starting that is tried, by a
stand-in for it that forks. A small sample is in `make test`.

`make faults` makes this page again ({command}; seed {seed}, {seconds:.0f} s on {cores} cores, torch {torch}),
and `python -m faults --only NAME --json faults/results.json --write docs/faults.md` the rows of one scenario.
Each row names the commit that it was tried with.
All recipes, moments and counts: `faults/results.json`.
"""


def main() -> int:
    """Run what is asked for; the exit code is 1 if anything was lost."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small sample")
    parser.add_argument("--kills", type=int, default=60, help="of trainings at random moments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=float, default=1.0, help="how long trainings take, against the usual")
    parser.add_argument(
        "--forked", action="store_true",
        help="fork processes from one that has everything imported, which saves the seconds of starting",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="*", metavar="NAME", help="scenarios; the rows of others that stand in --json stay"
    )
    parser.add_argument("--folder", type=Path, help="to work in; by default a temporary one")
    parser.add_argument("--json", type=Path, help="write all that is known here")
    parser.add_argument("--write", type=Path, help="write the page here")
    asked = parser.parse_args()
    known = [scenario.__name__ for scenario in SCENARIOS]
    for name in asked.only or ():
        if name not in known:
            parser.error(f"there is no scenario {name!r}; known: {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="thalweg-faults-") as temporary:
        folder = asked.folder or Path(temporary)
        # what is remembered of code and of test splits is none of the person's
        os.environ["THALWEG_STATE_DIR"] = str(folder / "state")
        shop = Workshop(
            folder, seed=asked.seed, kills=asked.kills, work=asked.work, forked=asked.forked
        )  # fmt: skip
        if asked.quick:
            shop = Workshop(folder, seed=asked.seed, kills=4, work=0.3, forked=True)
        begun, state, lost = time.monotonic(), _state(), False
        # rows of scenarios that aren't run now stand beside those that are
        before = _before(asked.json)
        for scenario in SCENARIOS:
            name, rows = scenario.__name__, []
            if asked.only and name not in asked.only:
                continue
            try:
                for row in scenario(shop):
                    row.scenario, row.state = name, state
                    rows.append(row)
                    print(
                        f"{row.tried}: {row.times} times, lost: {'; '.join(row.lost) or 'nothing'}",
                        flush=True,
                    )
                    for sentence in row.said:
                        print(f"    {sentence}", flush=True)
            except Exception:
                # the others are of use nonetheless
                traceback.print_exc()
                print(f"{name} came to no end; its rows are those of before", flush=True)
                lost = True
                continue
            lost = lost or any(row.lost for row in rows)
            found = [row.json() for row in rows]
            before["rows"] = [row for row in before["rows"] if row["scenario"] != name] + found
            # after each, so that whatever ends this loses nothing
            _write(asked, before, known, time.monotonic() - begun)
    return int(lost)


def _before(path: Path | None) -> dict[str, Any]:
    if path is None or not path.exists():
        return {"command": "", "seconds": 0.0, "rows": []}
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def _write(asked: argparse.Namespace, before: dict[str, Any], known: list[str], seconds: float) -> None:
    machine = environment()
    command = "python -m faults" + "".join(f" {word}" for word in sys.argv[1:] if "/" not in word)
    if asked.only:
        command = f"{before['command']}, then {command}"
        seconds += before["seconds"]
    rows = [row for row in before["rows"] if row["scenario"] in known]
    values = {
        "command": command,
        "seed": asked.seed,
        "seconds": round(seconds, 1),
        "machine": machine,
        "rows": sorted(rows, key=lambda row: known.index(row["scenario"])),
    }
    if asked.json is not None:
        asked.json.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if asked.write is not None:
        head = HEAD.format(
            command=f"{sum(row['times'] for row in values['rows'])} trials",
            seed=asked.seed, seconds=values["seconds"],
            cores=machine["cores"], torch=machine["versions"]["torch"],
        )  # fmt: skip
        asked.write.write_text(page(values["rows"], head), encoding="utf-8")


def _state() -> str:
    """What the sources are: the commit, and whether something in them differs from it."""
    said = []
    for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "src", "faults/*.py")):
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        said.append(done.stdout.strip() if done.returncode == 0 else "")
    return said[0] + (", changed" if said[1] else "")


if __name__ == "__main__":
    sys.exit(main())
