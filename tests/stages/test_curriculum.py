"""Difficulties, weights of examples in a loss, and the stages that a curriculum writes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from stages import test_blurring
from thalweg.errors import DataError, ModelError, OptionError
from thalweg.objectives.dividing import Division
from thalweg.run.sampler import Batches
from thalweg.stages.curriculum import ExampleWeights, curriculum, curriculum_controls
from thalweg.stages.difficulty import as_difficulty, difficulty_by, difficulty_of, relative_ranks
from thalweg.stages.progress import Ramp
from thalweg.stages.stage import GIVEN
from thalweg.stages.weighting import WeightedLoss, WeightedTargets, example_losses
from thalweg.strategies import Strategy
from thalweg.training import FullyShardedDataParallel
from training import pairs

G = torch.Generator().manual_seed(0)
X = torch.randn(40, 5, generator=G, dtype=torch.float64)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()
DIFFICULTY = X.norm(dim=1)


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()


# Numbers that change within a stage ---------------------------------------------------------------------


def test_ramps_go_as_their_formulas_say() -> None:
    def at(shape: Any, s: float) -> float:
        return Ramp(start=0.2, end=0.8, until=0.5, shape=shape, levels=4)(s)

    for s in (0.0, 0.1, 0.2, 0.3, 0.49, 0.5, 0.7, 1.0):
        q = min(1.0, s / 0.5)
        assert at("linear", s) == pytest.approx(0.2 + 0.6 * q)
        assert at("root", s) == pytest.approx((0.04 + 0.6 * q) ** 0.5)
        assert at("geometric", s) == pytest.approx(0.2 * 4**q)
        assert at("cosine", s) == pytest.approx(0.5 - 0.3 * math.cos(math.pi * q))
        assert at("steps", s) == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8][int(4 * q)])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"start": math.nan}, "start of a ramp is nan"),
        ({"start": 0.1, "until": 0.0}, "until of a ramp is 0"),
        ({"start": 0.0, "shape": "geometric"}, "goes over 0"),
        ({"start": -1.0, "shape": "root"}, "goes over -1"),
        ({"start": 0.0, "shape": "steps", "levels": 1}, "levels of a ramp is 1"),
        ({"start": 0.0, "shape": "spline"}, "shape of a ramp is 'spline'"),
    ],
)  # fmt: skip
def test_a_ramp_that_cannot_be_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Ramp(**given)


# Difficulties -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1.0, math.nan], "the difficulty of example 1 is nan"), ([math.inf, 0.0], "of example 0 is inf"),
        ([2, 2, 2], "of all 3 examples is 2, so that none is easier"), ([[1, 2], [3, 4]], r"shape \[2, 2\]"),
        (["a", "b"], "type list"), ([], "of all 0 examples"), (torch.ones(1), "of all 1 examples"),
    ],
)  # fmt: skip
def test_a_difficulty_that_is_none_is_refused_in_a_sentence(values: Any, said: str) -> None:
    for wants in (as_difficulty, lambda v: curriculum(v, epochs=1), ExampleWeights):
        with pytest.raises(DataError, match=said):
            wants(values)  # type: ignore[operator]


@pytest.mark.parametrize("kind", [list, tuple, np.array, torch.tensor])
def test_difficulties_come_in_any_form(kind: Callable[[Any], Any]) -> None:
    assert as_difficulty(kind([3, 1, 2])).tolist() == [3.0, 1.0, 2.0]
    assert as_difficulty(np.float32([[0.5], [1]])).dtype == torch.float64


def test_ranks_go_from_0_to_1_and_equal_examples_share_theirs() -> None:
    from scipy.stats import rankdata

    values = torch.tensor([3.0, 3.0, 0.0, 7.0, 3.0, -1.0])
    expected = (rankdata(values.numpy()) - 1) / 5
    assert relative_ranks(values).tolist() == pytest.approx(expected.tolist())


LOSSES: dict[str, tuple[Any, Callable[[Tensor, Tensor], Tensor]]] = {
    "name": ("cross-entropy", lambda o, y: F.cross_entropy(o, y, reduction="none")),
    "function of torch's": (F.cross_entropy, lambda o, y: F.cross_entropy(o, y, reduction="none")),
    "module": (nn.MultiMarginLoss(), lambda o, y: F.multi_margin_loss(o, y, reduction="none")),
    "own": (
        lambda o, y: (o.logsumexp(1) - o[range(len(y)), y]).mean(),
        lambda o, y: F.cross_entropy(o, y, reduction="none"),
    ),
    "own sum": (
        lambda o, y: (o - y[:, None]).square().sum(),
        lambda o, y: (o - y[:, None]).square().sum(1),
    ),
    # looks at numbers, so that it can't be computed for many at once
    "own with a condition": (
        lambda o, y: o.abs().sum(1).mean() if float(o.sum()) > 0 else o.square().sum(1).mean(),
        lambda o, y: torch.where(o.sum(1) > 0, o.abs().sum(1), o.square().sum(1)),
    ),
}


@pytest.mark.parametrize("case", LOSSES)
def test_a_models_loss_of_each_example_is_its_difficulty(case: str) -> None:
    loss, each = LOSSES[case]
    model = nn.Sequential(network(), nn.Dropout(0.5), nn.BatchNorm1d(3).double())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = difficulty_of(model, (X, Y), loss=loss, batch_size=7)
    assert all(part.training for part in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with torch.no_grad():
        expected = each(model.eval()(X), Y)
    torch.testing.assert_close(found, expected.double())


def test_margins_are_the_best_other_score_less_that_of_the_class() -> None:
    model = network()
    scores = model(X).detach()
    expected = [
        max(row[c] for c in range(3) if c != y) - row[y] for row, y in zip(scores.tolist(), Y, strict=True)
    ]
    for data in (
        (X, Y),
        {"x": X, "label": Y},
        TensorDataset(X, Y),
        (X, F.one_hot(Y)),
        (X.numpy(), Y.numpy()),
    ):
        found = difficulty_of(
            model, data if isinstance(data, tuple) is False or data[0] is X else (X, Y), by="margin"
        )
        assert found.tolist() == pytest.approx(expected)
    one = nn.Linear(5, 1).double()
    wanted = torch.where(Y > 0, -1, 1) * one(X)[:, 0]
    torch.testing.assert_close(difficulty_of(one, (X, (Y > 0).long()), by="margin"), wanted.detach())


def test_difficulties_of_batches_and_of_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="DataLoader gives batches"):
        difficulty_of(network(), DataLoader(TensorDataset(X, Y)))
    with pytest.raises(DataError, match="have no margin"):
        difficulty_of(network(), (X, X[:, 0]), by="margin")
    with pytest.raises(OptionError, match="by is 'length', but must be loss or margin"):
        difficulty_of(network(), (X, Y), by="length")  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"'total' gives shape \[\] for 40 examples"):
        difficulty_by(total, (X, Y))


def total(inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs.sum()


# Weights in a loss --------------------------------------------------------------------------------------

WEIGHTS = torch.rand(40, generator=G, dtype=torch.float64) * 2
WORDS = torch.randint(0, 3, (40, 4), generator=G)
WORDS[::3, 2:] = -100
OUTPUTS = torch.randn(40, 3, generator=G, dtype=torch.float64)
SCORES = torch.randn(40, 3, 4, generator=G, dtype=torch.float64)
CLASS_WEIGHTS = torch.tensor([0.5, 1.0, 3.0], dtype=torch.float64)


def each_of_classes(o: Tensor, t: Tensor) -> Tensor:
    return F.cross_entropy(o, t, reduction="none")


def _words(o: Tensor, t: Tensor, w: Tensor) -> Tensor:
    each = F.cross_entropy(o, t, reduction="none", ignore_index=-100)
    return (w[:, None] * each).sum() / (t != -100).sum()


def _classes(o: Tensor, t: Tensor, w: Tensor) -> Tensor:
    return (w * F.cross_entropy(o, t, CLASS_WEIGHTS, reduction="none")).sum() / CLASS_WEIGHTS[t].sum()


def _mean(each: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda o, t, w: (w * each(o, t)).mean()


def _sum(each: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    return lambda o, t, w: (w * each(o, t)).sum()


def _one_hot(o: Tensor, t: Tensor) -> Tensor:
    return each_of_classes(o, t.argmax(1))


WEIGHTED: dict[str, tuple[Any, Tensor, Tensor, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "cross-entropy": ("cross-entropy", OUTPUTS, Y, _mean(each_of_classes)),
    "one-hot": ("cross-entropy", OUTPUTS, F.one_hot(Y, 3), _mean(_one_hot)),
    "words": ("cross-entropy", SCORES, WORDS, _words),
    "classes count": (nn.CrossEntropyLoss(CLASS_WEIGHTS), OUTPUTS, Y, _classes),
    "sum": (nn.CrossEntropyLoss(reduction="sum"), OUTPUTS, Y, _sum(each_of_classes)),
    "bce": ("bce", OUTPUTS[:, :1], (Y > 0).long(), _mean(lambda o, t: F.softplus((1 - 2 * t) * o[:, 0]))),
    "mse": ("mse", OUTPUTS[:, :1], X[:, 0], _mean(lambda o, t: (o[:, 0] - t).square())),
    "mse of columns": ("mse", OUTPUTS, X[:, :3], _mean(lambda o, t: (o - t).square().mean(1))),
    "huber": ("huber", OUTPUTS[:, 0], X[:, 0], _mean(lambda o, t: F.huber_loss(o, t, reduction="none"))),
    "own": (lambda o, t: (o - t).abs().mean(), OUTPUTS, X[:, :3], _mean(lambda o, t: (o - t).abs().mean(1))),
    "own sum": (lambda o, t: (o - t).abs().sum(), OUTPUTS, X[:, :3], _sum(lambda o, t: (o - t).abs().sum(1))),
    "own by torch's": (
        lambda o, t: F.cross_entropy(o, t) + 0.1 * o.square().mean(), OUTPUTS, Y,
        _mean(lambda o, t: F.cross_entropy(o, t, reduction="none") + 0.1 * o.square().mean(1)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WEIGHTED)
def test_examples_count_as_their_weights_say(case: str) -> None:
    loss, outputs, targets, twin = WEIGHTED[case]
    outputs = outputs.clone().requires_grad_()
    weighted = WeightedLoss(loss)
    found = weighted(outputs, WeightedTargets(targets, WEIGHTS))
    expected = twin(outputs, targets, WEIGHTS)
    torch.testing.assert_close(found, expected)
    slopes = [torch.autograd.grad(value, outputs)[0] for value in (found, expected)]
    torch.testing.assert_close(slopes[0], slopes[1])
    # where all count 1 it is the loss itself, which it also is where nothing counts at all
    ones = weighted(outputs, WeightedTargets(targets, torch.ones(40, dtype=torch.float64)))
    torch.testing.assert_close(ones, weighted(outputs, targets))


@pytest.mark.parametrize("case", WEIGHTED)
def test_a_weighted_loss_is_put_together_from_parts_of_a_batch(case: str) -> None:
    loss, outputs, targets, twin = WEIGHTED[case]

    class Whole:
        name = "weighted"
        function = staticmethod(WeightedLoss(loss))

        @staticmethod
        def compare(outputs: Any, targets: Any) -> tuple[Any, Any]:
            return outputs, targets

        @staticmethod
        def scalar(value: Any) -> Tensor:
            assert isinstance(value, Tensor)
            return value

    divide = Division(Whole(), remedy="no")
    both = WeightedTargets(targets, WEIGHTS)
    found = [divide.part(outputs[some], both[some]) for some in (slice(0, 13), slice(13, 26), slice(26, 40))]
    if found[0].kind == "sum":
        value = sum(float(part.value) for part in found)
    else:
        divisors = [float(part.divisor or 0.0) for part in found]
        value = sum(d * float(part.value) for d, part in zip(divisors, found, strict=True)) / sum(divisors)
    assert value == pytest.approx(float(twin(outputs, targets, WEIGHTS)), rel=1e-12)


def test_a_loss_of_a_whole_batch_takes_no_weights() -> None:
    weighted = WeightedLoss(lambda o, t: (o - t).square().mean().sqrt())
    with pytest.raises(OptionError, match="isn't the mean over its examples"):
        weighted(OUTPUTS, WeightedTargets(X[:, :3], WEIGHTS))


def test_weights_are_1_on_average_over_the_data_and_follow_the_emphasis() -> None:
    weights = ExampleWeights(DIFFICULTY)
    for progress in (0.0, 0.3, 1.0):
        found = weights.at(torch.arange(40), progress)
        emphasis = torch.exp(-5 * (1 - progress) * relative_ranks(DIFFICULTY))
        torch.testing.assert_close(found, emphasis / emphasis.mean())


def by_hand(kind: str, parts: int = 1) -> nn.Module:
    """A curriculum in plain torch: 3 epochs of batches of 8."""
    model, total = network(), 15
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    [stage] = curriculum(DIFFICULTY, kind, loss="cross-entropy", epochs=3)  # type: ignore[arg-type]
    assert stage.order is not None
    order = Batches(40, seed=6, size=8) if kind == "weight" else stage.order(40, 6, 8)
    ranks = relative_ranks(DIFFICULTY)
    for step in range(total):
        chosen = order.take(step / total)
        each = F.cross_entropy(model(X[chosen]), Y[chosen], reduction="none")
        weights = torch.ones(8, dtype=torch.float64)
        if kind == "weight":
            emphasis = torch.exp(-5 * (1 - min(1.0, step / total / 0.8)) * ranks)
            weights = (emphasis / emphasis.mean())[chosen].float().double()
        optimizer.zero_grad()
        (weights * each).mean().backward()
        optimizer.step()
    return model


def trained(kind: str, **more: Any) -> nn.Module:
    """The same by ``fit``, with what the stage says."""
    [stage] = curriculum(DIFFICULTY, kind, loss="cross-entropy", epochs=3)  # type: ignore[arg-type]
    model = network()
    assert stage.strategies is GIVEN
    settings: dict[str, Any] = {"data": (X, Y), "loss": stage.loss, "strategies": list(stage.adds)}
    settings |= {"order": stage.order, "epochs": 3, "batch_size": 8, "seed": 6, **more}
    thalweg.fit(
        model, settings.pop("data"), settings.pop("loss"), lambda p: torch.optim.SGD(p, lr=0.1), **settings
    )
    return model


def alike(one: nn.Module, other: nn.Module) -> None:
    for name, value in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-11, atol=1e-12, msg=name)


KINDS = ("stochastic", "deterministic", "frequency", "weight")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [1, 3])
def test_a_curriculum_is_what_a_loop_in_plain_torch_does(kind: str, parts: int) -> None:
    validation = {"validation": (X[:9], Y[:9]), "metric": "accuracy"}
    alike(by_hand(kind), trained(kind, accumulate=parts, **validation))


class Ends(Strategy):
    """Ends a training at a step without being asked."""

    observes = True

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def after_step(self, trainer: Any) -> None:
        if trainer.updates == self.at:
            raise pairs.Gone


@pytest.mark.parametrize("kind", KINDS)
def test_a_curriculum_that_is_taken_up_again_ends_with_the_same_bits(kind: str, tmp_path: Path) -> None:
    whole = trained(kind)
    [stage] = curriculum(DIFFICULTY, kind, loss="cross-entropy", epochs=3)  # type: ignore[arg-type]
    keeps = {"out": tmp_path / "run", "checkpoint_seconds": 0.0}
    with pytest.raises(pairs.Gone), pairs.written_at_once():
        trained(kind, strategies=[*stage.adds, Ends(9)], **keeps)
    again = trained(kind, resume=True, **keeps)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("validation", [{}, {"validation": (X[:9], Y[:9])}])
def test_fit_carries_out_the_stage_of_a_curriculum(kind: Any, validation: dict[str, Any]) -> None:
    stages = curriculum(DIFFICULTY, kind, loss="cross-entropy", epochs=3, seed=6, metric="accuracy")
    model = network()
    fitted = thalweg.fit(
        model, (X, Y), "cross-entropy", functools.partial(torch.optim.SGD, lr=0.1), stages=stages,
        batch_size=8, **validation,
    )  # fmt: skip
    assert [stage.name for stage in fitted.stages] == ["curriculum"]
    alike(by_hand(kind), model)


def _in_two(rank: int, folder: Path) -> None:
    made: dict[str, Callable[[], nn.Module]] = {
        kind: functools.partial(trained, kind, backend=pairs.BACKENDS["ddp"](), accumulate=2)
        for kind in KINDS
    }
    made["blurred"] = lambda: test_blurring.trained(backend=pairs.BACKENDS["ddp"](), accumulate=2)
    for name, make in made.items():
        model = make()
        if rank == 0:
            torch.save(model.state_dict(), folder / f"{name}.pt")
    try:
        test_blurring.fitted(backend=FullyShardedDataParallel(unit_parameters=1))
    except ModelError as problem:
        (folder / f"refused.{rank}").write_text(str(problem))
    fitted = pairs.outcome(test_blurring.fitted(backend=pairs.BACKENDS["fsdp2"]()))
    if rank == 0:
        state = {name.removeprefix("model."): value for name, value in fitted["model"].items()}
        torch.save(state, folder / "sharded.pt")


@pytest.mark.slow
def test_two_processes_train_as_one_in_any_order_and_blurred(tmp_path: Path) -> None:
    assert pairs.run(_in_two, tmp_path, folder=tmp_path) == [0, 0], pairs.said(tmp_path)
    expected = {kind: by_hand(kind) for kind in KINDS}
    expected |= {name: test_blurring.by_hand() for name in ("blurred", "sharded")}
    for name, model in expected.items():
        found = network() if name in KINDS else test_blurring.network()
        found.load_state_dict(torch.load(tmp_path / f"{name}.pt"))
        alike(model, found)
    for rank in range(2):
        assert "are gathered layer by layer" in (tmp_path / f"refused.{rank}").read_text()


# Stages -------------------------------------------------------------------------------------------------


def test_the_stages_of_a_curriculum_and_its_controls() -> None:
    given = {"epochs": 4, "pace": Ramp(start=0.3), "metric": "accuracy"}
    for kind in KINDS[:3]:
        [stage] = curriculum(DIFFICULTY, kind, name="c", **given)  # type: ignore[arg-type]
        controls = curriculum_controls(DIFFICULTY, kind, name="c", **given)  # type: ignore[arg-type]
        assert list(controls) == ["reverse", "random", "plain"]
        every = [stage, *itertools.chain(*controls.values())]
        assert [each.name for each in every] == ["c", "c reverse", "c random", "c plain"]
        assert all(each.epochs == 4 and each.metric == "accuracy" for each in every)
        assert len({str(each.about) for each in every}) == 4
        orders = [each.order(40, 0, 10) for each in every if each.order is not None]
        means = [
            float(DIFFICULTY[torch.cat([order.take(0.0) for _ in range(40)])].mean()) for order in orders
        ]
        assert means[0] < min(means[2], means[3])
        assert max(means[2], means[3]) < means[1]


def test_controls_by_weight_have_their_weights() -> None:
    controls = curriculum_controls(DIFFICULTY, "weight", loss="mse", steps=9)
    weights = [stage.adds[0] for [stage] in controls.values() if stage.adds]
    assert len(weights) == 2
    hardest = torch.tensor([int(DIFFICULTY.argmax())])
    assert isinstance(weights[0], ExampleWeights)
    assert float(weights[0].at(hardest, 0.0)) == pytest.approx(
        float(ExampleWeights(-DIFFICULTY).at(hardest, 0.0))
    )
    assert controls["plain"][0].loss == "mse"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"kind": "gradual"}, "kind is 'gradual', but must be"),
        ({"kind": "weight"}, "needs to know the loss"),
        ({"pace": 2.0}, "pace is 2.0"), ({"hard": 0.0}, "hard is 0.0"),
        ({"emphasis": lambda r, s: r}, "an emphasis is given, but a stochastic curriculum goes by its pace"),
        ({"emphasis": lambda r, s: r, "pace": 0.5, "kind": "frequency"}, "emphasis and pace are both given"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_said(given: dict[str, Any], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        curriculum(DIFFICULTY, epochs=1, **given)


def test_batches_and_other_data_have_no_curriculum() -> None:
    with pytest.raises(DataError, match="order is of examples that can be had one by one"):
        trained("weight", data=DataLoader(TensorDataset(X, Y), batch_size=8))
    with pytest.raises(DataError, match="40 difficulties for 39 training examples"):
        trained("weight", data=(X[1:], Y[1:]))
    with pytest.raises(DataError, match="40 difficulties for 39 training examples"):
        trained("weight", data=(X[1:], Y[1:]), order=None)


def test_example_losses_are_those_of_batches_of_one() -> None:
    from thalweg.objectives import as_loss

    found = example_losses(as_loss(nn.CrossEntropyLoss(CLASS_WEIGHTS)), OUTPUTS, Y)
    expected = [F.cross_entropy(OUTPUTS[i : i + 1], Y[i : i + 1], CLASS_WEIGHTS) for i in range(40)]
    torch.testing.assert_close(found, torch.stack(expected))
