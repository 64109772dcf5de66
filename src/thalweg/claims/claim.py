"""What a claim is: a statement of the lectures, how it is measured, and the rule that judges the numbers."""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from thalweg.claims.picture import Picture
from thalweg.claims.rules import Test, Verdict

__all__ = ["TOPICS", "Claim", "Known", "Numbers", "Size", "SizeName"]

Numbers = Mapping[str, Any]
"""What one seed gave: numbers that the rule judges, and lists of them that the picture draws."""

SizeName = Literal["quick", "full"]

TOPICS = {
    "convergence": "Convergence of gradient descent",
    "second-order": "Second-order methods",
    "momentum": "Momentum and adaptive rates",
    "landscape": "The landscape of a loss",
    "noise": "Noise, batches and decaying rates",
    "depth": "Deep nets: signals and updates",
    "starting": "Starting points",
    "averaging": "Averaging and randomness",
    "stages": "Learning in stages",
    "choosing": "What to choose",
    "classifying": "Losses and errors of classifiers",
}
"""Topics of claims, in the order of the gallery."""


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured.

    Attributes:
        seeds: how many draws of everything random.
        changes: arguments of the measurement that are other than by default.
    """

    seeds: int
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Known:
    """A set-up whose verdict is known beforehand, by which tests try the claim's machinery.

    Attributes:
        verdict: that must come out.
        changes: arguments of the measurement, for each condition that is tried.
        conditions: names of those; empty: all.
        seeds: how many.
        why: the verdict is known.
    """

    verdict: Verdict
    why: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    conditions: tuple[str, ...] = ()
    seeds: int = 3


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A claim of the lectures as an experiment.

    Attributes:
        title: a few words.
        topic: one of ``TOPICS``.
        statement: what is claimed, in one or two sentences.
        sources: IDs of the list of sources, such as ``"X9"``.
        places: where the lectures say it, such as ``"C s41-43"``.
        setup: what is computed or trained, and what is compared.
        against: which outcome would count against the claim.
        about: a paragraph on what to make of it, whatever the verdict.
        measure: returns the numbers of one seed: ``measure(seed, **arguments)``. If its first parameter is
            called ``seeds`` it is given all of them at once and returns a list, one mapping each.
        rule: tests that must all hold under a condition for the claim to hold there.
        picture: what is drawn of the numbers.
        conditions: names of conditions, each with arguments of the measurement. The claim is judged under
            each of them.
        exact: nothing is drawn at random: one seed is enough, and numbers have no error.
        quick, full: sizes; ``full`` is ``quick`` where nothing is gained by more.
        known: at least two set-ups whose verdicts are known, one either way.
        name: of its file, with hyphens.
    """

    title: str
    topic: str
    statement: str
    sources: tuple[str, ...]
    places: str
    setup: str
    against: str
    about: str
    measure: Callable[..., Any]
    rule: tuple[Test, ...]
    picture: Picture
    known: tuple[Known, ...]
    conditions: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"": {}})
    exact: bool = False
    quick: Size = Size(seeds=5)
    full: Size | None = None
    name: str = ""

    @property
    def at_once(self) -> bool:
        """Whether the measurement takes all seeds at once."""
        return next(iter(inspect.signature(self.measure).parameters)) == "seeds"

    def size(self, name: SizeName, seeds: int | None = None) -> Size:
        """Return how much is measured; an exact claim has one seed whatever is asked."""
        found = self.full if name == "full" and self.full is not None else self.quick
        if self.exact:
            return replace(found, seeds=1)
        return found if seeds is None else replace(found, seeds=seeds)

    def arguments(self, condition: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a measurement under a condition."""
        return {**self.conditions[condition], **changes}

    def measured(
        self, seeds: Sequence[int], condition: str, changes: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Measure here and now; plain numbers, in the order of the seeds."""
        arguments = self.arguments(condition, changes)
        found = (
            self.measure(list(seeds), **arguments)
            if self.at_once
            else [self.measure(seed, **arguments) for seed in seeds]
        )
        assert len(found) == len(seeds), f"{self.name} gave {len(found)} results for {len(seeds)} seeds"
        return [{name: _plain(value) for name, value in each.items()} for each in found]

    def digest(self) -> str:
        """Return what changes with the claim's own file, as far as its numbers depend on it."""
        try:
            source = _without_claims(inspect.getsource(sys.modules[self.measure.__module__]))
        except (KeyError, OSError, TypeError):
            # of a session without a file there is the function itself, or nothing
            code = getattr(self.measure, "__code__", None)
            source = repr(self.measure) if code is None else f"{code.co_code!r}{code.co_consts!r}"
        settings: list[Any] = [{name: dict(each) for name, each in self.conditions.items()}]
        settings += [None if each is None else dict(each.changes) for each in (self.quick, self.full)]
        return hashlib.sha256(f"{source}{settings}".encode()).hexdigest()[:12]


def _without_claims(source: str) -> str:
    """A module without its docstrings, and without what is assigned to claims."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    tree.body = [
        node
        for node in tree.body
        if not (
            isinstance(node, ast.Assign)
            and isinstance(node.value, ast.Call)
            and getattr(node.value.func, "id", "") == Claim.__name__
        )
    ]
    return ast.unparse(tree)


def _plain(value: Any) -> float | list[float]:
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [float(each) for each in value] if isinstance(value, (list, tuple)) else float(value)
