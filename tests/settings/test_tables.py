"""What settings are: numbers of any library are taken for what they are, and come out plain."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import thalweg
from thalweg import catalogue, optim, recipe, schedules, strategies
from thalweg.recipe import schema
from thalweg.rules import as_rule
from thalweg.settings.tables import Settings, as_whole, is_number, plain_numbers
from thalweg.strategies.table import STRATEGIES
from thalweg.test_problems import surfaces


def numpys(value: Any) -> Any:
    """The same value as NumPy has it."""
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    return np.float64(value) if isinstance(value, float) else value


def test_what_is_whole_and_what_is_a_number() -> None:
    for kind in (np.int8, np.int64, np.uint16, int):
        assert as_whole(kind(3)) == 3
        assert type(as_whole(kind(3))) is int
        assert is_number(kind(3))
    assert as_whole(torch.tensor(3)) == 3
    for none in (True, np.True_, torch.tensor(True), 3.0, np.float32(3), "3", None):
        assert as_whole(none) is None
    assert is_number(np.float16(0.5))
    assert not any(is_number(none) for none in (True, np.True_, "1", None))


def test_plain_numbers_are_pythons_at_any_depth() -> None:
    given = {"a": [np.int64(1), (np.float32(0.5), np.True_)], "b": {"c": np.longdouble(0.25)}, "d": "x"}
    found = plain_numbers(given)
    assert found == {"a": [1, (0.5, True)], "b": {"c": 0.25}, "d": "x"}
    kinds = [type(found["a"][0]), *map(type, found["a"][1]), type(found["b"]["c"])]
    assert kinds == [int, float, bool, float]


@pytest.mark.parametrize("name", strategies.names())
def test_settings_of_every_strategy_take_numbers_of_any_library(name: str) -> None:
    kind: type[Settings] = STRATEGIES[name][1]
    assert issubclass(kind, Settings)
    required = {"clipping": {"norm": 1.0}, "averaging": {}, "initialization": {"scheme": "normalized"}}
    plain = kind(**required.get(name, {})).model_dump(exclude_none=True)
    there = kind(**{key: numpys(value) for key, value in plain.items()}).model_dump(exclude_none=True)
    assert there == plain
    assert [type(value) for value in there.values()] == [type(value) for value in plain.values()]


def test_recipes_take_numbers_of_any_library(tmp_path: Path) -> None:
    made = recipe.Recipe(
        data=schema.DataTable(spec="iris"),
        model=schema.ModelTable(spec="linear"),
        optimizer=schema.OptimizerTable(name="adam", lr=np.float32(0.5), beta1=np.float64(0.75)),
        training=schema.TrainingTable(batch_size=np.int64(16), epochs=np.int16(2), seed=np.uint8(1)),
    )
    recipe.write(made, tmp_path / "r.toml")
    assert recipe.read(tmp_path / "r.toml") == made
    assert "np." not in (tmp_path / "r.toml").read_text()


def test_schedules_surfaces_and_optimizers_take_numbers_of_any_library() -> None:
    steps = np.arange(12)
    one = schedules.build("one-cycle", total=np.int64(12), warmup=np.float32(0.25))
    assert np.array_equal(one(steps), schedules.build("one-cycle", total=12, warmup=0.25)(steps))
    assert schedules.build("cosine", total=12, cycles=np.int32(2)) == schedules.build(
        "cosine", total=12, cycles=2
    )
    assert repr(surfaces.get("extended-rosenbrock", n=np.int64(4))) == repr(
        surfaces.get("extended-rosenbrock", n=4)
    )
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=np.float32(0.5))
    schedules.Driver(optimizer, {"lr": schedules.build("step", total=4, every=1)})
    # the limit on evaluations follows the number of iterations, whatever that is made of
    limits = [
        optim.LBFGS(model.parameters(), max_iter=n).param_groups[0]["max_eval"] for n in (8, np.int64(8))
    ]
    assert limits[0] == limits[1]


HALF = np.float32(0.5)


def scaled(p: Any, g: Any, *, lr: Any = HALF) -> Any:
    return p - lr * g


TEN = np.int64(10)


class Halving(torch.optim.SGD):
    def __init__(self, params: Any, lr: float = 0.5, every=TEN) -> None:
        super().__init__(params, lr=lr)


def test_defaults_of_a_persons_own_optimizer_are_numbers_of_any_library() -> None:
    assert as_rule(scaled).hyperparameters == {"lr": 0.5}
    found = {hyper.name: hyper for hyper in catalogue.resolve(Halving).hyperparameters}
    assert found["every"].default == 10
    assert found["every"].whole


def test_a_fit_writes_plain_numbers(tmp_path: Path) -> None:
    x = torch.randn(40, 3)
    thalweg.fit(
        nn.Linear(3, 1), (x, x.sum(1)), "mse", "sgd", epochs=np.int64(1), batch_size=np.int8(8),
        metric="rmse",
        strategies=[strategies.EarlyStopping(patience=np.int64(3))], validation=(x, x.sum(1)),
        hyperparameters={"lr": np.float32(0.125)}, out=tmp_path / "run",
    )  # fmt: skip
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "patience = 3" in text
    for line in (tmp_path / "run" / "events.jsonl").read_text().splitlines():
        json.loads(line)
