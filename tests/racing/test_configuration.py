"""What a race was asked for, and what a resume may be asked for."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from thalweg.errors import OptionError, RunDirectoryError, UserError
from thalweg.racing.configuration import merged, written
from thalweg.racing.options import Options
from thalweg.run.directory.kinds import refuse_existing
from thalweg.run.directory.writing import as_toml

HERE = Path("here")
PLAIN: dict[str, Any] = {
    "model": "mlp:8",
    "data": "houses.csv",
    "target": 'a "quoted"\ncolumn',
    "types": {"zip code": "category"},
    "optimizers": ["sgd", "my file.py:rule"],
    "spaces": {"adam.lr": (1e-4, 0.1)},
    "schedules": ["constant"],
    "trials": 7,
    "minutes": 2.0,
    "margin": 0.015,
    "seed": 3,
    "engine": "loop",
    "eliminate": True,
}


def stored(**options: Any) -> dict[str, Any]:
    return tomllib.loads(as_toml(written(Options(**options, command="thalweg race"))).decode())


def test_options_come_back_from_the_file() -> None:
    for again in (PLAIN, {}, {"trials": 7}, {"spaces": {"adam.lr": [1e-4, 0.1]}}):
        assert merged(stored(**PLAIN), Options(**again), HERE) == Options(**PLAIN)


def test_a_file_holds_only_what_was_asked_for() -> None:
    assert stored(data="iris") == {"kind": "race", "command": "thalweg race", "data": "iris"}


@pytest.mark.parametrize(
    ("name", "value", "option"),
    [
        ("trials", 8, "trials"),
        ("batch_size", 32, "batch_size"),
        ("spaces", {"adam.lr": (1e-4, 0.2)}, "spaces"),
        ("types", {"zip code": "number"}, "types"),
        ("optimizers", ["sgd"], "optimizers"),
        ("data", "other.csv", "data"),
    ],
)
def test_another_value_is_refused(name: str, value: Any, option: str) -> None:
    with pytest.raises(OptionError, match="leave it out to resume") as refusal:
        merged(stored(**PLAIN), Options(**{name: value}), HERE)
    assert str(refusal.value).startswith(f"{option} is ")
    assert "here" in str(refusal.value)


def net(input_shape: tuple[int, ...], outputs: int) -> torch.nn.Module:
    return torch.nn.Linear(4, outputs)


def test_objects_are_named_and_have_to_be_given_again() -> None:
    tensors = (torch.zeros(3, 2), torch.zeros(3))
    config = stored(model=net, data=tensors, trials=2)
    assert config["objects"] == ["model", "data"]
    assert "data" not in config
    assert merged(config, Options(model=net, data=tensors), HERE) == Options(
        model=net, data=tensors, trials=2
    )
    for asked in ({}, {"model": net}, {"model": net, "data": "iris"}):
        with pytest.raises(OptionError, match=r"as (data|model); give"):
            merged(config, Options(**asked), HERE)
    with pytest.raises(OptionError, match="a Python function"):
        merged(stored(model="linear"), Options(model=net), HERE)


def test_data_in_a_list_is_an_object() -> None:
    config = stored(data=[([0.0, 1.0], 1), ([1.0, 1.0], 0)])
    assert config["objects"] == ["data"]


def test_a_directory_with_something_in_it_is_refused(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "new")
    (tmp_path / "empty").mkdir()
    refuse_existing(tmp_path / "empty")
    (tmp_path / "file").write_text("")
    for taken in (tmp_path, tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(RunDirectoryError, match="another out"):
            refuse_existing(taken)


plain = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | st.text()


# the first draw may wait for imports
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(st.sampled_from(list(PLAIN)), plain), st.dictionaries(st.sampled_from(list(PLAIN)), plain)
)
def test_any_two_sets_of_options_agree_or_are_refused(first: dict[str, Any], second: dict[str, Any]) -> None:
    try:
        found = merged(stored(**first), Options(**second), HERE)
    except UserError:
        return
    assert isinstance(found, Options)
