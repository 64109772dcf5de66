"""What ``thalweg diagnose`` is given: a recipe, the directory of a run, or a function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from thalweg import catalogue, recipe
from thalweg.diagnosis.comparing import PairedTrials, compare_setups
from thalweg.diagnosis.diagnosis import Diagnosis, diagnose, diagnose_setup
from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.pictures import Pictures, store_pictures
from thalweg.diagnosis.pictures_of_target import keeps_pictures, pictures_of
from thalweg.diagnosis.recipe_changes import ChangedRecipe, changed_recipe
from thalweg.diagnosis.recipe_setup import setup_of_recipe
from thalweg.diagnosis.recorded import read_recorded, recorded_findings
from thalweg.errors import OptionError, RunDirectoryError, UserError, nearest, option
from thalweg.recipe.schema import Recipe
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.kinds import held
from thalweg.run.directory.writing import reason
from thalweg.settings import trust
from thalweg.settings.plugins import load_object
from thalweg.settings.tables import whole_number

__all__ = ["DiagnosedTarget", "DiagnosisWatcher", "diagnose_target", "refuse_place"]

_ARGUMENTS = ("model", "data", "loss", "optimizer")
_NAMED = ("batch_size", "epochs", "metric", "validation", "budget", "seed")
_SHOWN_BY = {"race": "winner.toml", "transfer": "transfer.toml"}


@dataclass(frozen=True, kw_only=True)
class DiagnosedTarget:
    """A diagnosis of what was given.

    Attributes:
        target: as given.
        recipe: that was diagnosed; ``None`` of a function, and where it isn't known.
        diagnosis: of the set-up; ``None`` where it couldn't be made.
        recorded: what the curve of a run shows beside that.
        notes: what else the person should know.
        written, applied: the file of a changed recipe, and what it holds, where one was asked for.
        tried: what pairs of trainings came to, likewise.
        pictures: what can be drawn of it, likewise.
    """

    target: str
    recipe: Recipe | None = None
    diagnosis: Diagnosis | None = None
    recorded: Sequence[Finding] = field(default_factory=list)
    notes: Sequence[str] = ()
    written: Path | None = None
    applied: ChangedRecipe | None = None
    tried: PairedTrials | None = None
    pictures: Pictures | None = None

    @property
    def findings(self) -> list[Finding]:
        """All of them, worst first."""
        found = [] if self.diagnosis is None else list(self.diagnosis.findings)
        there = {finding.code for finding in found}
        found += [finding for finding in self.recorded if finding.code not in there]
        order = {"error": 0, "risk": 1, "advice": 2}
        return sorted(found, key=lambda finding: order[finding.severity])

    @property
    def healthy(self) -> bool:
        """Whether there is neither an error nor a risk."""
        return all(finding.severity == "advice" for finding in self.findings)

    def changed(self) -> ChangedRecipe:
        """Return the recipe with the remedies of the worst findings.

        Raises:
            OptionError: there is no recipe, or none of the remedies can be said as one.
        """
        if self.recipe is None:
            raise OptionError(
                f"{self.target} has no recipe that could be changed; the remedy is the line that the finding "
                "names"
            )
        return changed_recipe(self.findings, self.recipe, scale=_scale(self))

    def compare(
        self, *, seeds: int = 3, device: str = "cpu", progress: Callable[[str, float], None] | None = None
    ) -> PairedTrials:
        """Train what was given and the same with its remedies, paired over seeds.

        Raises:
            OptionError: there is nothing to try.
        """
        if self.diagnosis is None:
            raise OptionError(f"{self.target} can't be trained here, so that no remedy can be tried")
        before = self.diagnosis.setup
        if self.recipe is None:
            after = self.diagnosis.repaired()
        else:
            # what would be written is what is tried
            after = setup_of_recipe(self.changed().recipe, device=device).setup
        return compare_setups(before, after, seeds=seeds, progress=progress)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists and numbers."""
        made = self.diagnosis
        return {
            "target": self.target,
            "healthy": self.healthy,
            "findings": [_finding(each) for each in self.findings],
            "skill": None if made is None else _number(made.skill),
            "reached": None if made is None else _number(made.reached),
            "gradients": 0.0 if made is None else made.gradients,
            "seconds": 0.0 if made is None else made.seconds,
            "notes": self.said,
            "applied": None if self.applied is None else {
                "file": str(self.written),
                "codes": list(self.applied.applied),
                "settings": dict(self.applied.settings),
                "by_hand": list(self.applied.by_hand),
            },
            "tried": None if self.tried is None else {
                "before": list(self.tried.before),
                "after": list(self.tried.after),
                "difference": self.tried.difference,
                "interval": list(self.tried.interval),
                "helps": self.tried.helps,
            },
            "pictures": None if self.pictures is None else {
                "titles": [each.title for each in self.pictures.shown],
                "gradients": self.pictures.gradients,
            },
        }  # fmt: skip

    @property
    def said(self) -> list[str]:
        """All notes."""
        made = () if self.diagnosis is None else self.diagnosis.notes
        return [*self.notes, *made, *(() if self.pictures is None else self.pictures.notes)]


class DiagnosisWatcher:
    """Told what happens; every method may be overridden and does nothing here."""

    def progress(self, what: str, share: float) -> None:
        """This is being done, and such a share of all is."""

    def found(self, found: DiagnosedTarget) -> None:
        """The diagnosis is made."""

    def applied(self, found: DiagnosedTarget) -> None:
        """The changed recipe is written."""

    def tried(self, found: DiagnosedTarget) -> None:
        """The remedies were tried."""

    def drawn_from(self, found: DiagnosedTarget, place: Path | None) -> None:
        """Pictures were measured; of a run they lie in that file."""

    def note(self, text: str) -> None:
        """Something worth a line."""


def diagnose_target(
    target: str | Path,
    *,
    changes: Sequence[str] = (),
    budget: int | None = None,
    seed: int | None = None,
    device: str = "cpu",
    trust_code: bool = False,
    apply: Path | None = None,
    seeds: int = 0,
    pictures: bool = False,
    watcher: DiagnosisWatcher | None = None,
) -> DiagnosedTarget:
    """Diagnose a recipe, a run directory, or what a function of ``file.py:function`` returns.

    Args:
        target: which one.
        changes: of a recipe, as for ``train``.
        budget, seed: as for :func:`thalweg.diagnose`.
        device: as torch names it.
        trust_code: run the code that a run directory names, though it isn't known here.
        apply: where the recipe with the remedies goes.
        seeds: pairs of trainings that try the remedies; 0: they aren't tried.
        pictures: measure what can be drawn, with at least a quarter of the budget; of a run they are kept in
            its directory, where a report finds them.
        watcher: told what happens.

    Raises:
        UserError: it can't be diagnosed, in one sentence.
    """
    if budget is not None:
        budget = whole_number("budget", budget, least=1)
    if seeds and seeds < 2:
        raise OptionError(f"{option('seeds', seeds)} is one pair, which has no interval; give at least 2")
    watcher = DiagnosisWatcher() if watcher is None else watcher
    refuse_place("apply", apply)
    # what pictures may cost is kept for them
    own = budget - budget // 4 if budget is not None and pictures else budget
    asked = _Wanted(str(target), own, seed, device, watcher.progress)
    with trust.own_code(accepted=trust_code, what="training") as gate:
        found = _diagnosed(asked, changes, gate)
        watcher.found(found)
        if apply is not None:
            found = _applied(found, apply, watcher)
        if pictures:
            found = _pictured(found, asked, budget, watcher)
        if seeds:
            found = _tried(found, asked, seeds, watcher)
    return found


def _pictured(
    found: DiagnosedTarget, asked: _Wanted, budget: int | None, watcher: DiagnosisWatcher
) -> DiagnosedTarget:
    if found.diagnosis is None:
        note = "nothing can be drawn: the training can't be begun here"
        watcher.note(note)
        return replace(found, notes=[*found.notes, note])
    path = Path(asked.target)
    taken = pictures_of(found.diagnosis, path, budget=budget, seed=asked.seed or 0, progress=asked.progress)
    found = replace(found, pictures=taken)
    place = None
    if taken.shown and keeps_pictures(path):
        try:
            place = store_pictures(taken, path)
        except RunDirectoryError as problem:
            # a page can still be written
            found = replace(found, notes=[*found.notes, str(problem)])
            watcher.note(str(problem))
    watcher.drawn_from(found, place)
    return found


def refuse_place(name: str, place: Path | None) -> None:
    """Refuse a place where nothing can be written, before anything takes time.

    Raises:
        OptionError: there is a file, or no folder for one.
    """
    if place is None:
        return
    if place.exists():
        raise OptionError(f"{place} exists already; give another file to {option(name)}, or remove it")
    if not place.parent.is_dir():
        raise OptionError(f"{place} can't be written: there is no folder {place.parent}; make it first")


def _applied(found: DiagnosedTarget, place: Path, watcher: DiagnosisWatcher) -> DiagnosedTarget:
    try:
        changed = found.changed()
        recipe.write(changed.recipe, place)
    except OptionError as problem:
        watcher.note(str(problem))
        return replace(found, notes=[*found.notes, str(problem)])
    except OSError as problem:
        raise OptionError(f"{place} can't be written ({reason(problem)}); give another place") from problem
    found = replace(found, written=place, applied=changed)
    watcher.applied(found)
    return found


def _tried(found: DiagnosedTarget, asked: _Wanted, seeds: int, watcher: DiagnosisWatcher) -> DiagnosedTarget:
    try:
        pairs = found.compare(seeds=seeds, device=asked.device, progress=asked.progress)
    except OptionError as problem:
        watcher.note(str(problem))
        return replace(found, notes=[*found.notes, str(problem)])
    found = replace(found, tried=pairs)
    watcher.tried(found)
    return found


def _diagnosed(asked: _Wanted, changes: Sequence[str], gate: trust.Gate) -> DiagnosedTarget:
    text, path = asked.target, Path(asked.target)
    other = option("changes", list(changes)) if changes else ""
    if path.is_dir():
        if changes:
            raise OptionError(f"{other} is for a recipe, and {text} is a run directory; leave it out")
        return _of_run(asked, path, gate)
    if ":" in text and not path.exists():
        if changes:
            raise OptionError(f"{other} is for a recipe, and {text} is a function; leave it out")
        return _of_function(asked)
    if path.suffix == ".py":
        raise OptionError(
            f"{text} is a file of code; name the function in it that returns a set-up, as {text}:setup"
        )
    return _of_recipe(asked, recipe.read(path, changes))


@dataclass(frozen=True)
class _Wanted:
    target: str
    budget: int | None
    seed: int | None
    device: str
    progress: Callable[[str, float], None] | None


def _of_recipe(
    asked: _Wanted, wanted: Recipe, *, recorded: Sequence[Finding] = (), notes: Sequence[str] = ()
) -> DiagnosedTarget:
    made = setup_of_recipe(wanted, device=asked.device)
    found = diagnose_setup(made.setup, budget=asked.budget, seed=asked.seed or 0, progress=asked.progress)
    return DiagnosedTarget(
        target=asked.target, recipe=wanted, diagnosis=found, recorded=list(recorded),
        notes=[*notes, *made.notes],
    )  # fmt: skip


# Runs ----------------------------------------------------------------------------------------------------


def _of_run(asked: _Wanted, path: Path, gate: trust.Gate) -> DiagnosedTarget:
    run = RunDirectory.read(path)
    config = run.config()
    kind = str(config.get("kind"))
    gate.carries_on(path, run.code())
    if kind in _SHOWN_BY:
        file = path / _SHOWN_BY[kind]
        if not file.is_file():
            raise RunDirectoryError(
                f"{path} holds {held(config)} without its {file.name}; let it finish first"
            )
        wanted = recipe.read(file)
        trust.note_specs(path, wanted.model_dump())
        return _of_recipe(asked, wanted, notes=[f"what was diagnosed is {file.name}"])
    if kind not in ("train", "fit"):
        what = held(config) or "no run of this thalweg"
        raise RunDirectoryError(f"{path} holds {what}, which isn't one training; give the directory of one")
    recorded = read_recorded(path)
    known = config.get("recipe")
    if known is None:
        findings = recorded_findings(recorded)
        note = (
            "it was begun by thalweg.fit in Python, so that its model isn't known here: this is what its "
            "curve shows; thalweg.diagnose(model, data, loss, optimizer) tells more"
        )
        return DiagnosedTarget(target=asked.target, recorded=findings, notes=[note])
    try:
        wanted = Recipe.model_validate(known)
    except ValidationError as problem:
        raise RunDirectoryError(
            f"{path / 'config.toml'} is damaged: it holds no valid recipe; restore it"
        ) from problem
    rate = wanted.optimizer.hyperparameters.get("lr", _default_rate(wanted))
    findings = recorded_findings(
        recorded, rate=float(rate) if rate is not None else None, epochs=wanted.training.epochs
    )
    try:
        return _of_recipe(asked, wanted, recorded=findings)
    except UserError as problem:
        if not recorded.steps:
            raise
        note = f"only the recorded curve was diagnosed, since its training can't be begun again: {problem}"
        return DiagnosedTarget(target=asked.target, recipe=wanted, recorded=findings, notes=[note])


def _default_rate(wanted: Recipe) -> Any:
    if ":" in wanted.optimizer.name:
        # which would run code
        return None
    entry = catalogue.resolve(wanted.optimizer.name)
    return next((each.default for each in entry.hyperparameters if each.name == "lr"), None)


# Functions -----------------------------------------------------------------------------------------------


def _of_function(asked: _Wanted) -> DiagnosedTarget:
    function = load_object(asked.target, "set-up", OptionError)
    if not callable(function):
        raise OptionError(
            f"{asked.target} is of type {type(function).__name__}; name a function that returns the "
            "arguments of thalweg.diagnose"
        )
    try:
        given = function()
    except UserError:
        raise
    except Exception as problem:
        said = " ".join(str(problem).split())[:200]
        raise OptionError(
            f"{asked.target} raises {type(problem).__name__}{f' ({said})' if said else ''}; it is called "
            "without arguments, and returns those of thalweg.diagnose"
        ) from problem
    arguments = _arguments(asked.target, given)
    for name, value in (("budget", asked.budget), ("seed", asked.seed)):
        if value is not None:
            arguments[name] = value
    found = diagnose(**arguments, progress=asked.progress)
    return DiagnosedTarget(target=asked.target, diagnosis=found)


def _arguments(target: str, given: Any) -> dict[str, Any]:
    if isinstance(given, Mapping):
        arguments = {str(name): value for name, value in given.items()}
    elif isinstance(given, tuple) and len(given) >= len(_ARGUMENTS):
        names = (*_ARGUMENTS, *_NAMED)
        if len(given) > len(names):
            raise OptionError(f"{target} returns {len(given)} values; {_RULE}")
        arguments = dict(zip(names, given, strict=False))
    else:
        what = f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
        raise OptionError(f"{target} returns {what}; {_RULE}")
    for name in arguments:
        if name not in (*_ARGUMENTS, *_NAMED):
            raise OptionError(
                f"{target} returns {name!r}, which thalweg.diagnose doesn't take; "
                f"{nearest(name, (*_ARGUMENTS, *_NAMED))}"
            )
    missing = [name for name in _ARGUMENTS if name not in arguments]
    if missing:
        raise OptionError(f"{target} returns no {' and no '.join(missing)}; {_RULE}")
    return arguments


_RULE = "return a dictionary of the arguments of thalweg.diagnose, or (model, data, loss, optimizer)"


def _scale(found: DiagnosedTarget) -> float:
    """What a recipe's learning rate is, as a multiple of that of the optimizer's first group."""
    if found.diagnosis is None or found.recipe is None:
        return 1.0
    rate = found.recipe.optimizer.hyperparameters.get("lr", _default_rate(found.recipe))
    _, optimizer = found.diagnosis.setup.start(0)
    first = optimizer.param_groups[0].get("lr")
    return float(rate) / float(first) if rate and first else 1.0


def _finding(finding: Finding) -> dict[str, Any]:
    remedy = finding.remedy
    return {
        "code": finding.code,
        "severity": finding.severity,
        "title": finding.title,
        "evidence": list(finding.evidence),
        "cause": finding.cause,
        "confidence": finding.confidence,
        "remedy": None if remedy is None else {
            "text": remedy.text,
            "code": remedy.code,
            "settings": dict(remedy.settings),
            "measured": remedy.measured,
        },
    }  # fmt: skip


def _number(value: float) -> float | None:
    return value if value == value and abs(value) != float("inf") else None
