"""The page of an experiment, and a sentence on each for docs/stages.md; all is made from the results."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.carrying_out import RESULTS, kept
from experiments.comparing import Difference, Interval, differences, interval, points, scores
from experiments.experiment import ROOT, Experiment, load, names
from experiments.figure import alternative, picture

__all__ = ["documents", "page", "summary"]

FOLDER = ROOT / "docs" / "experiments"
STAGES = ROOT / "docs" / "stages.md"
BEGIN, END = "<!-- experiments: begin -->", "<!-- experiments: end -->"
Run = dict[str, Any]


def documents() -> dict[Path, str]:
    """Return every file that is made from the committed results, with its text."""
    made: dict[Path, str] = {}
    said = []
    for name in names():
        experiment = load(name)
        runs = kept(experiment, RESULTS / f"{name}.json")
        if not scores(experiment, runs):
            continue
        made[FOLDER / f"{name}.md"] = page(experiment, runs)
        made[FOLDER / f"{name}.svg"] = picture(experiment, scores(experiment, runs))
        said.append(f"- [{experiment.title}](experiments/{name}.md). {summary(experiment, runs)}")
    text = STAGES.read_text(encoding="utf-8")
    made[STAGES] = "\n".join([text.partition(BEGIN)[0] + BEGIN, *said, END + text.partition(END)[2]])
    return made


def page(experiment: Experiment, runs: Sequence[Run]) -> str:
    """Return the page in Markdown."""
    found, compared = scores(experiment, runs), differences(experiment, runs)
    parts = [
        f"# {experiment.title}",
        experiment.claim.strip(),
        experiment.setting.strip(),
        f"![{alternative(experiment, found)}]({experiment.name}.svg)",
        *_tables(experiment, runs, found, compared),
        "## What the numbers say",
        "\n".join(f"- {each.sentence()}" for each in compared),
        _chance(experiment, compared),
    ]
    if experiment.limits:
        parts += ["## What wasn't tried", experiment.limits.strip()]
    parts += ["## How it was made", _made(experiment, runs)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _tables(
    experiment: Experiment,
    runs: Sequence[Run],
    found: Mapping[tuple[str, str], Mapping[int, float]],
    compared: Sequence[Difference],
) -> list[str]:
    made = []
    for panel in experiment.panels:
        reference = experiment.reference_of(panel)
        lines = [
            f"| {panel.name} | test accuracy, % | against {reference}, points | n | updates | seconds |",
            "|---|---|---|---|---|---|",
        ]
        for variant in experiment.variants:
            values = found.get((panel.name, variant.name))
            if values is None:
                continue
            mine = [r for r in runs if (r["panel"], r["variant"]) == (panel.name, variant.name)]
            against = next(
                (d for d in compared if (d.panel, d.this, d.that) == (panel.name, variant.name, reference)),
                None,
            )
            lines.append(
                f"| {variant.name} | {_interval(interval(list(values.values())))} | "
                f"{'' if against is None else _difference(against)} | {len(values)}{_failed(mine)} | "
                f"{_updates(mine)} | {statistics.fmean(r['seconds'] for r in mine):.1f} |"
            )
        if len(lines) > 2:
            made.append("\n".join(lines))
    return made


def _interval(found: Interval) -> str:
    return f"{found.mean:.1f}" if math.isinf(found.half) else f"{found.mean:.1f} ± {found.half:.1f}"


def _difference(one: Difference) -> str:
    if one.found.n < 2:
        return f"{one.found.mean:+.1f}"
    return f"{one.found.mean:+.1f} ({one.bounds})"


def _failed(runs: Sequence[Run]) -> str:
    failed = sum("failed" in each for each in runs)
    return f", {failed} failed" if failed else ""


def _updates(runs: Sequence[Run]) -> str:
    found = [each["updates"] for each in runs if "updates" in each]
    least, most = min(found), max(found)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _chance(experiment: Experiment, compared: Sequence[Difference]) -> str:
    many = [each for each in compared if each.found.n > 1]
    if not many:
        return ""
    by_chance = len(many) / 20
    said = (
        f"Each interval holds the true difference with 95 %. Of these {len(many)}, "
        + (f"about {by_chance:.0f} is to be expected that doesn't" if by_chance >= 1 else "one that doesn't "
           f"is to be expected in {1 / by_chance:.0f} such pages")
    )  # fmt: skip
    return f"{said}. Differences of less than {points(experiment.matters)} weren't looked for."


def _made(experiment: Experiment, runs: Sequence[Run]) -> str:
    seeds = max(each["seed"] for each in runs) + 1
    lines = [f"$ python -m experiments {experiment.name} --seeds {seeds} --write"]
    for panel, variant in experiment.cells():
        for before in experiment.needed(variant):
            lines.append(f"$ thalweg train {before.recipe} --out {before.out}")
        sets = "".join(f" --set '{change}'" for change in (*variant.changes, *panel.changes))
        lines.append(f"$ thalweg train {variant.recipe}{sets} --out runs/{_slug(panel.name, variant.name)}")
    block = "\n".join(dict.fromkeys(lines))
    machines = sorted({each["machine"] for each in runs})
    commits = sorted({each["commit"] for each in runs})
    loads = [each["load"] for each in runs]
    seconds = sum(each["seconds"] for each in runs)
    varied = " and ".join(f"`{key}`" for key in experiment.varies)
    return (
        f"The first command trains all of it, which took {seconds / 60:.0f} minutes of one thread while the "
        f"machine was under a load of {min(loads):.0f} to {max(loads):.0f}, and writes "
        f"this page from `experiments/results/{experiment.name}.json`; `make experiments` writes it again. "
        f"Each of the others trains one row, from seed 0; the number of the seed is set as {varied}, so that "
        f"compared runs begin alike and have the same split.\n\n```console\n{block}\n```\n\n"
        f"{len(runs)} runs on {'; '.join(machines)}; commit{'s' if len(commits) > 1 else ''} "
        f"{', '.join(commits)}.{_repeated(runs)}"
    )


def _repeated(runs: Sequence[Run]) -> str:
    """Say which runs were trained before the commit that they name was made."""
    early = sum("ran_at" in each for each in runs)
    if not early:
        return ""
    return (
        f" {early} of them were trained from an earlier state of the same recipes, which isn't in the "
        "history; seed 0 of each such row was trained again at the commit named, and gave the same bits."
    )


def _slug(*names: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(names).lower()).strip("-")


def summary(experiment: Experiment, runs: Sequence[Run]) -> str:
    """Say in a sentence for each panel what was found."""
    compared = [each for each in differences(experiment, runs) if each.panel]
    said = []
    for panel in experiment.panels:
        reference = experiment.reference_of(panel)
        mine = [d for d in compared if d.panel == panel.name and d.that == reference and d.found.n > 1]
        if mine:
            name = f"{panel.name[:1].upper()}{panel.name[1:]}"
            said.append(f"{name}, against {reference}, {_grouped(mine, experiment.matters)}.")
    return " ".join(said) or "Not enough runs yet to say anything."


def _grouped(compared: Sequence[Difference], matters: float) -> str:
    words = {
        "gains": "better",
        "loses": "worse",
        "the same": f"within {points(matters)}",
        "not known": "can't be told",
    }
    parts = []
    for verdict, said in words.items():
        mine = [each for each in compared if each.verdict == verdict]
        if verdict in ("gains", "loses"):
            listed = [f"{each.this} by {abs(each.found.mean):.1f}" for each in mine]
        else:
            listed = [f"{each.this} ({each.bounds})" for each in mine]
        if mine:
            parts.append(f"{said}: {', '.join(listed)}")
    return "; ".join(parts)
