"""Makes each mutation of the lists, and says which of them no test catches."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from mutants.place import MutantError, find, read
from mutants.run import outcomes, passes

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Try the mutants asked for; the exit code is 1 where one survived, 2 where they can't be tried."""
    parser = argparse.ArgumentParser(prog="python -m mutants", description=__doc__)
    parser.add_argument("--only", nargs="*", default=[], help="rooms, or parts of symbols")
    parser.add_argument("--jobs", type=int, default=2, help="runs of tests at a time")
    parser.add_argument(
        "--seconds", type=float, default=900.0, help="after which the tests of a mutant are ended"
    )
    parser.add_argument("--list", action="store_true", help="print the mutants and where they are, try none")
    asked = parser.parse_args()
    chosen = [
        mutant
        for mutant in read(Path(__file__).parent)
        if not asked.only or any(word == mutant.room or word in mutant.symbol for word in asked.only)
    ]
    try:
        places = {mutant: find(mutant, ROOT / "src" / "thalweg") for mutant in chosen}
    except MutantError as error:
        print(error, file=sys.stderr)
        return 2
    if asked.list or not chosen:
        for mutant, place in places.items():
            print(f"{place.path.relative_to(ROOT)}:{place.line}: {mutant}")
        return 0 if chosen else 2
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="thalweg-mutants-") as temporary:
        # without bytecode pytest would rewrite the modules of its plugins anew each time, which takes seconds
        os.environ |= {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{temporary}/bytecode"}
        # a test that fails without a mutation would seem to catch every one
        tests = sorted({test for mutant in chosen for test in mutant.tests})
        print(f"without a mutation: {len(tests)} files and folders of tests ...", flush=True)
        fine, output = passes(tests, root=ROOT, folder=Path(temporary) / "whole", jobs=asked.jobs)
        if not fine:
            print(f"{output}\nthese tests don't pass as it is", file=sys.stderr)
            return 2
        survivors = 0
        ends = outcomes(
            chosen, root=ROOT, folder=Path(temporary) / "mutants", jobs=asked.jobs, seconds=asked.seconds
        )
        for number, outcome in enumerate(ends, 1):
            print(f"{number}/{len(chosen)} {outcome.end}: {outcome.mutant}", flush=True)
            if outcome.end in ("survived", "broken"):
                survivors += 1
                if outcome.end == "broken":
                    print(outcome.output, flush=True)
    seconds = time.monotonic() - begun
    print(f"{len(chosen) - survivors} of {len(chosen)} mutants caught in {seconds:.0f} s, {survivors} not")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
