"""Ctrl-C, SIGTERM, a closed terminal: asked for once, the work saves and stops; twice, it stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any

__all__ = ["Interruption", "ending_signals"]


def ending_signals() -> list[int]:
    """Return the signals beside Ctrl-C that ask for an end: SIGTERM, and SIGHUP unless nohup ignores it."""
    hang_up = getattr(signal, "SIGHUP", None)
    heard = hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN
    return [signal.SIGTERM, *([hang_up] if hang_up is not None and heard else [])]


class Interruption:
    """While entered, a first signal only raises a flag that the work looks at between steps.

    Outside the main thread Python delivers no signals; the flag then stays down.

    Args:
        patient: further signals change nothing: torchrun hands on what its processes have had already, and
            ends those that take too long.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self._asked, self._patient = False, patient
        self._before: dict[int, Any] = {}

    def asked(self) -> bool:
        """Whether somebody wants the work to stop."""
        return self._asked

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, *ending_signals()):
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and not self._patient:
            raise KeyboardInterrupt
        self._asked = True
