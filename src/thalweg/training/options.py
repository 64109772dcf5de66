"""How a recipe can be trained: each option is declared here, once.

From these fields come the signature and the docstring of ``thalweg.train``, options of the command and the
checks of numbers. Nothing heavy is imported, since the command's help is made of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Annotated, Any

from thalweg.settings.declared import DEVICE, TRUST_CODE, Declared
from thalweg.training.watch import TrainingWatcher

__all__ = ["TrainOptions"]

_OPTIONS = "Options"


@dataclass(frozen=True)
class TrainOptions:
    """What a training was asked for, as given; ``None`` means that it decides."""

    # fmt: off
    recipe: Annotated[Any, Declared(
        "A TOML file, such as the winner.toml of a race; a resume needs none.", python="also a recipe",
    )] = None
    _: KW_ONLY
    changes: Annotated[Sequence[str], Declared(
        'Keys to set over what the recipe says, such as "optimizer.lr=0.01".', shown="none",
    )] = ()
    out: Annotated[str | Path | None, Declared(
        "The run directory.", _OPTIONS, shown="runs/train-DATA-TIME", metavar="DIR", stored=False,
    )] = None
    resume: Annotated[bool, Declared(
        "Resume the training in the run directory, from its last checkpoint.", _OPTIONS, stored=False,
    )] = False
    trust_code: Annotated[bool, TRUST_CODE.within(_OPTIONS)] = False
    device: Annotated[str, DEVICE.within(_OPTIONS)] = "cpu"
    checkpoint_seconds: Annotated[float, Declared(
        "Seconds between checkpoints, written while training goes on.", _OPTIONS, least=0,
    )] = 60.0
    watcher: Annotated[TrainingWatcher | None, Declared("Told what happens.", stored=False)] = None
    command: Annotated[str | None, Declared(
        "How to make this training again, for the report.", stored=False,
    )] = None
    # fmt: on
