"""What a strategy does aside leaves no trace in a training, bit for bit; and it may join a resume."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import thalweg
from thalweg.errors import OptionError
from thalweg.strategies import Averaging, EarlyStopping, Strategy
from thalweg.training.loader import DataLoaderAdapter, loader_of
from training import pairs
from training.looking import Drawing, Looking, Noise

X = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (torch.arange(40) >= 20).long()


class Counting(nn.CrossEntropyLoss):
    """A loss that changes while it is used."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(outputs, targets) * (1 + self.calls / 100)


def network(*more: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    layers = [nn.Linear(4, 6), nn.BatchNorm1d(6), *more, nn.Tanh(), nn.Dropout(0.4), nn.Linear(6, 2)]
    return nn.Sequential(*layers).double()


def loader() -> Any:
    return DataLoader(Drawing(), batch_size=8, shuffle=True, generator=torch.Generator())


CASES: dict[str, dict[str, Any]] = {
    "tensors": {},
    "a Dataset that draws": {"data": Drawing()},
    "a loader that draws": {"data": loader},
    "accumulate": {"data": Drawing(), "accumulate": 3},
    "a loss that changes": {"loss": Counting},
    "a closure": {"optimizer": lambda p: thalweg.optim.LBFGS(p, max_iter=3)},
    "half precision": {"precision": "bfloat16"},
    "two points": {"optimizer": "schedule-free"},
}


def train(case: str, looking: list[Strategy], **more: Any) -> dict[str, Any]:
    given = {**CASES[case], **more}
    data = given.pop("data", (X, Y))
    loss = given.pop("loss", "cross-entropy")
    optimizer = given.pop("optimizer", lambda p: torch.optim.Adam(p, lr=0.05))
    # what no state holds is lost when a training is resumed
    model = network() if "out" in given else network(Noise())
    fitted = thalweg.fit(
        model, data() if callable(data) else data, loss() if isinstance(loss, type) else loss, optimizer,
        "cosine", [Averaging(decay=0.9, batches=2), *looking] if optimizer != "schedule-free" else looking,
        validation=(X, Y), metric="accuracy", steps=7, batch_size=8, evaluations=3, seed=3, **given,
    )  # fmt: skip
    found = pairs.outcome(fitted)
    found["hidden"] = [(part.calls, float(part.last)) for part in model.modules() if isinstance(part, Noise)]
    return found


@pytest.mark.parametrize("case", CASES)
def test_looking_aside_leaves_no_trace(case: str) -> None:
    looking = Looking()
    alone, seen = train(case, []), train(case, [looking])
    for part in alone:
        assert repr(alone[part]) == repr(seen[part]), part
    assert min(looking.norms) > 0
    assert looking.modes >= {("True", True), ("False", False), ("None", True)}
    # always the same examples, of both classes though they lie sorted
    first = looking.targets[:2]
    assert all(looking.targets[n : n + 2] == first for n in range(0, len(looking.targets), 2))
    assert all(0 < sum(batch) < len(batch) for batch in first)


def test_aside_the_draws_are_those_of_the_step() -> None:
    """Dropout within a closure's step draws the same numbers again; so does a loss aside."""
    found: list[float] = []

    class Comparing(Strategy):
        def batch(self, trainer: Any, inputs: Any, targets: Tensor, keys: Any) -> Any:
            self.held = inputs, targets
            return inputs, targets

        def before_step(self, trainer: Any) -> None:
            with trainer.aside() as loss:
                found.append(loss(*self.held).item())

        def after_backward(self, trainer: Any) -> None:
            assert found[-1] == trainer.loss.item()
            with trainer.aside() as loss:
                assert loss(*self.held).item() == found[-1]

    thalweg.fit(network(), (X, Y), "cross-entropy", "sgd", strategies=[Comparing()], steps=3, batch_size=8)
    assert len(found) == 3


@pytest.mark.parametrize("kind", ["dataset", "loader"])
def test_batches_move_neither_order_nor_generators(kind: str) -> None:
    def source() -> Any:
        data = Drawing() if kind == "dataset" else loader()
        return loader_of(data, batch_size=8, seed=1, device=torch.device("cpu"))

    one = source()
    first = [inputs.tolist() for inputs, _ in one.batches(2)]
    assert [inputs.tolist() for inputs, _ in one.batches(2)] == first
    assert len(list(one.batches(None))) == 5
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    expected = [drawn() for _ in range(3)]
    torch.manual_seed(0), np.random.seed(0), random.seed(0)  # noqa: NPY002
    batches = one.batches(3)
    found = []
    for inputs, _ in batches:
        found.append(drawn())
        assert len(inputs) == 8
    assert found == expected
    other = source()
    for _ in range(7):
        list(other.batches(1))
        assert torch.equal(other.take(0.0).targets, one.take(0.0).targets)


def drawn() -> tuple[float, float, float]:
    return random.random(), np.random.rand(), float(torch.rand(()))  # noqa: NPY002


def test_workers_that_stay_go_on_with_their_epoch() -> None:
    data = [(torch.tensor(float(number)), number) for number in range(12)]
    kept = DataLoader(data, batch_size=2, num_workers=1, persistent_workers=True)
    source = DataLoaderAdapter(kept, seed=0, device=torch.device("cpu"))
    first = [source.take(0.0).targets.tolist() for _ in range(2)]
    assert len(list(source.batches(2))) == 2
    assert first + [source.take(0.0).targets.tolist() for _ in range(2)] == [[0, 1], [2, 3], [4, 5], [6, 7]]


# Joining ----------------------------------------------------------------------------------------------


class Ends(Strategy):
    """Ends a training after some steps, as Ctrl-C does."""

    observes: ClassVar[bool] = True

    def __init__(self, at: int) -> None:
        self.left = at

    def after_step(self, trainer: Any) -> None:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


class Slower(Strategy):
    """Changes training, and doesn't say otherwise."""

    def rate_factor(self) -> float:
        return 0.5


def begun(out: Path, *strategies: Strategy) -> None:
    with pytest.raises(KeyboardInterrupt):
        train("a Dataset that draws", [*strategies, Ends(4)], out=out, checkpoint_seconds=0)


def test_a_strategy_that_observes_joins_and_leaves_a_resume(tmp_path: Path) -> None:
    alone = train("a Dataset that draws", [], out=tmp_path / "alone")
    begun(tmp_path / "joined")
    looking = Looking()
    joined = train("a Dataset that draws", [looking], out=tmp_path / "joined", resume=True)
    assert repr(joined) == repr(alone)
    assert looking.losses
    begun(tmp_path / "left", Looking())
    assert repr(train("a Dataset that draws", [], out=tmp_path / "left", resume=True)) == repr(alone)


def test_one_that_stays_goes_on_with_its_state(tmp_path: Path) -> None:
    whole, again = Looking(), Looking()
    train("a Dataset that draws", [whole], out=tmp_path / "whole")
    begun(tmp_path / "run", Looking())
    train("a Dataset that draws", [again], out=tmp_path / "run", resume=True)
    assert again.losses == whole.losses


@pytest.mark.parametrize("strategy", [Slower, lambda: EarlyStopping(patience=3)])
def test_one_that_changes_training_joins_no_resume(strategy: Any, tmp_path: Path) -> None:
    begun(tmp_path / "run")
    with pytest.raises(OptionError, match="was begun with"):
        train("a Dataset that draws", [strategy()], out=tmp_path / "run", resume=True)


def test_whoever_observes_has_no_place_that_changes_training() -> None:
    class Both(Slower):
        observes: ClassVar[bool] = True

    with pytest.raises(OptionError, match="'Slower' says that it only observes, but has rate_factor"):
        train("tensors", [Both()])
