"""What came out, as tables with Wilson intervals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["better", "named", "page", "rank", "wilson"]

Row = dict[str, Any]
# of the score of a test set: less is the same
SAME = 0.01


def wilson(hits: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson, J. American Statistical Association 22, 1927)."""
    if not count:
        return 0.0, 1.0
    share = hits / count
    middle = share + z * z / (2 * count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))


def named(row: Row) -> list[str]:
    """Return the codes of errors and risks, in the order in which they were said."""
    return [each["code"] for each in row["findings"] if each["severity"] in ("error", "risk")]


def rank(row: Row, codes: Iterable[str] | None = None) -> int | None:
    """Return the place of the first true cause among what was named, from 1; None where it wasn't."""
    true = set(row["causes"] if codes is None else codes)
    return next((place for place, code in enumerate(named(row), 1) if code in true), None)


def better(row: Row, than: str) -> bool | None:
    """Return whether the remedy's mean score is above another's; None where nothing was tried."""
    gain = row.get("gain")
    if gain is None:
        return None
    remedied, other = (sum(gain[name]) / len(gain[name]) for name in ("remedied", than))
    return remedied > other + SAME


def _share(hits: int, count: int) -> str:
    low, high = wilson(hits, count)
    return f"{hits} of {count}: {hits / count:.0%} ({low:.0%} to {high:.0%})" if count else "none"


def summary(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Return what is measured and its share, with an interval."""
    ill = [row for row in rows if row["causes"]]
    well = [row for row in rows if not row["causes"]]
    places = [rank(row) for row in ill]
    said = [(code, row) for row in ill for code in named(row)]
    tried = [row for row in ill if row.get("gain")]

    def alarms(of: list[Row]) -> str:
        return _share(sum(bool(named(row)) for row in of), len(of))

    lines = [
        (
            "a true cause named first or second",
            _share(sum(p is not None and p <= 2 for p in places), len(ill)),
        ),
        ("a true cause named first", _share(sum(p == 1 for p in places), len(ill))),
        (
            "the root cause itself named first or second",
            _share(sum((rank(r, r["causes"][:1]) or 9) <= 2 for r in ill), len(ill)),
        ),
        (
            "of what was named, causes that are true",
            _share(sum(code in row["causes"] for code, row in said), len(said)),
        ),
        (
            "of what was named, causes or mechanisms that are true",
            _share(sum(code in (*row["causes"], *row["also"]) for code, row in said), len(said)),
        ),
        ("false alarms on healthy trainings, all", alarms(well)),
        ("false alarms, ordinary ones", alarms([r for r in well if not r["odd"] and not r["generated"]])),
        ("false alarms, odd ones", alarms([r for r in well if r["odd"]])),
        ("false alarms, generated ones", alarms([r for r in well if r["generated"]])),
        (
            "remedy better than no change",
            _share(sum(bool(better(r, "unchanged")) for r in tried), len(tried)),
        ),
        (
            "remedy better than the generic one",
            _share(sum(bool(better(r, "generic")) for r in tried), len(tried)),
        ),
        (
            "remedy not worse than the generic one",
            _share(sum(_not_worse(r) for r in tried), len(tried)),
        ),
    ]
    failed = [row for row in rows if "crashed" in row or "refused" in row]
    if failed:
        lines.append(("refused, or ended in an error", _share(len(failed), len(rows))))
    return lines


def _not_worse(row: Row) -> bool:
    gain = row["gain"]
    remedied, other = (sum(gain[name]) / len(gain[name]) for name in ("remedied", "generic"))
    return bool(remedied >= other - SAME)


def by_code(rows: Sequence[Row]) -> list[str]:
    """Return a table with a line for each code."""
    ill = [row for row in rows if row["causes"]]
    codes = sorted({code for row in rows for code in (*row["causes"][:1], *named(row))})
    lines = [
        "| code | root cause of | named first or second (it, or one as good) | named, and true "
        "| named on healthy ones | remedy better than no change | than the generic one |",
        "|---|---|---|---|---|---|---|",
    ]
    for code in codes:
        own = [row for row in ill if row["causes"][0] == code]
        hits = sum((rank(row) or 9) <= 2 for row in own)
        said = [row for row in ill if code in named(row)]
        true = sum(code in (*row["causes"], *row["also"]) for row in said)
        alarms = sum(code in named(row) for row in rows if not row["causes"])
        tried = [row for row in ill if row.get("gain", {}).get("code") == code]
        lines.append(
            f"| `{code}` | {len(own)} | {_share(hits, len(own))} | {_share(true, len(said))} | {alarms} | "
            f"{_share(sum(bool(better(r, 'unchanged')) for r in tried), len(tried))} | "
            f"{_share(sum(bool(better(r, 'generic')) for r in tried), len(tried))} |"
        )
    return lines


def costs(rows: Sequence[Row]) -> str:
    """Return a sentence about gradients and seconds."""
    gradients = sorted(row["gradients"] for row in rows if "gradients" in row)
    seconds = sorted(row["seconds"] for row in rows)
    if not gradients:
        return "Nothing was diagnosed."
    return (
        f"A diagnosis took {gradients[len(gradients) // 2]:,} gradient evaluations and "
        f"{seconds[len(seconds) // 2]:.1f} s in the middle, "
        f"{gradients[-1]:,} and {seconds[-1]:.1f} s at most."
    )


def cases(rows: Sequence[Row]) -> list[str]:
    """Return a table with a line for each case that is ill, and for each false alarm."""
    lines = [
        "| case | true causes | named | place | unchanged | with the remedy | generic |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        if row["causes"] or named(row):
            gain = row.get("gain")
            arms = ("unchanged", "remedied", "generic")
            scores = [f"{sum(gain[a]) / len(gain[a]):.2f}" for a in arms] if gain else ["", "", ""]
            lines.append(
                f"| {row['name']} | {', '.join(row['causes']) or 'healthy'} | "
                f"{', '.join(named(row)) or 'nothing'} | {rank(row) or ''} | {' | '.join(scores)} |"
            )
    return lines


def page(rows: Sequence[Row], head: str) -> str:
    """Return the page in Markdown."""
    lines = [head, "| measured | share (95 % interval) |", "|---|---|"]
    lines += [f"| {what} | {share} |" for what, share in summary(rows)]
    lines += ["", costs(rows), "", "## By code", "", *by_code(rows), "", "## By case", "", *cases(rows)]
    return "\n".join(lines) + "\n"
