"""Modes of parts: what a person has frozen stays frozen, wherever our code trains or judges a model."""

from __future__ import annotations

import ast
import copy
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thalweg
from thalweg import averaging
from thalweg.execution import lanes, loop
from thalweg.execution.lanes.forward import forward_of
from thalweg.layers import BatchNorm, sampled_prediction
from thalweg.layers.modes import begin_training, end_training, evaluating, held
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Run, Setting, Workload
from thalweg.strategies import Averaging
from thalweg.training.evaluate import score

GENERATOR = torch.Generator().manual_seed(5)
X = 3 + 2 * torch.randn(64, 4, generator=GENERATOR)
Y = (X.sum(1) > 12).long()


class KeptOut(nn.Sequential):
    """Its own ``train`` keeps its batch norm in evaluation."""

    def train(self, mode: bool = True) -> KeptOut:
        super().train(mode)
        self[1].eval()
        return self


def network(frozen: str, norm: type[nn.Module] = nn.BatchNorm1d) -> nn.Sequential:
    torch.manual_seed(1)
    made = nn.BatchNorm1d(6) if norm is nn.BatchNorm1d else BatchNorm(6)
    kind = KeptOut if frozen == "train" else nn.Sequential
    model = kind(nn.Linear(4, 6), made, nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 2))
    if frozen == "eval":
        made.eval()
    if frozen == "momentum":
        made.momentum = 0.0
    return model


def statistics(model: nn.Module) -> tuple[Tensor, Tensor]:
    return model[1].running_mean.clone(), model[1].running_var.clone()  # type: ignore[index]


def untouched_statistics(model: nn.Module) -> bool:
    mean, variance = statistics(model)
    return torch.equal(mean, torch.zeros(6)) and torch.equal(variance, torch.ones(6))


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, BatchNorm])
@pytest.mark.parametrize("averages", [False, True])
@pytest.mark.parametrize("frozen", ["eval", "train", "momentum"])
def test_frozen_statistics_stay_through_training_and_averaging(
    frozen: str, averages: bool, norm: type[nn.Module]
) -> None:
    model = network(frozen, norm)
    strategies = [Averaging(decay=0.5)] if averages else []
    fitted = thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", "constant", strategies, validation=(X, Y), epochs=2,
        batch_size=16, evaluations=2,
    )  # fmt: skip
    assert untouched_statistics(fitted.model)
    assert not any(part.training for part in model.modules())
    # a second training knows what was frozen in the first one, whose end is evaluation mode as a whole
    thalweg.fit(model, (X, Y), "cross-entropy", "sgd", epochs=1, batch_size=16)
    assert untouched_statistics(model)


@pytest.mark.parametrize("averages", [False, True])
def test_statistics_that_nobody_froze_are_learnt_also_by_a_model_in_evaluation_mode(averages: bool) -> None:
    model = network("").eval()
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", "constant", [Averaging()] if averages else [], epochs=2,
        batch_size=16,
    )  # fmt: skip
    assert not untouched_statistics(model)


def test_a_frozen_norm_is_the_one_by_hand_and_frozen_dropout_drops_nothing() -> None:
    model = network("eval")
    model[3].eval()
    twin = copy.deepcopy(model)
    thalweg.fit(
        model, (X, Y), "cross-entropy", "sgd", validation=(X, Y), epochs=1, batch_size=16, seed=2,
        hyperparameters={"lr": 0.1}, evaluations=4,
    )  # fmt: skip
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    order = torch.from_numpy(thalweg.randomness.streams.order(64, seed=2, epoch=0))
    for begin in range(0, 64, 16):
        chosen = order[begin : begin + 16]
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(X[chosen]), Y[chosen]).backward()
        optimizer.step()
    for one, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_a_mode_set_while_training_stays_over_an_evaluation() -> None:
    class Freezing(thalweg.strategies.Strategy):
        name, priority = "freezing", 5

        def __init__(self) -> None:
            self.settings, self.seen = thalweg.strategies.Settings(), []

        def before_step(self, trainer: Any) -> None:
            if trainer.updates == 1:
                trainer.model[1].eval()
            self.seen.append((trainer.model[1].training, trainer.model.training))

    freezing = Freezing()
    thalweg.fit(
        network(""), (X, Y), "cross-entropy", "sgd", "constant", [freezing], validation=(X, Y), epochs=1,
        batch_size=16, evaluations=4,
    )  # fmt: skip
    assert freezing.seen == [(True, True), (False, True), (False, True), (False, True)]


@pytest.mark.parametrize("frozen", ["eval", "train", "momentum"])
def test_estimates_leave_frozen_norms_alone(frozen: str) -> None:
    model = network(frozen)
    modes = [part.training for part in model.modules()]
    assert averaging.estimate_batch_norm(model, [X]) == 0
    assert untouched_statistics(model)
    assert [part.training for part in model.modules()] == modes


def test_estimates_are_made_for_a_model_in_evaluation_mode_and_beside_a_frozen_norm() -> None:
    both = nn.Sequential(nn.BatchNorm1d(4), nn.BatchNorm1d(4, track_running_stats=False), nn.BatchNorm1d(4))
    assert averaging.estimate_batch_norm(both.eval(), [X]) == 2
    both.train()[0].eval()
    both[2].reset_running_stats()
    first = both[0].running_mean.clone()
    assert averaging.estimate_batch_norm(both, [X]) == 1
    assert torch.equal(both[0].running_mean, first)
    # behind two norms that have normalized already
    torch.testing.assert_close(both[2].running_mean, torch.zeros(4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("frozen", ["eval", "train", "momentum", ""])
def test_a_run_of_a_race_is_the_same_in_a_lane_and_alone(frozen: str) -> None:
    from thalweg import catalogue, data
    from thalweg.data.examples import TensorExamples
    from thalweg.data.source import Prepared
    from thalweg.objectives import Task

    del data
    examples = TensorExamples(X, Y)
    prepared = Prepared(
        train=examples, validation=examples, test=examples, outputs=2, indices={}, input_shape=(4,),
        task=Task(kind="classification", classes=("0", "1")),
    )  # fmt: skip
    work: dict[str, Any] = {
        "problem": Problem(
            factory=lambda shape, outputs: network(frozen), data=prepared,
            objective=Objective(loss="cross-entropy", metric="accuracy"),
            optimizers={"sgd": catalogue.get("sgd")},
        ),
        "workload": Workload(epochs=2, batch_size=16, evaluations=2, loss_bound=1e9),
    }  # fmt: skip
    runs = [Run(identity="one", setting=Setting(optimizer="sgd", hyperparameters={"lr": 0.1}), seed=3)]
    kept: dict[str, Any] = {}
    alone = loop.run(runs[0], **work)
    lane = lanes.run(runs, **work, keep=lambda outcome, tensors: kept.update(tensors))[0]
    assert alone.validation_loss == pytest.approx(lane.validation_loss, rel=1e-4)
    still = torch.equal(kept["1.running_mean"], torch.zeros(6))
    assert still is (frozen != "")


def test_held_parts_have_no_twin_in_lanes() -> None:
    assert forward_of(network("")).form == "batched"
    assert forward_of(network("eval")).form == "vmap"


def test_a_model_in_evaluation_mode_is_sampled_as_a_whole_also_within_another() -> None:
    model = network("").eval()
    averaged = averaging.Averaged(model, samples=3)
    first, second, _ = averaged.draws(X)
    assert not torch.equal(first, second)


def test_sampling_keeps_frozen_parts_still() -> None:
    model = network("")
    model[3].eval()
    assert bool((sampled_prediction(model, X, samples=3).spread == 0).all())
    model.train()
    assert bool((sampled_prediction(model, X, samples=3).spread > 0).any())


def test_modes_go_through_train_and_eval_of_the_layers() -> None:
    class Merging(nn.Linear):
        """As low-rank adapters do: merged into the weight while evaluating."""

        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            return super().train(mode)

    model = nn.Sequential(Merging(2, 2), nn.Dropout())
    model[1].eval()
    assert held(model) == {model[1]}
    modes = begin_training(model)
    with evaluating(model):
        assert model[0].merged
    assert not model[0].merged
    assert [part.training for part in model.modules()] == [True, True, False]
    end_training(model, modes)
    assert model[0].merged
    begin_training(model)
    assert [part.training for part in model.modules()] == [True, True, False]
    # who trains it as a whole in between has thawed it
    model.train()
    begin_training(model)
    assert all(part.training for part in model.modules())


def test_a_head_alone_in_training_mode() -> None:
    model = nn.Sequential(nn.Dropout(), nn.Dropout()).eval()
    model[1].train()
    begin_training(model)
    assert [part.training for part in model.modules()] == [False, False, True]


def test_scoring_a_model_leaves_each_part_in_its_own_mode() -> None:
    model = network("eval")
    assert model.training
    score(model, [(X, Y)], nn.functional.cross_entropy, None, nullcontext)
    assert [part.training for part in model] == [True, False, True, True, True]


@pytest.mark.parametrize("engine", ["lanes", "loop"])
def test_members_of_an_ensemble_remember_which_parts_were_frozen(engine: str) -> None:
    def frozen(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        return network("eval")

    ensemble = thalweg.fit_ensemble(
        frozen,
        (X, Y),
        "cross-entropy",
        "sgd",
        members=2,
        epochs=1,
        engine=engine,
        hyperparameters={"lr": 0.1},
    )  # type: ignore[call-overload]
    member = ensemble.models[0]
    before = member[1].running_mean.clone()  # type: ignore[index, union-attr]
    assert held(member) == {member[1]}  # type: ignore[index]
    thalweg.fit(member, (X, Y), "cross-entropy", "sgd", epochs=1)
    assert torch.equal(before, member[1].running_mean)  # type: ignore[index, union-attr, arg-type]


# Whose business modes are --------------------------------------------------------------------------------

SOURCE = Path(thalweg.__file__).parent
THEIRS = {SOURCE / "training" / "trainer.py", SOURCE / "layers" / "modes.py"}
# what has a method of this name and is no module
OTHERS = {"optimizer", "history", "self.history", "self.histories[number]", "lanes", "asked", "verbs"}
# what is ours, and new, and has a mode without having parts
OURS = {"self", "self._seen", "made"}


def sets_modes(tree: ast.Module) -> list[str]:
    """Return the calls of ``train`` and ``eval``, and what is put into ``training``."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ("train", "eval") and ast.unparse(node.func.value) not in OTHERS:
                found.append((node.lineno, ast.unparse(node)))
        elif isinstance(node, ast.Assign):
            for aim in node.targets:
                a_mode = isinstance(aim, ast.Attribute) and aim.attr == "training"
                if a_mode and ast.unparse(aim.value) not in OURS:
                    found.append((node.lineno, ast.unparse(node)))
    return [f"line {line}: {text}" for line, text in sorted(found)]


def test_the_reader_of_modes_sees_them() -> None:
    lines = [
        "model.eval()",
        "nn.Linear(2, 2).train(x)",
        "optimizer.train()",
        "part.training = False",
        "model(x)",
    ]
    found = sets_modes(ast.parse("\n".join(lines)))
    assert found == [f"line {number}: {lines[number - 1]}" for number in (1, 2, 4)]


def test_nobody_but_the_trainer_sets_modes() -> None:
    found = {
        path.relative_to(SOURCE).as_posix(): said
        for path in sorted(SOURCE.rglob("*.py"))
        if path not in THEIRS and (said := sets_modes(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert not found, "go through thalweg.layers.modes"


class Asking(nn.Module):
    """Writes down which file of ours asks for a mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2), nn.Linear(6, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)

    def train(self, mode: bool = True) -> Asking:
        frames = (frame.filename for frame in traceback.extract_stack())
        ours = [Path(name) for name in frames if Path(name).is_relative_to(SOURCE)]
        ASKED.update(ours[-1:])
        return super().train(mode)


ASKED: set[Path] = set()


def test_a_persons_model_is_asked_by_nobody_else() -> None:
    ASKED.clear()
    thalweg.fit(Asking(), (X, Y), "cross-entropy", "adam", strategies={"averaging": True, "snapshots": True},
                validation=(X, Y), metric="accuracy", epochs=2)  # fmt: skip
    thalweg.fit_ensemble(
        lambda shape, outputs: Asking(), (X, Y), "cross-entropy", "adam", members=2, epochs=1,
        validation=(X, Y), metric="accuracy",
    )  # fmt: skip
    sampled_prediction(Asking(), X, samples=2, seed=0)
    thalweg.sweep(
        lambda shape, outputs: Asking(), (X, Y), [{"optimizer": "adam"}], seeds=1, epochs=1,
        loss="cross-entropy",
    )  # fmt: skip
    assert ASKED
    assert ASKED <= THEIRS
