"""Write docs/claims: an index, and a page and a picture for each claim.

    python docs/gallery.py [DIR ...]

From the run directories that are given results are taken over into docs/claims/results first; a claim of full
size isn't replaced by one of quick size. What is there is judged anew, so that a rule that has changed shows.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from thalweg.claims import gallery, names

FOLDER = Path(__file__).parent / "claims"
RESULTS = FOLDER / "results"
COSTS = Path(__file__).parent.parent / "src" / "thalweg" / "claims" / "costs.json"
_HEAD = """# Claims of the lectures, measured

Each claim is an experiment: a set-up, what would count against it, a measurement over seeds, and a rule that
turns the numbers into a verdict. Nobody writes verdicts by hand. `thalweg claims list` names them, `thalweg
claims run NAME` measures one again, and `thalweg claims run all` all of them.

- **holds**: under every condition each part of the rule does, with an interval that is all on its side.
- **holds under named conditions**: under some conditions it does; under others not, or not for certain.
- **does not hold**: under no condition it does, and under one of them it fails for certain.
- **can't be told**: the seeds are too few; how many would tell, by the spread that was seen, is said.

The intervals of a claim together are wrong in at most 5 % of measurements. Of many claims, some verdict may
be wrong. These are small problems: what holds on them needn't on others, and what fails may hold elsewhere.

"""


def _thinned(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Curves of the first eight seeds, in four digits; what is judged stays as it is."""

    def short(value: Any, place: int) -> Any:
        if not isinstance(value, list):
            return value
        return [each if each is None else float(f"{each:.4g}") for each in value] if place < 8 else []

    return [{key: short(value, place) for key, value in row.items()} for place, row in enumerate(rows)]


def take_over(directory: Path) -> None:
    """Copy results of a run directory, and what they cost."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    costs = json.loads(COSTS.read_text(encoding="utf-8"))
    for result in json.loads((directory / "results.json").read_text(encoding="utf-8")):
        name, size = result["claim"], result["size"]
        costs.setdefault(name, {})[size] = float(f"{result['seconds']:.2g}")
        place = RESULTS / f"{name}.json"
        if size == "quick" and place.exists() and json.loads(place.read_text())["size"] == "full":
            continue
        kept = {key: result[key] for key in ("claim", "size", "digest", "seconds")}
        kept["numbers"] = {name: _thinned(rows) for name, rows in result["numbers"].items()}
        place.write_text(json.dumps(kept, separators=(",", ":")) + "\n", encoding="utf-8")
    known = {name: costs[name] for name in sorted(costs) if name in names()}
    COSTS.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def pages() -> dict[Path, str]:
    """Return the files of the gallery, by place."""
    results = [
        gallery.from_plain(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))
        for name in names()
        if (RESULTS / f"{name}.json").exists()
    ]
    told = "## By source\n\nIDs are those of [the list of sources](../sources.md).\n\n"
    table = told + gallery.by_source(results)
    found = {FOLDER / "index.md": f"{_HEAD}{gallery.index(results)}\n{table}"}
    for result in results:
        found[FOLDER / f"{result.claim.name}.md"] = gallery.page(result)
        found[FOLDER / f"{result.claim.name}.svg"] = gallery.picture(result)
    return found


if __name__ == "__main__":
    for given in sys.argv[1:]:
        take_over(Path(given))
    made = pages()
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    print(f"{len(made)} files in docs/claims")
