"""Remedies as a changed recipe: which of its keys say what a finding asks for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import tomli_w

from thalweg import catalogue, recipe
from thalweg.diagnosis.finding import Finding
from thalweg.errors import OptionError, RecipeError
from thalweg.recipe.schema import Recipe

__all__ = ["ChangedRecipe", "changed_recipe", "settings_of_finding"]

_WIDE, _WIDE_CHANNELS = 64, 16
_CERTAIN = 0.95


@dataclass(frozen=True, kw_only=True)
class ChangedRecipe:
    """A recipe with the remedies of a diagnosis.

    Attributes:
        recipe: with them.
        settings: what was set, by dotted key.
        applied: codes of the findings whose remedies it has.
        by_hand: a sentence for each remedy that a recipe can't say.
    """

    recipe: Recipe
    settings: Mapping[str, Any] = field(default_factory=dict)
    applied: tuple[str, ...] = ()
    by_hand: tuple[str, ...] = ()


def changed_recipe(findings: Sequence[Finding], wanted: Recipe, *, scale: float = 1.0) -> ChangedRecipe:
    """Change a recipe by the remedies of the findings, worst first.

    All that is certain is applied, and of what was tried the first: others were tried in its place.

    Args:
        findings: of a diagnosis.
        wanted: the recipe that was diagnosed.
        scale: what the recipe's learning rate is, as a multiple of the first group's.

    Raises:
        OptionError: no remedy of them can be said as a recipe.
    """
    settings: dict[str, Any] = {}
    applied: list[str] = []
    by_hand: list[str] = []
    changed, tried = wanted, False
    for finding in findings:
        if finding.remedy is None or (finding.severity == "advice" and not finding.remedy.settings):
            continue
        certain = finding.confidence >= _CERTAIN
        if tried and not certain:
            continue
        found = settings_of_finding(finding, changed, scale=scale)
        if not found:
            if finding.severity != "advice":
                by_hand.append(f"{finding.code}: a recipe can't say this remedy; {finding.remedy.text}")
                tried = tried or not certain
            continue
        try:
            changed = _with(changed, found)
        except RecipeError as problem:
            by_hand.append(
                f"{finding.code}: the recipe can't be changed so ({problem}); {finding.remedy.text}"
            )
            continue
        settings |= found
        applied.append(finding.code)
        tried = tried or not certain
    if not applied:
        said = "; ".join(by_hand) or "no finding asks for a change"
        raise OptionError(f"there is no changed recipe to write: {said}")
    return ChangedRecipe(recipe=changed, settings=settings, applied=tuple(applied), by_hand=tuple(by_hand))


def settings_of_finding(finding: Finding, wanted: Recipe, *, scale: float = 1.0) -> dict[str, Any]:
    """Return a remedy as values of a recipe by dotted key; empty where a recipe can't say it.

    Args:
        finding: with a remedy.
        wanted: the recipe that it is for.
        scale: as for :func:`changed_recipe`.
    """
    assert finding.remedy is not None
    found = dict(finding.remedy.settings)
    rate = found.get("optimizer.lr")
    if isinstance(rate, float):
        if "optimizer" in found:
            # another optimizer, and so many times its rate
            rate *= found["optimizer"]["lr"] / _rate_of(wanted)
            found["optimizer"] = {**found["optimizer"], "lr": float(f"{rate * scale:.4g}")}
            del found["optimizer.lr"]
        else:
            found["optimizer.lr"] = float(f"{rate * scale:.4g}")
    own = _OF_CODE.get(finding.code)
    if own is not None and not finding.remedy.settings.keys() & _SAID.get(finding.code, set()):
        mine = own(wanted)
        if not mine:
            # half of a remedy would be another one
            return {}
        found |= mine
    # a whole table goes first, so that its keys may be set behind it
    return dict(sorted(found.items(), key=lambda pair: pair[0].count(".")))


def _with(wanted: Recipe, settings: Mapping[str, Any]) -> Recipe:
    values = tomllib.loads(recipe.dumps(wanted))
    for key, value in settings.items():
        *tables, name = key.split(".")
        table = values
        for part in tables:
            table = table.setdefault(part, {})
        table[name] = value
    return recipe.loads(tomli_w.dumps(values), name="the changed recipe")


def _rate_of(wanted: Recipe) -> float:
    hyperparameters = catalogue.resolve(wanted.optimizer.name).hyperparameters
    default = next((each.default for each in hyperparameters if each.name == "lr"), 1.0)
    return float(wanted.optimizer.hyperparameters.get("lr", default))


def _regularization(wanted: Recipe) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if wanted.model.dropout:
        found["model.dropout"] = 0.0
    if wanted.model.stochastic_depth:
        found["model.stochastic_depth"] = 0.0
    defaults = {each.name: each.default for each in catalogue.resolve(wanted.optimizer.name).hyperparameters}
    for name in ("weight_decay", "l2"):
        if wanted.optimizer.hyperparameters.get(name, defaults.get(name)):
            found[f"optimizer.{name}"] = 0.0
    return found


def _capacity(wanted: Recipe) -> dict[str, Any]:
    family, _, rest = wanted.model.spec.partition(":")
    if wanted.model.spec == "linear":
        return {"model.spec": f"mlp:{_WIDE}"}
    if family not in ("mlp", "cnn") or not rest:
        return {}
    least = _WIDE if family == "mlp" else _WIDE_CHANNELS
    widths = [str(max(int(width), least)) for width in rest.split(",")]
    return {"model.spec": f"{family}:{','.join(widths)}"}


def _depth(wanted: Recipe) -> dict[str, Any]:
    family, _, rest = wanted.model.spec.partition(":")
    if family != "mlp" or not rest:
        return {}
    widths = rest.split(",")
    # of layers that bring a width to the same width two are enough
    alike = [place for place in range(1, len(widths)) if widths[place] == widths[place - 1]]
    left = set(alike[2:])
    kept = [width for place, width in enumerate(widths) if place not in left]
    return {"model.spec": f"mlp:{','.join(kept)}"} if left else {}


def _frozen(wanted: Recipe) -> dict[str, Any]:
    patterns = [each.model_dump(exclude_none=True) for each in wanted.groups.patterns if each.rate > 0]
    return {"groups.patterns": patterns} if len(patterns) < len(wanted.groups.patterns) else {}


_OF_CODE = {
    "regularization": _regularization,
    "capacity": _capacity,
    "depth": _depth,
    "frozen": _frozen,
}
# keys of a remedy's own that say the whole of it
_SAID = {"regularization": {"model.dropout", "optimizer.weight_decay"}, "capacity": {"model.spec"}}
