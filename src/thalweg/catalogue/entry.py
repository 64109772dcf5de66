"""What a row of the catalogue is: its numbers, its rule, and how the optimizer is built.

What is legal is declared once, in the class that a row stands for (``bounds``). A row says it only where it
is narrower, since the classes are as wide as torch's. ``Entry.refusal`` is one sentence, asked by
``Entry.make``, by recipes as they are read, and by races for the ends of a search space. With
``scale="complement"`` 1 - x is searched on a log scale, and ``low`` and ``high`` are values of x. A default
of 0 outside its range means that the thing is off. Names are flat (``beta1``); ``Entry.make`` turns them into
the class's arguments. An entry is pickled as its name. An optimizer with ``eval()`` and ``train()`` is told
before and after each evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from torch.optim import Optimizer

from thalweg.errors import OptionError, nearest
from thalweg.rules import Rule
from thalweg.settings.bounds import Bounds, OptionBounds, PairBounds

__all__ = ["Call", "Entry", "Hyperparameter", "Script", "StepKind", "bounded"]

StepKind: TypeAlias = Literal["gradient", "closure", "graph", "outputs"]
"""What a step has to be given.

- ``"gradient"``: gradients in ``.grad``, as the first-order methods want them.
- ``"closure"``: a function that computes the loss anew, calls ``backward`` and returns it.
- ``"graph"``: one that returns the loss with its graph and doesn't call ``backward``.
- ``"outputs"``: one that returns outputs and a convex loss of them (or residuals).
"""


@dataclass(frozen=True, kw_only=True)
class Hyperparameter(Bounds):
    """A number of an optimizer, what is legal of it, and where it is searched.

    Attributes:
        name: flat, as recipes and the race spell it (``beta1``, not ``betas[0]``).
        default: of the optimizer class.
        low, high: the ends of the search range, as values.
        scale: ``"log"``; ``"linear"``; or ``"complement"``: 1 - x on a log scale.
        searched: whether a race searches it unless told otherwise.
        not_under: the hyperparameter than which it can't be less.
        of_run: whether it belongs to the run rather than to the optimizer: ``batch_factor``, how many of
            the race's batches are one batch of this run, and ``batch_growth``, by how much that has grown
            when the run ends.

    >>> beta = Hyperparameter(name="beta", default=0.9, low=0.5, high=0.99, least=0, below=1)
    >>> beta.rule, beta.refusal(0.0)
    ('at least 0 and below 1', None)
    >>> beta.refusal(-0.5)
    'is -0.5, but must be at least 0 and below 1; give one such as 0.9'
    """

    name: str
    default: float
    low: float
    high: float
    scale: Literal["log", "linear", "complement"] = "log"
    searched: bool = False
    not_under: str | None = None
    of_run: bool = False

    def bounded(self, bounds: Bounds) -> Hyperparameter:
        """Return the same with an optimizer's bounds, at the ends where it has none of its own."""
        ends: dict[str, Any] = {"whole": self.whole or bounds.whole}
        if self.least is self.above is None:
            ends |= {"least": bounds.least, "above": bounds.above}
        if self.most is self.below is None:
            ends |= {"most": bounds.most, "below": bounds.below}
        return replace(self, **ends)

    def refusal(self, value: Any) -> str | None:
        """Say why a value can't be: itself, the rule and the remedy; ``None`` where it can.

        Args:
            value: a number or a tensor with one element.
        """
        remedy = f"give one such as {self.default:g}"
        try:
            number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            number = math.nan
        if (not math.isfinite(number) and math.isfinite(self.default)) or isinstance(value, (str, bytes)):
            return f"is {value!r}, but must be a finite number; {remedy}"
        if not self.hold(number):
            forgets = number >= 1 and self.scale == "complement" and self.below == 1
            why = " (from 1 on nothing is ever forgotten, and steps grow without end)" if forgets else ""
            return f"is {value!r}, but must be {self.rule}{why}; {remedy}"
        if self.whole and number != round(number):
            return f"is {value!r}, but must be {self.rule}; give {round(number)}"
        return None


def bounded(
    hyperparameters: Iterable[Hyperparameter],
    bounds: OptionBounds,
    pairs: Mapping[str, tuple[str, str]],
) -> tuple[Hyperparameter, ...]:
    """Return hyperparameters with the bounds that an optimizer declares of its arguments.

    Args:
        hyperparameters: of a row, by flat name.
        bounds: of the optimizer's arguments.
        pairs: as in :class:`Call`.
    """
    ends: dict[str, Bounds] = {name: each for name, each in bounds.items() if isinstance(each, Bounds)}
    under: dict[str, str] = {}
    for name, (first, second) in pairs.items():
        pair = bounds[name]
        assert isinstance(pair, PairBounds)
        ends |= {first: pair.first, second: pair.second}
        under |= {second: first} if pair.rising else {}
    return tuple(
        replace(hyper.bounded(ends.get(hyper.name, Bounds())), not_under=under.get(hyper.name))
        for hyper in hyperparameters
    )


@dataclass(frozen=True, kw_only=True)
class Script:
    """Python that builds an optimizer for ``model``: import lines beside ``import torch``, one expression."""

    imports: tuple[str, ...]
    expression: str


@dataclass(frozen=True, kw_only=True)
class Call:
    """How an optimizer is built.

    Attributes:
        target: called with parameters and keyword arguments.
        spelling: the expression for ``target`` in a script.
        imports: the lines it needs beside ``import torch``.
        fixed: arguments that never change.
        pairs: an argument that is a pair, to the names of its two hyperparameters.
        always: hyperparameters that are given even if they have their default.
    """

    target: Callable[..., Optimizer]
    spelling: str
    imports: tuple[str, ...] = ()
    fixed: Mapping[str, Any] = field(default_factory=dict)
    pairs: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    always: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A row of the catalogue.

    Attributes:
        name: in races, recipes and on the command line.
        title: for people.
        family: ``"descent"``, ``"adaptive"``, ``"sign"``, ``"curvature"``, ``"matrix"``, ``"averaging"``,
            ``"conjugate"``, ``"secant"``, ``"newton"``, ``"rule"`` (a person's own) or ``"class"``.
        summary: one sentence.
        formula: what a step does, in plain arithmetic with the names of the hyperparameters; p are the
            parameters, g the gradient.
        source: IDs of the list of sources, and papers.
        hyperparameters: every number that may be set.
        rule: what lanes run; None for a class without a rule of ours.
        options: static options of the rule.
        call: how the optimizer is built.
        raced: whether a race takes it unless told otherwise.
        scheduled: whether a schedule of the learning rate does anything; if not, a race draws none.
        step_kind: what a step has to be given.
        dense: whether a step works with a matrix of all parameters, ``[n, n]``.

    >>> import torch
    >>> from thalweg.catalogue import get
    >>> entry = get("adam")
    >>> optimizer = entry.make([torch.nn.Parameter(torch.ones(1))], lr=0.01, beta1=0.8)
    >>> optimizer.param_groups[0]["betas"]
    (0.8, 0.999)
    >>> entry.rule_hyperparameters({"lr": 0.01})["eps"]
    1e-08
    >>> get("nesterov").script({"lr": 0.1}).expression
    'torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)'
    """

    name: str
    title: str
    family: str
    summary: str
    formula: str
    source: str
    hyperparameters: tuple[Hyperparameter, ...]
    rule: Rule | None
    options: Mapping[str, bool | str]
    call: Call
    raced: bool = False
    scheduled: bool = True
    step_kind: StepKind = "gradient"
    dense: bool = False

    def make(self, params: Any, **hyperparameters: Any) -> Optimizer:
        """Build the torch optimizer.

        Args:
            params: parameters, named parameters, or dictionaries of groups.
            hyperparameters: by flat name; those left out have their default, those of the run are left to it.

        Raises:
            OptionError: a name that this optimizer doesn't have, or a value out of range, groups included.
        """
        if isinstance(params, Iterator):
            params = list(params)
        for group in params if isinstance(params, (list, tuple)) else ():
            if isinstance(group, Mapping):
                self._refuse({**hyperparameters, **self._flat(group)})
        return self.call.target(params, **self._arguments(hyperparameters))

    def rule_hyperparameters(self, hyperparameters: Mapping[str, float]) -> dict[str, float]:
        """Return every hyperparameter of the rule, defaults filled in; for entries with a rule.

        Raises:
            OptionError: as of :meth:`make`.
        """
        assert self.rule is not None
        values = self._values(hyperparameters)
        return {**self.rule.hyperparameters, **{name: float(value) for name, value in values.items()}}

    def script(self, hyperparameters: Mapping[str, float]) -> Script:
        """Return Python that builds the same optimizer for ``model``, in plain torch where torch has it.

        Raises:
            OptionError: as of :meth:`make`.
        """
        arguments = self._arguments(hyperparameters)
        spelled = "".join(f", {name}={value!r}" for name, value in arguments.items())
        return Script(
            imports=self.call.imports, expression=f"{self.call.spelling}(model.parameters(){spelled})"
        )

    def of_run(self, hyperparameters: Mapping[str, Any]) -> dict[str, float]:
        """Return the hyperparameters that belong to the run, defaults filled in.

        Raises:
            OptionError: as of :meth:`make`, of any hyperparameter.
        """
        values = self._values(hyperparameters)
        return {hyper.name: float(values[hyper.name]) for hyper in self.hyperparameters if hyper.of_run}

    def refusal(self, hyperparameters: Mapping[str, Any]) -> tuple[str, str] | None:
        """Return the first hyperparameter whose value can't be, and why; ``None`` where all can.

        >>> from thalweg.catalogue import get
        >>> get("rprop").refusal({"step_size_min": 100})
        ('step_size_max', 'is 50, but must be at least step_size_min, which is 100; change one of them')
        """
        for hyper in self.hyperparameters:
            if hyper.name in hyperparameters:
                why = hyper.refusal(hyperparameters[hyper.name])
                if why is not None:
                    return hyper.name, why
        values = {hyper.name: hyper.default for hyper in self.hyperparameters} | dict(hyperparameters)
        for hyper in self.hyperparameters:
            if hyper.not_under is not None and values[hyper.name] < values[hyper.not_under]:
                rule = f"at least {hyper.not_under}, which is {values[hyper.not_under]:g}"
                return hyper.name, f"is {values[hyper.name]:g}, but must be {rule}; change one of them"
        return None

    def _values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        defaults = {hyper.name: hyper.default for hyper in self.hyperparameters}
        for name in given:
            if name not in defaults:
                raise OptionError(f"{self.name} has no hyperparameter {name!r}; {nearest(name, defaults)}")
        self._refuse(given)
        return {**defaults, **given}

    def _refuse(self, given: Mapping[str, Any]) -> None:
        refused = self.refusal(given)
        if refused is not None:
            raise OptionError(f"{self.name}: {' '.join(refused)}")

    def _flat(self, group: Mapping[str, Any]) -> dict[str, Any]:
        """The hyperparameters that a group of parameters sets, by flat name."""
        names = {hyper.name for hyper in self.hyperparameters}
        found = {name: group[name] for name in names if name in group}
        for pair, parts in self.call.pairs.items():
            if isinstance(group.get(pair), (list, tuple)):
                found |= dict(zip(parts, group[pair], strict=False))
        return found

    def _arguments(self, given: Mapping[str, Any]) -> dict[str, Any]:
        values = self._values(given)
        for hyper in self.hyperparameters:
            if hyper.of_run:
                del values[hyper.name]
            elif hyper.whole:
                values[hyper.name] = round(values[hyper.name])
        wanted = {name for name in values if name in given or name in self.call.always}
        paired = {part: pair for pair, parts in self.call.pairs.items() for part in parts}
        arguments: dict[str, Any] = {}
        for name in values:
            if name not in wanted:
                continue
            if name in paired:
                first, second = self.call.pairs[paired[name]]
                arguments[paired[name]] = (values[first], values[second])
            else:
                arguments[name] = values[name]
        return {**arguments, **self.call.fixed}
