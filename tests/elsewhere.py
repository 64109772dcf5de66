"""An executor that runs elsewhere: lists of runs go to another process as a file, and outcomes come so."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from pathlib import Path

from thalweg.errors import Interrupted
from thalweg.execution import RunList, groups_of
from thalweg.run.spec import Outcome
from thalweg.run.workers import context_of_workers

__all__ = ["Elsewhere"]


class Elsewhere:
    """Trains lists in a process of their own; a shared folder is all that it has in common with this one.

    Args:
        folder: the shared one.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.trained: list[list[str]] = []

    def carry_out(
        self,
        lists: Sequence[RunList],
        *,
        ended: Callable[[int, list[Outcome]], None],
        advanced: Callable[[float], None],
        stop: Callable[[], bool],
    ) -> None:
        """Carry runs out, as :class:`thalweg.execution.Executor` says."""
        (self._folder / "asked").write_bytes(pickle.dumps([*lists]))
        there = context_of_workers().Process(target=_train, args=(self._folder,))
        there.start()
        for number, (_, runs) in enumerate(groups_of(lists)):
            outcomes = self._folder / f"outcomes{number}"
            while there.is_alive() and not outcomes.exists():
                if stop():
                    (self._folder / "halt").touch()
                there.join(0.02)
            if not outcomes.exists():
                (self._folder / "halt").unlink()
                raise Interrupted("stopped elsewhere")
            ended(number, pickle.loads(outcomes.read_bytes()))
            outcomes.unlink()
            self.trained.append([run.identity for run in runs])
        there.join()


def _train(folder: Path) -> None:
    lists = pickle.loads((folder / "asked").read_bytes())
    for number, (asked, runs) in enumerate(groups_of(lists)):
        outcomes = asked.train(runs, asked, stop=(folder / "halt").exists, advanced=lambda steps: None)
        (folder / "draft").write_bytes(pickle.dumps(outcomes))
        (folder / "draft").rename(folder / f"outcomes{number}")
