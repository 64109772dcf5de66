"""Which code may run: what a person names, and of what a run directory names, what is known."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from thalweg.errors import TrustError, option
from thalweg.settings.trust.fingerprints import Code, fingerprint, short
from thalweg.settings.trust.known_code import known_code, written_down

__all__ = ["Gate", "admit", "current", "note_specs", "own_code", "runs_own_code"]

_P = ParamSpec("_P")
_R = TypeVar("_R")

_SPEC = re.compile(r"[^\n]+:[^\W\d][\w.]*")


class Gate:
    """Says which code may run, while it is entered; by itself all that a person names (:func:`own_code`).

    Args:
        directory: whose file names the code, for messages; ``None``: a person does.
        accepted: a person has said that all of it may run.
        recorded: fingerprints that the run was begun with, by spec.
        stated: specs that the person has named too, or ``True`` for all.
        remembered: what was trained with before; by default what the state folder says.
        what: that was begun, for messages.

    Attributes:
        loaded: what was run, by spec; shared with the gate around it, so that the outermost one knows all.
    """

    def __init__(
        self,
        *,
        directory: Path | None = None,
        accepted: bool = False,
        recorded: Mapping[str, Mapping[str, str]] | None = None,
        stated: Collection[str] | bool = (),
        remembered: Collection[str] | None = None,
        what: str = "training",
    ) -> None:
        self.directory, self.accepted, self.what = directory, accepted, what
        self.recorded = dict(recorded or {})
        self.stated, self._remembered = stated, remembered
        around = _current.get()
        self.loaded: dict[str, Code] = {} if around is None else around.loaded
        self._kinds: dict[str, str] = {}
        self._entered: list[Any] = []

    def __enter__(self) -> Gate:
        self._entered.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._entered.pop())

    def carries_on(
        self,
        directory: Path,
        recorded: Mapping[str, Mapping[str, str]],
        *,
        stated: Collection[str] | bool = (),
        remembered: Collection[str] | None = None,
    ) -> None:
        """From now on the code is what a run in this directory was begun with.

        Raises:
            TrustError: what is loaded already isn't.
        """
        self.directory, self.stated, self._remembered = directory, stated, remembered
        self.recorded = dict(recorded)
        for code in self.loaded.values():
            self._check(code, self._kinds.get(code.spec, "object"))

    def admit(self, spec: str, what: str) -> Code | None:
        """Let code run, or refuse it; ``None`` where there is no such code.

        Raises:
            TrustError: it may not run.
        """
        code = fingerprint(spec)
        if code is None:
            return None
        before = self.loaded.get(spec)
        if before is not None and before.files != code.files:
            said = _difference(before.files, code)
            raise TrustError(
                f"{said} while this {self.what} is under way, and gives the {what} {spec!r}; restore it, "
                f"and run again with {option('resume', True)}"
            )
        if before is None:
            self._check(code, what)
            self.loaded[spec], self._kinds[spec] = code, what
        if self._is_stated(spec):
            _stated.add(spec)
        return code

    def written(self) -> dict[str, dict[str, str]]:
        """Return the fingerprints of what was loaded, for a run directory."""
        return {spec: dict(code.files) for spec, code in self.loaded.items()}

    def remember(self) -> None:
        """Remember that this person trains with what was loaded; without a state folder, in this process."""
        known = known_code()
        new = [code for code in self.loaded.values() if code.digest not in known]
        if new and not written_down(new):
            _remembered_here.update(code.digest for code in new)

    def _is_stated(self, spec: str) -> bool:
        if self.directory is None:
            return True
        return self.stated if isinstance(self.stated, bool) else spec in self.stated

    def _check(self, code: Code, what: str) -> None:
        if self.accepted:
            return
        before = self.recorded.get(code.spec)
        # where it is none of the files that were written down, these were another's
        named = next(iter(code.files))
        if before is not None and named in before and dict(before) != dict(code.files):
            where = "" if self.directory is None else f" in {self.directory}"
            raise TrustError(
                f"{_difference(before, code)} since the {self.what}{where} was begun, and gives the {what} "
                f"{code.spec!r}; restore it, or accept the change with "
                f"{option('trust_code', True)}"
            )
        if self._is_stated(code.spec):
            return
        known = known_code() if self._remembered is None else self._remembered
        if code.digest not in known and code.digest not in _remembered_here:
            raise TrustError(
                f"{self.directory} names code that you haven't trained with here: {code}, for the {what} "
                f"{code.spec!r}; read it, and if it may run, say so with {option('trust_code', True)}"
            )


_current: ContextVar[Gate | None] = ContextVar("gate", default=None)
# specs that a run directory named, and those that a person has named in this process too
_noted: dict[str, Path] = {}
_stated: set[str] = set()
_remembered_here: set[str] = set()


def own_code(*, accepted: bool = False, what: str = "training") -> Gate:
    """Return a gate for what a person names themselves; what :meth:`Gate.carries_on` says is asked then."""
    return Gate(accepted=accepted, what=what)


def runs_own_code(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Make a function whose arguments are a person's own word; of these ``trust_code`` accepts all code."""

    @functools.wraps(function)
    def gated(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with own_code(accepted=bool(kwargs.get("trust_code", False))):
            return function(*args, **kwargs)

    return gated


def current() -> Gate:
    """Return the gate that is entered; outside of all a new one."""
    return _current.get() or Gate()


def admit(spec: str, what: str) -> Code | None:
    """Let code run, or refuse it, by the gate that is entered; without one, what no directory named may run.

    Raises:
        TrustError: it may not.
    """
    gate = _current.get()
    if gate is None:
        if spec not in _noted or spec in _stated:
            return None
        gate = Gate(directory=_noted[spec])
    return gate.admit(spec, what)


def note_specs(directory: Path, values: Any) -> None:
    """Take note of what could be code in the values that a file of a run directory holds."""
    if isinstance(values, str):
        if _SPEC.fullmatch(values):
            _noted.setdefault(values, directory)
    elif isinstance(values, Mapping):
        for key, value in values.items():
            note_specs(directory, key)
            note_specs(directory, value)
    elif isinstance(values, list | tuple):
        for value in values:
            note_specs(directory, value)


def _difference(before: Mapping[str, str], code: Code) -> str:
    for label, sha in code.files.items():
        if label not in before:
            now = f"{code.places[label]} (sha256 {short(sha)})"
            return f"{now} was not imported by {next(iter(code.files))} before"
        if before[label] != sha:
            return f"{code.places[label]} has changed (sha256 {short(before[label])}, now {short(sha)})"
    gone = next(label for label in before if label not in code.files)
    return f"the module {gone} (sha256 {short(before[gone])}) is no longer imported"
