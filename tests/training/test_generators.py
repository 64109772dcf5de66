"""What a Dataset or a module draws from torch's, NumPy's and Python's generators is decided by the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset, default_collate

import races
from execution.lanes.test_chunks import Memory, stop_at
from small import prepared, problem, runs, workload
from thalweg.data.examples import DatasetExamples
from thalweg.data.source import Prepared
from thalweg.errors import Interrupted, ModelError
from thalweg.execution import lanes, loop
from thalweg.execution.choose import choose
from thalweg.objectives import Task
from thalweg.randomness.generators import own_generators
from thalweg.run.spec import Run
from thalweg.training.loader import DataLoaderAdapter

WHOSE = ("torch", "numpy", "python")


def draw(whose: str) -> float:
    if whose == "torch":
        return float(torch.rand((), dtype=torch.float64))
    return float(np.random.rand()) if whose == "numpy" else random.random()  # noqa: NPY002


class Noisy:
    """A Dataset that draws each time an item is read, as augmentation does."""

    def __init__(self, whose: str = "numpy", rows: int = 70) -> None:
        self.whose, self.rows = whose, rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        x = torch.linspace(-1, 1, 4, dtype=torch.float64) * (position % 7 - 3)
        return x + draw(self.whose), position % 2


def linear(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Linear(4, outputs).double()


class Plain(nn.Module):
    """A layer that takes inputs of any precision."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.float())  # type: ignore[no-any-return]


def plain(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Plain(outputs)


def by_numpy(shape: tuple[int, ...], outputs: int) -> nn.Module:
    """A module whose weights come from NumPy's and Python's generators."""
    layer = nn.Linear(16, outputs).double()
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.random.rand(outputs, 16)))  # noqa: NPY002
        layer.bias.fill_(random.random())
    return nn.Sequential(nn.Flatten(), layer)


class Shaken(nn.Module):
    """A module that draws from NumPy's generator in every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.flatten(1)) + 1e-6 * np.random.rand()  # type: ignore[no-any-return] # noqa: NPY002


def shaken(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Shaken()


def noisy(whose: str) -> dict[str, Any]:
    def part(begin: int, end: int) -> DatasetExamples:
        return DatasetExamples(Noisy(whose), np.arange(begin, end), default_collate)

    data = Prepared(
        train=part(0, 50), validation=part(50, 60), test=part(60, 70), input_shape=(4,), outputs=2,
        task=Task(kind="classification", classes=("a", "b")), indices={},
    )  # fmt: skip
    return {"problem": problem(linear, data), "workload": workload()}


@pytest.fixture(autouse=True)
def unknown_generators() -> Iterator[None]:
    """Begin where nobody has seeded anything alike, and leave what was found."""
    with own_generators(random.randrange(2**31), "a test"):
        yield


def run_of(seed: int = 1) -> Run:
    return runs(1, names=["adam"], seeds=(seed,))[0]


@pytest.mark.parametrize("whose", WHOSE)
def test_the_loop_decides_every_draw_and_leaves_all_generators_alone(whose: str) -> None:
    given = noisy(whose)
    with own_generators(5):
        next_draws = [draw(each) for each in WHOSE]
    with own_generators(5):
        first = loop.run(run_of(), **given)
        assert [draw(each) for each in WHOSE] == next_draws
    draw(whose)
    assert loop.run(run_of(), **given) == first
    assert loop.run(run_of(2), **given).train_loss != first.train_loss


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize("steps", [1, 5])
def test_an_interrupted_run_goes_on_with_the_draws_it_would_have_had(whose: str, steps: int) -> None:
    given, keeper = noisy(whose), Memory()
    whole = loop.run(run_of(), **given)
    with pytest.raises(Interrupted):
        loop.run(run_of(), checkpoint=keeper, stop=stop_at(steps), **given)
    assert loop.run(run_of(), checkpoint=keeper, checkpoint_seconds=0.0, **given) == whole


def test_a_state_without_all_generators_begins_the_run_anew() -> None:
    """As earlier versions wrote it: what NumPy and Python would have drawn next isn't known."""
    given, keeper = noisy("numpy"), Memory()
    whole = loop.run(run_of(), **given)
    with pytest.raises(Interrupted):
        loop.run(run_of(), checkpoint=keeper, stop=stop_at(5), **given)
    state = keeper.load(run_of().identity)
    assert state is not None
    del state["generators"]
    keeper.save(run_of().identity, state)
    assert loop.run(run_of(), checkpoint=keeper, **given) == whole


def test_weights_that_numpy_draws_are_a_function_of_the_seed() -> None:
    given: dict[str, Any] = {
        "problem": problem(by_numpy, prepared(dtype=torch.float64)),
        "workload": workload(),
    }
    for execute in (lambda run: loop.run(run, **given), lambda run: lanes.run([run], **given)[0]):
        first = execute(run_of())
        assert execute(run_of()) == first
        assert execute(run_of(2)).validation_loss[0] != first.validation_loss[0]


@pytest.mark.parametrize("collate", [None, default_collate], ids=["read at once", "read in batches"])
def test_a_race_on_a_dataset_that_draws_is_decided_by_its_seed(collate: Any, tmp_path: Path) -> None:
    asked: dict[str, Any] = {
        "model": plain, "data": Noisy("numpy", 60), "collate": collate, "optimizers": ["adam"], "trials": 1,
        "confirm": 1, "epochs": 1,
    }  # fmt: skip
    found, beside = [], 1 if collate is None else 2
    for number, (processes, seed) in enumerate([(1, 0), (1, 0), (beside, 0), (1, 1)]):
        with races.engine("loop", processes=processes):
            results = races.run(tmp_path / str(number), seed=seed, **asked)
        found.append([*(run.score for run in results.optimizers[0].runs), results.data.fingerprint])
    assert found[0] == found[1] == found[2]
    assert found[3] != found[0]


def test_a_module_that_draws_from_numpy_is_no_lane() -> None:
    given: dict[str, Any] = {
        "problem": problem(shaken, prepared(dtype=torch.float64)),
        "workload": workload(),
    }
    with pytest.raises(ModelError, match=r"draws from NumPy's generator.*use the loop engine"):
        lanes.run([run_of()], **given)
    with own_generators(5):
        next_draws = [draw(each) for each in WHOSE]
    with own_generators(5):
        choice = choose([run_of()], seconds=0.001, **given)
        assert [draw(each) for each in WHOSE] == next_draws
    assert choice.kind == "loop"
    assert "NumPy's generator" in choice.reason
    assert loop.run(run_of(), **given) == loop.run(run_of(), **given)


class ByNumpy(Sampler[int]):
    """An order that NumPy's generator draws."""

    def __len__(self) -> int:
        return 20

    def __iter__(self) -> Iterator[int]:
        return iter(np.random.permutation(20).tolist())  # noqa: NPY002


def test_a_loaders_order_is_found_again_whoever_draws_it() -> None:
    data = TensorDataset(torch.arange(20), torch.arange(20))

    def source() -> DataLoaderAdapter:
        loader = DataLoader(data, batch_size=4, sampler=ByNumpy())
        return DataLoaderAdapter(loader, seed=3, device=torch.device("cpu"))

    whole = source()
    before = [whole.take(0.0).targets.tolist() for _ in range(8)]
    state, after = whole.state(), [whole.take(0.0).targets.tolist() for _ in range(5)]
    assert sorted(np.concatenate(before[:5])) == list(range(20))
    assert before[5:] != before[:3]
    again = source()
    again.load(state)
    assert [again.take(0.0).targets.tolist() for _ in range(5)] == after
