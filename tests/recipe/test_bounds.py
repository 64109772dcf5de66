"""Numbers far out of range are refused before anything is allocated; so is what isn't a recipe."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from thalweg import recipe, schedules
from thalweg.commands.app import run
from thalweg.errors import OptionError, RecipeError
from thalweg.recipe.schema import Recipe
from thalweg.settings.free_memory import out_of_memory
from thalweg.settings.tables import MOST, check_length, whole_number

SMALL = """version = 1
data.spec = "iris"
model.spec = "mlp:4"
optimizer = {name = "sgd", lr = 0.1}
training = {batch_size = 16, epochs = 1, evaluations = 1}
"""
# What may be as large as one likes: it is only compared with how far the training has come, or hashed.
ANY = {
    "data.seed",
    "training.seed",
    "strategies.guard.attempts",
    "strategies.guard.every",
    "strategies.averaging.every",
    "strategies.averaging.batches",
    "strategies.snapshots.keep",
    "strategies.plateau.patience",
    "strategies.plateau.cooldown",
    "strategies.early-stopping.patience",
}


def whole_numbers(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[str]:
    """The keys of a recipe that take whole numbers."""
    for name, info in model.model_fields.items():
        here = (*path, info.alias or name)
        kinds = get_args(info.annotation) or (info.annotation,)
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from whole_numbers(kind, here)
        if int in kinds:
            yield ".".join(here)


KEYS = sorted(whole_numbers(Recipe))


def test_the_keys_are_found() -> None:
    assert {"training.epochs", "prediction.samples", "strategies.snapshots.cycles", "model.maxout"} < set(
        KEYS
    )
    assert set(KEYS) > ANY


@pytest.mark.parametrize("key", KEYS)
def test_whole_numbers_of_recipes_have_bounds(key: str) -> None:
    if key in ANY:
        recipe.loads(SMALL, changes=[f"{key}={2**62}"])
    else:
        with pytest.raises(RecipeError, match=key.split(".")[-1]):
            recipe.loads(SMALL, changes=[f"{key}={2**62}"])


@pytest.mark.parametrize("key", [*KEYS, "optimizer.lr", "schedule.final"])
@pytest.mark.parametrize("value", [str(2**63), str(-(2**63) - 1), "9" * 400])
def test_no_number_is_beyond_64_bits(key: str, value: str) -> None:
    with pytest.raises(RecipeError, match=f"{key} is beyond 64 bits"):
        recipe.loads(SMALL, changes=[f"{key}={value}"])


def test_numbers_of_thousands_of_digits() -> None:
    with pytest.raises(RecipeError, match="is not TOML"):
        recipe.loads(SMALL.replace("0.1", "9" * 5000))
    with pytest.raises(RecipeError, match=r"optimizer.lr is"):
        recipe.loads(SMALL, changes=[f"optimizer.lr={'9' * 5000}"])


def test_a_schedule_has_no_length_of_its_own() -> None:
    with pytest.raises(
        RecipeError, match=r"recipe, line 7, column 1: schedule.total is the length of the training"
    ):
        recipe.loads(SMALL + "[schedule]\ntotal = 5\n")
    with pytest.raises(RecipeError, match=r"schedule.total is the length"):
        recipe.loads(SMALL + 'schedule = {name = "cosine", total = 5}\n')
    with pytest.raises(OptionError, match=r"must be a whole number up to 100000"):
        schedules.build("cosine", total=10, cycles=10**12)


@pytest.mark.parametrize("key", ["params", "self"])
def test_an_own_optimizer_is_given_its_parameters(key: str) -> None:
    with pytest.raises(RecipeError, match=f"optimizer.{key} is what the training gives"):
        recipe.loads(SMALL.replace('name = "sgd"', 'name = "mine.py:Own"'), changes=[f"optimizer.{key}=1"])


def test_a_training_has_a_length() -> None:
    check_length(1_000_000, 100)
    with pytest.raises(OptionError, match=r"1,000,000 epochs of 101 steps are more than 100,000,000 steps"):
        check_length(1_000_000, 101)


@pytest.mark.parametrize("name", ["trials", "splits", "confirm", "epochs", "batch_size", "seed"])
def test_whole_numbers_of_races_have_bounds(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert whole_number(name, MOST[name], most=MOST[name]) == MOST[name]
    option = f"--{name.replace('_', '-')}"
    for value in (MOST[name] + 1, 10**30):
        # refused before the data are looked for
        assert run(["race", "--data", "nothing", option, str(value)]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: {option} is ")
        assert f"to {MOST[name]}" in said
    with pytest.raises(OptionError, match=r"is beyond 10\^20"):
        whole_number(name, 10**5000, most=MOST[name])


def test_a_run_directory_may_lie_deep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(SMALL)
    deep = ["d"] * 1000
    try:
        assert run(["train", "r.toml", "--out", "/".join(deep), "--quiet"]) == 0
        assert os.path.isfile("/".join([*deep, "results.json"]))
    finally:
        # piece by piece: pytest, which removes it whole some runs later, meets Python's recursion limit
        for depth in range(len(deep), 0, -100):
            shutil.rmtree("/".join(deep[: depth - 99]), ignore_errors=True)


@pytest.mark.parametrize("name", ["a" * 300, "/".join(["d" * 100] * 50)])
def test_a_run_directory_with_too_long_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(SMALL)
    assert run(["train", "r.toml", "--out", name]) == 2
    assert "file name too long" in capsys.readouterr().err.lower()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.toml"]


def test_what_is_no_recipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.toml")
    with pytest.raises(RecipeError, match="missing"):
        recipe.read(tmp_path / "fifo.toml")
    (tmp_path / "long.toml").write_bytes(b"#" * 10_000_001)
    with pytest.raises(RecipeError, match="is longer than any recipe"):
        recipe.read(tmp_path / "long.toml")
    (tmp_path / "self.toml").symlink_to("self.toml")
    with pytest.raises(RecipeError, match="too many levels of symbolic links"):
        recipe.read(tmp_path / "self.toml")


def test_memory_that_runs_out_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thalweg.commands import verbs

    def greedy(*_: object, **__: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(verbs, "train", greedy)
    assert run(["train", "r.toml"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: memory ran out (")
    assert said.count("\n") == 1
    monkeypatch.setattr(verbs, "train", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(["train", "r.toml"])
    assert not out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
