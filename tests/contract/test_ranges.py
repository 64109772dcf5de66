"""What is legal of each hyperparameter: beyond each end refused everywhere, up to it taken."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from thalweg import catalogue, recipe
from thalweg.catalogue import Entry, Hyperparameter
from thalweg.errors import OptionError, RecipeError

from .subjects import Problem, Subject, every_row, train

RECIPE = """version = 1
data.spec = "digits"
model.spec = "mlp:8"
training = {{batch_size = 32, epochs = 1}}

[optimizer]
name = "{name}"
{key} = {value}
"""


def beyond(hyper: Hyperparameter) -> list[float]:
    """Values just outside of each end."""
    found = [end for end in (hyper.above, hyper.below) if end is not None]
    if hyper.least is not None:
        found.append(hyper.least - 1 if hyper.whole else math.nextafter(hyper.least, -math.inf))
    if hyper.most is not None:
        found.append(math.nextafter(hyper.most, math.inf))
    return found


def within(hyper: Hyperparameter) -> list[float]:
    """The legal ends, and values next to those that aren't."""
    found = [end for end in (hyper.least, hyper.most) if end is not None]
    # 2 ** -20: what comes of it can still be told from the end
    found += [] if hyper.above is None else [hyper.above + 2**-20]
    return found + ([] if hyper.below is None else [hyper.below - 2**-20])


def others(entry: Entry, hyper: Hyperparameter, value: float) -> dict[str, float]:
    """What else has to be given, so that one hyperparameter isn't less than another."""
    given = {}
    for other in entry.hyperparameters:
        if hyper.not_under == other.name:
            given[other.name] = min(value, other.default)
        if other.not_under == hyper.name:
            given[other.name] = max(value, other.default)
    return given


# where a row takes fewer values than its class, which is as wide as torch's
NARROWER = {
    *((name, "momentum") for name in ("sgd", "momentum", "nesterov", "rmsprop")),
    *((name, "dampening") for name in ("sgd", "momentum")),
    *(("schedule-free", name) for name in ("r", "weight_lr_power")),
}


def arguments(entry: Entry, hyper: Hyperparameter, value: float) -> dict[str, Any]:
    """How the class itself is given a hyperparameter."""
    defaults = {each.name: each.default for each in entry.hyperparameters} | {hyper.name: value}
    for pair, names in entry.call.pairs.items():
        if hyper.name in names:
            return {**entry.call.fixed, pair: tuple(defaults[name] for name in names)}
    return {**entry.call.fixed, hyper.name: value}


def text(entry: Entry, values: dict[str, Any]) -> str:
    (key, value), *rest = values.items()
    lines = "".join(f"{name} = {number!r}\n" for name, number in rest)
    return RECIPE.format(name=entry.name, key=key, value=repr(value)) + lines


@every_row
def test_every_number_has_a_range_and_its_default_lies_in_it(subject: Subject) -> None:
    for hyper in subject.entry.hyperparameters:
        assert hyper.rule, hyper.name
        assert hyper.refusal(hyper.default) is None
        assert None in (hyper.least, hyper.above)
        assert None in (hyper.most, hyper.below)
        # and the space lies within what is legal, up to ends that draws keep off
        for end in (hyper.low, hyper.high):
            assert hyper.refusal(end) is None or end in (hyper.above, hyper.below)


@every_row
def test_beyond_each_end_a_recipe_and_make_refuse(subject: Subject) -> None:
    entry = subject.entry
    for hyper in entry.hyperparameters:
        assert beyond(hyper)
        for value in [*beyond(hyper), math.nan, True, "much"]:
            with pytest.raises(OptionError) as caught:
                entry.make(Problem().params, **{hyper.name: value})
            said = str(caught.value)
            assert said.startswith(f"{entry.name}: {hyper.name} is {value!r}, but must be ")
            assert "; give" in said
            if value != value or isinstance(value, str):
                continue
            spelled = "true" if value is True else repr(value)
            written = RECIPE.format(name=entry.name, key=hyper.name, value=spelled)
            with pytest.raises(RecipeError) as raised:
                recipe.loads(written)
            told = said.removeprefix(f"{entry.name}: ")
            assert str(raised.value) == f"recipe, line 8, column 1: optimizer.{told}"
            change = f"optimizer.{hyper.name}={spelled}"
            with pytest.raises(RecipeError) as raised:
                recipe.loads(text(entry, {hyper.name: hyper.default}), changes=[change])
            assert str(raised.value) == f"changes=[{change!r}]: optimizer.{told}"


@every_row
def test_up_to_each_end_values_are_taken_and_a_step_can_be_made(subject: Subject) -> None:
    entry = subject.entry
    for hyper in entry.hyperparameters:
        for value in within(hyper):
            given = {**subject.settings, hyper.name: value, **others(entry, hyper, value)}
            assert recipe.loads(text(entry, given)).optimizer.hyperparameters == given
            problem = Problem()
            train(subject, entry.make(problem.params, **given), problem, range(2))


@every_row
def test_a_class_refuses_what_its_row_refuses(subject: Subject) -> None:
    entry = subject.entry
    for hyper in entry.hyperparameters:
        if hyper.of_run:
            continue
        taken = []
        for value in beyond(hyper):
            try:
                entry.call.target(Problem().params, **arguments(entry, hyper, value))
            except OptionError:
                continue
            taken.append(value)
        narrower = (entry.name, hyper.name) in NARROWER or hyper.name == "max_iter"
        assert bool(taken) == narrower, (hyper.name, taken)


def test_one_that_cannot_be_less_than_another() -> None:
    pairs = [
        (entry.name, hyper.name, hyper.not_under)
        for entry in map(catalogue.get, catalogue.names())
        for hyper in entry.hyperparameters
        if hyper.not_under
    ]
    assert pairs == [("rprop", "step_size_max", "step_size_min")]
    said = "step_size_max is 1, but must be at least step_size_min, which is 2; change one of them"
    values = {"step_size_max": 1.0, "step_size_min": 2.0}
    rprop = catalogue.get("rprop")
    with pytest.raises(OptionError, match=said):
        rprop.make(Problem().params, **values)
    with pytest.raises(RecipeError, match=f"line 8, column 1: optimizer.{said}"):
        recipe.loads(text(rprop, values))
    rprop.make(Problem().params, step_size_max=2.0, step_size_min=2.0)


def test_tensors_are_looked_at_as_numbers() -> None:
    adam = catalogue.get("adam")
    adam.make(Problem().params, lr=torch.tensor(0.1))
    for rate in (torch.tensor(-0.1), torch.tensor([0.1, 0.2])):
        with pytest.raises(OptionError, match="adam: lr is tensor"):
            adam.make(Problem().params, lr=rate)
