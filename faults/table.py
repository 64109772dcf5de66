"""What came of the scenarios, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Row", "page"]

_COLUMNS = "| what was tried | how often | what was lost | what was said | state |"


@dataclass
class Row:
    """One line of the table.

    Attributes:
        tried: what was done to a training.
        times: how often.
        lost: what was lost, each as a sentence; nothing, if all is well.
        said: what the command said, without what differs from run to run.
        details: numbers worth keeping.
        scenario: the function that made it.
        state: of the sources then.
    """

    tried: str
    times: int = 0
    lost: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    scenario: str = ""
    state: str = ""

    def hear(self, sentence: str, *, instead: dict[str, str] | None = None) -> None:
        """Keep a sentence, once, with what is particular to a run replaced."""
        for particular, general in (instead or {}).items():
            sentence = sentence.replace(particular, general)
        if sentence and sentence not in self.said:
            self.said.append(sentence)

    def expect(self, holds: bool, what: str) -> None:
        """Write down what was lost unless something holds."""
        if not holds:
            self.lost.append(what)

    def json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)


def page(rows: list[dict[str, Any]], head: str) -> str:
    """Return the page in Markdown."""
    lines = [head, _COLUMNS, "|---|---|---|---|---|"]
    for row in rows:
        lost = "; ".join(row["lost"]) or "nothing"
        said = "<br>".join(f"`{text}`" if text != "nothing" else text for text in row["said"]) or "nothing"
        lines.append(
            f"| {row['tried']} | {row['times']} | {lost} | {said} | {row['state']} |".replace("\n", " ")
        )
    for row in rows:
        if "moments" in row["details"]:
            lines += [
                "",
                f'Where the signals of "{row["tried"]}" hit:',
                "",
                "| moment | times |",
                "|---|---|",
            ]
            moments = sorted(row["details"]["moments"].items(), key=lambda item: -item[1])
            lines += [f"| {moment} | {times} |" for moment, times in moments]
    return "\n".join(lines) + "\n"
