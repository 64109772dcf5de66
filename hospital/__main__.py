"""Diagnoses the cases, keeps a line of JSON for each, and writes the page."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

# as the command does for itself: bits that don't depend on what a processor has
os.environ.setdefault("MKL_CBWR", "AVX2")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hospital import judge
from hospital.case import Case
from hospital.cases import CASES
from hospital.generated import RESULTS, generated
from hospital.table import named, page, rank, summary

HEAD = """# The hospital

Trainings whose true causes are known were diagnosed: sick ones, each with a fault put in (or two), and
healthy ones, half of which look ill; {generated} more healthy ones were drawn by a script. Each sick one
was seen to do worse than the same without its fault, with the data of seed 0. What counts as named is an
error or a risk; advice doesn't. A cause is true if it is the one put in, or one that an expert would accept
as well, such as too few epochs for too small a rate. The remedy of what was named first was tried by a
plain loop that knows nothing of thalweg, over three seeds, against no change and against a generic remedy
(Adam at 1e-3, inputs standardized), all with as many gradient evaluations as the training had; better means
by more than 0.01 of the score on a test set.

`make hospital` makes this page again. Diagnosed were {ill} of the {sick} sick trainings that there are, and
{well} of the {healthy} healthy ones beside those drawn. Seeds: {seeds}; commits: {commits}. Cases come in
the order of their list (last layer and loss, steps, data, network, pairs), so that where some are missing
the table says nothing of the kinds that come last.
"""


def main() -> int:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m hospital", description=__doc__)
    parser.add_argument(
        "--only", nargs="*", default=[], metavar="PART", help="cases whose name has one of these in it"
    )
    parser.add_argument("--kind", choices=("sick", "healthy", "generated", "all"), default="all")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--generated", type=int, default=100, help="how many are drawn")
    parser.add_argument("--every", type=int, default=1, help="only each so manyth case, for a first look")
    parser.add_argument("--no-gain", action="store_true", help="don't try the remedies")
    parser.add_argument(
        "--again", action="store_true", help="forget what was found before, of what is run now"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "results.jsonl")
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--no-run", action="store_true", help="write the page of what is there")
    parser.add_argument("--list", action="store_true", help="say the names of all cases")
    asked = parser.parse_args()
    if asked.list:
        for case in CASES.values():
            print(f"{case.name}: {', '.join(case.causes) or 'healthy'}")
        return 0
    wanted = [] if asked.no_run else [(name, seed) for seed in asked.seeds for name in _names(asked, seed)]
    rows = _read(asked.results)
    if asked.again:
        rows = {key: row for key, row in rows.items() if key not in wanted}
    left = [key for key in wanted if key not in rows]
    asked.results.parent.mkdir(parents=True, exist_ok=True)
    state = _state()
    with ProcessPoolExecutor(asked.jobs) as pool:
        running = [pool.submit(_one, *key, not asked.no_gain) for key in left]
        for number, each in enumerate(as_completed(running), 1):
            row = each.result() | {"state": state}
            rows[row["name"], row["seed"]] = row
            # after each, so that whatever ends this loses nothing
            _keep(asked.results, rows)
            print(f"{number}/{len(left)} {_said(row)}", flush=True)
    # what was found before stands beside it
    shown = [row for _, row in sorted(rows.items()) if row["seed"] in asked.seeds]
    for what, share in summary(shown):
        print(f"{what}: {share}")
    if asked.write is not None:
        asked.write.write_text(written(shown), encoding="utf-8")
    return 0


def written(rows: Sequence[dict[str, Any]]) -> str:
    """Return the page of results."""
    head = HEAD.format(
        generated=sum(row["generated"] for row in rows),
        ill=sum(bool(row["causes"]) for row in rows),
        sick=sum(not case.healthy for case in CASES.values()),
        well=sum(not row["causes"] and not row["generated"] for row in rows),
        healthy=sum(case.healthy for case in CASES.values()),
        seeds=", ".join(map(str, sorted({row["seed"] for row in rows}))),
        commits=", ".join(sorted({row["state"] for row in rows})),
    )
    return page(rows, head)


def _names(asked: argparse.Namespace, seed: int) -> list[str]:
    found = [
        case.name
        for case in CASES.values()
        if asked.kind == "all" or asked.kind == ("healthy" if case.healthy else "sick")
    ]
    if asked.kind in ("generated", "all"):
        found += [
            case.name for case in generated(seed, asked.generated, said=lambda text: print(text, flush=True))
        ]
    found = [name for name in found if not asked.only or any(part in name for part in asked.only)]
    return found[:: asked.every]


def _case(name: str) -> Case:
    if name in CASES:
        return CASES[name]
    from hospital.generated import drawn

    seed, number = name.removeprefix("generated ").partition(":")[0].split("-")
    _, made, good = drawn(int(seed), int(number))
    return Case(name, (), made, good)


def _one(name: str, seed: int, gain: bool) -> dict[str, Any]:
    import torch

    torch.set_num_threads(1)
    return judge.examined(_case(name), seed, gain=gain)


def _said(row: dict[str, Any]) -> str:
    verdict = ", ".join(named(row)) or "nothing"
    right = f"true at {rank(row)}" if row["causes"] else "healthy"
    wrong = row.get("crashed") or row.get("refused") or ""
    gain = row.get("gain")
    tried = (
        f"; {_mean(gain, 'unchanged')} -> {_mean(gain, 'remedied')}, generic {_mean(gain, 'generic')}"
        if gain
        else ""
    )
    return f"{row['name']}: {verdict} ({right}; {row['seconds']:.0f} s{tried}) {wrong}"


def _mean(gain: dict[str, Any], arm: str) -> str:
    return f"{sum(gain[arm]) / len(gain[arm]):.2f}"


def _read(path: Path) -> dict[tuple[str, int], dict[str, Any]]:
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    return {(row["name"], row["seed"]): row for row in rows}


def _keep(path: Path, rows: dict[tuple[str, int], dict[str, Any]]) -> None:
    there = path.with_suffix(".new")
    there.write_text("".join(json.dumps(rows[key]) + "\n" for key in sorted(rows)), encoding="utf-8")
    os.replace(there, path)


def _state() -> str:
    said = []
    for words in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain", "--", "src", "hospital/*.py")):
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=False)
        said.append(done.stdout.strip() if done.returncode == 0 else "")
    return said[0] + (", changed" if said[1] else "")


if __name__ == "__main__":
    sys.exit(main())
