"""A gallery of claims: one page of HTML that stands alone, or pages of Markdown with pictures beside them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from thalweg.claims.claim import TOPICS
from thalweg.claims.judging import ClaimResult, judge
from thalweg.claims.picture import alternative, draw
from thalweg.claims.registry import get
from thalweg.claims.rules import Verdict
from thalweg.report.numbers import duration
from thalweg.report.page import page_of

__all__ = [
    "by_source",
    "cost",
    "counts",
    "files",
    "from_plain",
    "index",
    "page",
    "picture",
    "plain_result",
    "sentence",
]

_VERDICTS: tuple[Verdict, ...] = (
    "holds", "holds under named conditions", "does not hold", "can't be told",
)  # fmt: skip


def files(results: Sequence[ClaimResult]) -> dict[str, str]:
    """Return the gallery as one page, and each picture, by the name of its file."""
    by_topic = {
        title: [each for each in results if each.claim.topic == topic] for topic, title in TOPICS.items()
    }
    shown = {
        title: [
            {"result": each, "picture": Markup(picture(each)), "cost": cost(each), "verdict": sentence(each)}
            for each in there
        ]
        for title, there in by_topic.items()
        if there
    }
    html = page_of("claims.html.jinja", topics=shown, counts=counts(results), verdicts=_VERDICTS)
    return {"gallery.html": html, **{f"{each.claim.name}.svg": picture(each) for each in results}}


def picture(result: ClaimResult) -> str:
    """Return a claim's picture as SVG."""
    claim = result.claim
    return draw(claim.picture, result.numbers, claim.title, exact=claim.exact)


def sentence(result: ClaimResult) -> str:
    """Return the verdict as a sentence."""
    said = result.judged.sentence()
    return f"{said[0].upper()}{said[1:]}."


def counts(results: Sequence[ClaimResult]) -> dict[Verdict, int]:
    """Return how many claims came out each way."""
    found = Counter(each.judged.verdict for each in results)
    return {verdict: found[verdict] for verdict in _VERDICTS}


def cost(result: ClaimResult) -> str:
    """Say how many seeds were measured, and how long it took."""
    seeds = result.judged.seeds
    drawn = "computed once" if result.claim.exact else f"{seeds} seeds"
    return f"{drawn}, {duration(result.seconds)} of one core"


def index(results: Sequence[ClaimResult]) -> str:
    """Return the first page of the gallery in Markdown."""
    told = ", ".join(f"{count} {_counted(verdict)}" for verdict, count in counts(results).items() if count)
    lines = [f"Of {len(results)} claims {told}.", ""]
    for topic, title in TOPICS.items():
        there = [each for each in results if each.claim.topic == topic]
        if there:
            lines += [f"## {title}", "", "| claim | said in | verdict |", "|---|---|---|"]
            lines += [
                f"| [{each.claim.title}]({each.claim.name}.md) | {each.claim.places} "
                f"| {each.judged.sentence()} |"
                for each in there
            ]
            lines.append("")
    return "\n".join(lines)


def by_source(results: Sequence[ClaimResult]) -> str:
    """Return a table in Markdown: of each ID of the list of sources the claims about it."""
    found: dict[str, list[str]] = {}
    for each in results:
        for identity in each.claim.sources:
            found.setdefault(identity, []).append(f"[{each.claim.title}]({each.claim.name}.md)")
    order = sorted(found, key=lambda identity: ("EORIDAPX".index(identity[0]), int(identity[1:])))
    lines = ["| ID | claims |", "|---|---|"]
    return (
        "\n".join([*lines, *(f"| {identity} | {'; '.join(found[identity])} |" for identity in order)]) + "\n"
    )


def page(result: ClaimResult) -> str:
    """Return a claim's page in Markdown; its picture lies beside it."""
    claim, judged = result.claim, result.judged
    said = alternative(claim.picture, result.numbers, claim.title)
    lines = [
        f"# {claim.title}", "",
        f"**{sentence(result)}**", "",
        f"**Claim** ({claim.places}; {', '.join(claim.sources)}): {claim.statement}", "",
        f"![{said}]({claim.name}.svg)", "",
        claim.about, "",
        f"**Set-up.** {claim.setup}", "",
        f"**What would count against it.** {claim.against}", "",
        "**Measured**", "",
    ]  # fmt: skip
    for each in judged.conditions:
        head = f"{each.name}: {each.verdict}. " if each.name else ""
        lines.append(f"- {head}{'; '.join(test.said for test in each.tests)}.")
    size = "" if result.size == "quick" else " --full"
    lines += ["", f"{cost(result)}. Again: `thalweg claims run {claim.name}{size}`.", ""]
    return _escaped("\n".join(lines))


def plain_result(result: ClaimResult) -> dict[str, Any]:
    """Return a result as JSON has it."""
    judged = result.judged
    return {
        "claim": result.claim.name,
        "verdict": judged.verdict,
        "sentence": judged.sentence(),
        "size": result.size,
        "digest": result.digest,
        "seeds": judged.seeds,
        "seconds": result.seconds,
        "needed": judged.needed,
        "conditions": [
            {
                "name": each.name,
                "verdict": each.verdict,
                "tests": [{"verdict": test.verdict, "said": test.said} for test in each.tests],
            }
            for each in judged.conditions
        ],
        "numbers": {name: list(map(dict, rows)) for name, rows in _rounded(result.numbers).items()},
    }


def from_plain(value: Mapping[str, Any]) -> ClaimResult:
    """Return the result that :func:`plain_result` made plain, judged anew."""
    claim = get(value["claim"])
    return ClaimResult(
        claim=claim,
        judged=judge(claim, value["numbers"]),
        numbers=value["numbers"],
        seconds=value["seconds"],
        size=value["size"],
        digest=value["digest"],
    )


def _rounded(numbers: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[dict[str, Any]]]:
    """Seven digits are more than any rule or picture needs."""

    def short(value: Any) -> Any:
        if isinstance(value, list):
            return [short(each) for each in value]
        return float(f"{value:.7g}") if isinstance(value, float) else value

    return {
        name: [{key: short(value) for key, value in row.items()} for row in rows]
        for name, rows in numbers.items()
    }


def _escaped(text: str) -> str:
    """Markdown in which stars of formulas stay stars."""
    return re.sub(r"(?<!\*)\*(?!\*)", r"\*", text)


def _counted(verdict: Verdict) -> str:
    return {
        "holds": "hold", "holds under named conditions": "hold under named conditions",
        "does not hold": "do not hold",
    }.get(verdict, verdict)  # fmt: skip
