"""Runs as lanes: the same outcomes as in the ordinary loop, checkpoints, divergence, elimination."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import entries, prepared, problem, runs, workload
from thalweg import catalogue
from thalweg.errors import DataError, Interrupted, ModelError, RuleError
from thalweg.execution import lanes, loop
from thalweg.execution.lanes.chunks import plan
from thalweg.run.spec import Outcome, Run, Setting


def mlp(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, outputs)).double()


def everything(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Sequential(nn.LayerNorm(8), nn.Linear(8, outputs)),
    ).double()


class Residual(nn.Module):
    """Somebody's own module: a skip connection, batch norm, dropout, convolution, an unused parameter."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 3, padding=1)
        self.norm, self.drop = nn.BatchNorm1d(32), nn.Dropout(0.3)
        self.inner, self.head = nn.Linear(32, 32), nn.Linear(32, outputs)
        self.unused = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.full((1,), 1.5), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv(x)).flatten(1)
        x = x + self.drop(self.norm(self.inner(x))) * self.frozen
        return self.head(x)


def residual(shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Residual(outputs).double()


def both(
    chosen: list[Run],
    factory: Any,
    kind: str = "classes",
    *,
    loss: Any = None,
    metric: Any = None,
    **more: Any,
) -> tuple[Any, Any]:
    common: dict[str, Any] = {
        "problem": problem(factory, prepared(kind, torch.float64), kind, loss=loss, metric=metric),
        "workload": workload(**more),
    }
    return lanes.run(chosen, **common), [loop.run(each, **common) for each in chosen]


def assert_alike(lane: Outcome, alone: Outcome, tolerance: float = 1e-9) -> None:
    assert (lane.identity, lane.steps, lane.diverged_at) == (alone.identity, alone.steps, alone.diverged_at)
    for name in ("train_loss", "validation_loss", "validation", "test", "test_predictions"):
        ours, theirs = getattr(lane, name), getattr(alone, name)
        assert [v is None for v in ours] == [v is None for v in theirs], name
        assert ours == pytest.approx(theirs, rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("factory", [mlp, everything, residual], ids=lambda f: f.__name__)
def test_every_optimizer_does_the_same_in_a_lane_as_in_the_loop(factory: Any) -> None:
    # A bias right before batch norm has rounding noise for a gradient, and adaptive rules divide noise by
    # noise: what is left of it in the running mean is why models with batch norm are held to less. What asks
    # noise for its sign, or for a slope of it, goes wherever noise leads.
    plain = factory is mlp
    with_rule = [name for name in catalogue.names() if catalogue.get(name).rule]
    names = [n for n in with_rule if plain or catalogue.get(n).family not in ("sign", "curvature")]
    chosen = runs(2, names=names, rates=(0.01, 0.003), seeds=(1, 2), schedules=("cosine", "one-cycle"))
    for lane, alone in zip(*both(chosen, factory), strict=True):
        matrix = catalogue.get(lane.identity.partition("/")[0]).family == "matrix"
        assert_alike(lane, alone, 1e-9 if plain and not matrix else 1e-6)
        assert len(lane.test_predictions) == 33
        assert lane.validation[0] != lane.validation[-1]


@pytest.mark.parametrize("kind", ["two", "number"])
def test_other_losses_and_metrics_are_the_same_too(kind: str) -> None:
    for lane, alone in zip(*both(runs(2), everything, kind), strict=True):
        assert_alike(lane, alone)


def own_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.square().mean() + nn.functional.cross_entropy(outputs, targets)).sqrt()


def own_metric(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def test_a_persons_own_loss_and_metric() -> None:
    for lane, alone in zip(*both(runs(1), mlp, loss=own_loss, metric=own_metric), strict=True):
        assert_alike(lane, alone)
        assert lane.test_predictions == []


def test_a_plateau_falls_alike() -> None:
    chosen = runs(2, names=["sgd"], rates=(0.5, 1e-5), schedules=["plateau"])
    steady = runs(2, names=["sgd"], rates=(0.5, 1e-5), schedules=["constant"])
    lane, alone = both(chosen, mlp, epochs=12, evaluations=20)
    for one, other in zip(lane, alone, strict=True):
        assert_alike(one, other)
    constant, _ = both(steady, mlp, epochs=12, evaluations=20)
    assert lane[0].train_loss != constant[0].train_loss, "the plateau never acted"


def test_single_precision_stays_within_the_stated_tolerance() -> None:
    chosen = runs(1, names=["momentum"], rates=(0.01,))
    common = {
        "problem": problem(lambda shape, outputs: mlp(shape, outputs).float(), prepared()),
        "workload": workload(epochs=1),
    }
    assert_alike(lanes.run(chosen, **common)[0], loop.run(chosen[0], **common), 1e-4)


def test_a_diverging_lane_is_marked_at_its_step_and_harms_no_other() -> None:
    calm = runs(2, names=["momentum"], schedules=["constant"])
    wild = [
        Run(identity=f"wild/{lr}", setting=Setting(optimizer="momentum", hyperparameters={"lr": lr}), seed=1)
        for lr in (1e6, 1e300, 30.0)
    ]
    lane, alone = both([wild[0], calm[0], wild[1], wild[2], calm[1]], mlp, "number", loss_bound=50.0)
    for one, other in zip(lane, alone, strict=True):
        assert (one.diverged_at, len(one.validation)) == (other.diverged_at, len(other.validation))
        if one.identity.startswith("wild"):
            assert one.diverged_at is not None
            after = [
                value
                for step, value in zip(one.steps, one.validation, strict=True)
                if step >= one.diverged_at
            ]
            assert after
            assert set(after) == {None}
            assert one.test_predictions == []
        else:
            assert_alike(one, other)
            assert one.diverged_at is None


def test_when_all_diverge_the_chunk_is_over() -> None:
    wild = runs(2, names=["sgd"], rates=(1e200,))
    lane, _ = both(wild, mlp, "number")
    for one in lane:
        assert one.diverged_at == 2
        assert one.steps == [0, 7, 14, 22, 29, 36]
        assert one.validation[1:] == [None] * 5


class Memory:
    """A keeper that writes and reads as a file would; every state it was given is kept."""

    def __init__(self) -> None:
        self.states: dict[str, list[bytes]] = {}

    def save(self, chunk: str, state: dict[str, Any]) -> None:
        file = io.BytesIO()
        torch.save(state, file)
        self.states.setdefault(chunk, []).append(file.getvalue())

    def load(self, chunk: str) -> dict[str, Any] | None:
        if chunk not in self.states:
            return None
        found: dict[str, Any] = torch.load(io.BytesIO(self.states[chunk][-1]), weights_only=True)
        return found


def stop_at(step: int) -> Callable[[], bool]:
    asked = 0

    def stop() -> bool:
        nonlocal asked
        asked += 1
        return asked > step

    return stop


@pytest.mark.parametrize("factory", [everything, residual], ids=lambda f: f.__name__)
@pytest.mark.parametrize("steps", [0, 1, 7, 10, 35])
def test_an_interrupted_chunk_goes_on_to_the_bit(factory: Any, steps: int) -> None:
    chosen = [*runs(3, seeds=(1, 2)), *runs(1, names=["adamw"], rates=(1e250,))]
    common = {
        "problem": problem(factory, prepared(dtype=torch.float64)),
        "workload": workload(),
        "eliminate": lambda step, seen: {"adam/1"} if step == 7 else set(),
    }
    whole = lanes.run(chosen, **common)
    keeper = Memory()
    with pytest.raises(Interrupted):
        lanes.run(chosen, checkpoint=keeper, stop=stop_at(steps), **common)
    resumed = lanes.run(chosen, checkpoint=keeper, checkpoint_seconds=0.0, **common)
    assert [one.to_json() for one in resumed] == [one.to_json() for one in whole]
    assert whole[3 + 1].validation[2:] == [None] * 4
    # What the keeper has now is the end: nothing is trained any more.
    again = lanes.run(chosen, checkpoint=keeper, stop=lambda: pytest.fail("nothing is left"), **common)
    assert [one.to_json() for one in again] == [one.to_json() for one in whole]


@pytest.mark.parametrize("steps", [0, 1, 7, 10, 35])
def test_an_interrupted_loop_goes_on_to_the_bit(steps: int) -> None:
    chosen = runs(1, names=["adam"], schedules=["plateau"])[0]
    common = {
        "problem": problem(residual, prepared(dtype=torch.float64)),
        "workload": workload(),
    }
    whole, keeper = loop.run(chosen, **common), Memory()
    with pytest.raises(Interrupted):
        loop.run(chosen, checkpoint=keeper, stop=stop_at(steps), **common)
    resumed = loop.run(chosen, checkpoint=keeper, checkpoint_seconds=0.0, **common)
    assert resumed == whole
    assert loop.run(chosen, checkpoint=keeper, stop=lambda: pytest.fail("nothing is left"), **common) == whole


def test_eliminated_runs_stop_and_the_others_go_on() -> None:
    chosen, asked = runs(2), []

    def eliminate(step: int, seen: Any) -> set[str]:
        asked.append((step, set(seen)))
        return {"adam/0", "sgd/1"} if step == 14 else set()

    common: dict[str, Any] = {
        "problem": problem(mlp, prepared(dtype=torch.float64)),
        "workload": workload(),
    }
    found = {one.identity: one for one in lanes.run(chosen, eliminate=eliminate, **common)}
    untouched = {one.identity: one for one in lanes.run(chosen, **common)}
    names = {run.identity for run in chosen}
    gone = {"adam/0", "sgd/1"}
    assert asked == [(0, names), (7, names), (14, names), (22, names - gone), (29, names - gone)]
    for name in names:
        if name in gone:
            assert found[name].validation[:3] == untouched[name].validation[:3]
            assert found[name].validation[3:] == [None] * 3
            assert found[name].diverged_at is None
            assert found[name].test_predictions == []
        else:
            assert_alike(found[name], untouched[name])


def test_progress_tells_steps_evaluations_and_the_end() -> None:
    told: list[lanes.LaneProgress] = []
    found = lanes.run(
        runs(2),
        problem(mlp, prepared(dtype=torch.float64)),
        workload(),
        chunk=3,
        watch=told.append,
    )
    assert {each.chunks for each in told} == {2}
    assert [each.step for each in told if each.chunk == 1 and each.validation] == [0, 7, 14, 22, 29, 36]
    ends = [each for each in told if each.finished]
    assert [each.chunk for each in ends] == [0, 1]
    assert {one.identity: one for each in ends for one in each.finished} == {
        one.identity: one for one in found
    }
    assert all(each.steps == 36 for each in told)


def test_the_plan_keeps_seeds_and_rules_together() -> None:
    chosen = runs(4, seeds=(1, 2))
    chunks = plan(chosen, entries(), 5)
    assert sorted(run.identity for each in chunks for run in each) == sorted(run.identity for run in chosen)
    assert [len(each) for each in chunks] == [4, 4, 4]
    assert [{run.seed for run in each} for each in chunks] == [{1}, {1, 2}, {2}]
    for each in chunks:
        names = [run.setting.optimizer for run in each]
        assert len(list(dict.fromkeys(names))) == 1 + sum(a != b for a, b in itertools.pairwise(names))
    assert plan([], entries(), 5) == []


def test_a_run_is_unchanged_by_what_its_factory_and_data_are_used_for() -> None:
    data = prepared(dtype=torch.float64)
    before = copy.deepcopy(data.train)
    common: dict[str, Any] = {"problem": problem(mlp, data), "workload": workload()}
    first = lanes.run(runs(1), **common)
    assert torch.equal(before.inputs, data.train.inputs)
    assert lanes.run(runs(1), **common) == first


def test_what_lanes_cannot_run_is_said() -> None:
    data = prepared(dtype=torch.float64)
    own = catalogue.resolve("torch.optim:RAdam")
    run = Run(identity="a", setting=Setting(optimizer="torch.optim:RAdam", hyperparameters={}), seed=1)
    with pytest.raises(RuleError, match="RAdam is a torch class"):
        lanes.run([run], problem(mlp, data, optimizers={"torch.optim:RAdam": own}), workload())
    with pytest.raises(DataError, match="fewer than one batch"):
        lanes.run(runs(1), problem(mlp, data), workload(batch_size=151))
    with pytest.raises(ModelError, match="recurrent"):
        lanes.run(runs(1), problem(lambda shape, outputs: nn.LSTM(16, outputs), data), workload())
