"""What a transfer is measured from: each option is declared here, once.

Nothing heavy is imported, since the command's help is made of these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from thalweg.settings.choices import ColumnType, Missing, TaskKind
from thalweg.settings.declared import DEVICE, TRUST_CODE, Declared

if TYPE_CHECKING:
    # which know how recipes are written
    from thalweg.training.transfer_results import TransferResults

__all__ = ["TransferOptions", "TransferWatcher"]

_PROBLEM, _OPTIONS = "What is learnt", "Options"


class TransferWatcher:
    """Told what happens; every method may be overridden and does nothing here."""

    def begun(self, lines: dict[str, list[str]]) -> None:
        """What is about to be measured, by headings."""

    def note(self, text: str) -> None:
        """Something worth a line."""

    def progress(self, done: int, total: int, what: str) -> None:
        """So many parts of the work are done, and this one is under way."""

    def finished(self, results: TransferResults, report: Path) -> None:
        """The recipe and the report are written."""


@dataclass(frozen=True)
class TransferOptions:
    """What a transfer is measured from, as given; ``None`` means that it decides."""

    # fmt: off
    source: Annotated[Any, Declared(
        "The directory of a finished training, or a .safetensors file with weights.",
    )] = None
    _: KW_ONLY
    data: Annotated[Any, Declared("What is to be learnt, as for a race.", _PROBLEM, shown="none")] = None
    target: Annotated[str | None, Declared("The column or entry to predict.", _PROBLEM)] = None
    task: Annotated[TaskKind | None, Declared(
        "What the target is, where its values don't settle it.", _PROBLEM, shown="what its values say",
    )] = None
    missing: Annotated[Missing | None, Declared(
        "What to do with missing values.", _PROBLEM, shown="refuse them",
    )] = None
    types: Annotated[Mapping[str, ColumnType] | None, Declared(
        "Read a column as this type, or leave it out; may be repeated.", _PROBLEM,
        python='a mapping, such as {"zip": "category"}', metavar="COLUMN=category|number|ignore",
    )] = None
    model: Annotated[str | None, Declared(
        "Of a file with weights: the model that they are of, as mlp:128,64 or file.py:factory.", _PROBLEM,
        shown="as the directory says",
    )] = None
    source_data: Annotated[Any, Declared(
        "What the source was trained on, for the distance of the two.", _PROBLEM,
        shown="as the directory says",
    )] = None
    examples: Annotated[int | None, Declared(
        "Learn from so many of the training split, as a recipe's data.examples says.", _PROBLEM, shown="all",
        least=1,
    )] = None
    most: Annotated[int, Declared(
        "Measure on so many training examples at most, and on a third as many of validation.", _OPTIONS,
        least=50,
    )] = 6000
    trial: Annotated[int, Declared(
        "Updates in the trial of tuning: so many of a head, then as many of blocks; 0: no trial.",
        _OPTIONS, least=0,
    )] = 60
    out: Annotated[str | Path | None, Declared(
        "Where the recipe and the report go.", _OPTIONS, shown="runs/transfer-DATA-TIME", metavar="DIR",
        stored=False,
    )] = None
    seed: Annotated[int, Declared("Decides the split of the data and every draw.", _OPTIONS, least=0)] = 0
    device: Annotated[str, DEVICE.within(_OPTIONS)] = "cpu"
    trust_code: Annotated[bool, TRUST_CODE.within(_OPTIONS)] = False
    watcher: Annotated[TransferWatcher | None, Declared("Told what happens.", stored=False)] = None
    command: Annotated[str | None, Declared(
        "How to measure this again, for the report.", stored=False,
    )] = None
    # fmt: on
