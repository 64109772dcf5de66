"""Stages, carried out: what is trained, what stays, what goes on, and what a kill leaves."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import forking
import thalweg
from thalweg.errors import Interrupted, OptionError, UserError
from thalweg.randomness.streams import seed32
from thalweg.report.training import read as read_page
from thalweg.run.directory import RunDirectory
from thalweg.run.sampler import orders
from thalweg.stages import Prefixed, Stage
from thalweg.strategies import EarlyStopping, Strategy
from thalweg.training import Fitted, computed
from thalweg.training.watch import TrainingWatcher
from training import pairs

X = torch.randn(50, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()
SIZE = 12


class Net(nn.Module):
    def __init__(self, drop: float = 0.0) -> None:
        super().__init__()
        # a bias that batch norm takes away has a gradient of rounding errors, which Adam makes large
        self.body = nn.Sequential(nn.Linear(5, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(drop))
        self.middle = nn.Sequential(nn.Linear(8, 8), nn.Tanh())
        self.head = nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(self.middle(self.body(inputs)))
        return found


class Headed(nn.Module):
    """The first layers with a head of their own."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.body, self.own = net.body, nn.Linear(8, 3, dtype=torch.float64)

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.own(self.body(inputs))
        return found


def network(drop: float = 0.0) -> Net:
    torch.manual_seed(3)
    return Net(drop).double()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02, weight_decay=0.01)


def fit(model: nn.Module, stages: list[Stage], **more: Any) -> Fitted:
    given = {
        "validation": (X[:20], Y[:20]), "metric": "accuracy", "epochs": 2, "batch_size": SIZE, "seed": 7,
        "evaluations": 4, "checkpoint_seconds": 0.0, "optimizer": adam, "loss": "cross-entropy", **more,
    }  # fmt: skip
    loss, optimizer = given.pop("loss"), given.pop("optimizer")
    return thalweg.fit(model, (X, Y), loss, optimizer, stages=stages, **given)


def three() -> list[Stage]:
    """Every kind of stage: with parts of its own, with much frozen, with the optimizer's state carried."""
    return [
        Stage(name="first", build=Headed),
        Stage(
            name="second", trains=["middle", "head"], result="best", strategies=[EarlyStopping(patience=9)]
        ),
        Stage(name="third", carries=True, epochs=1),
    ]  # fmt: skip


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What is trained -----------------------------------------------------------------------------------------


def batches(name: str, epochs: int) -> list[Tensor]:
    seed = seed32(7, "stage", name)
    found = []
    for epoch in range(epochs):
        order = orders(len(X), [seed], epoch)[0]
        found += [order[begin : begin + SIZE] for begin in range(0, len(X) - SIZE + 1, SIZE)]
    return found


def test_stages_train_what_a_loop_in_plain_torch_trains() -> None:
    weights = nn.Linear(8, 3, dtype=torch.float64).state_dict()

    def build(net: nn.Module) -> nn.Module:
        assert isinstance(net, Net)
        made = Headed(net)
        made.own.load_state_dict(weights)
        return made

    model, twin = network(), network()
    stages = [
        Stage(name="first", build=build),
        Stage(name="second", trains=["middle"], epochs=3),
        Stage(name="third", trains=["middle", "head.bias"], carries=True, steps=5),
    ]
    fitted = fit(model, stages)

    own = nn.Linear(8, 3, dtype=torch.float64)
    own.load_state_dict(weights)
    optimizer = adam([*twin.body.parameters(), *own.parameters()])
    for rows in batches("first", 2):
        optimizer.zero_grad()
        F.cross_entropy(own(twin.body(X[rows])), Y[rows]).backward()
        optimizer.step()
    twin.body.eval()
    second = adam(twin.middle.parameters())
    third = adam([*twin.middle.parameters(), twin.head.bias])
    for name, optimizer, taken in (
        ("second", second, batches("second", 3)),
        ("third", third, batches("third", 2)[:5]),
    ):
        if name == "third":
            for p in twin.middle.parameters():
                third.state[p] = second.state[p]
        for rows in taken:
            twin.zero_grad()
            F.cross_entropy(twin(X[rows]), Y[rows]).backward()
            optimizer.step()
    for (name, mine), theirs in zip(model.state_dict().items(), twin.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-11, atol=1e-13, msg=lambda m, n=name: f"{n}: {m}")
    assert [(each.name, each.began, each.updates) for each in fitted.stages] == [
        ("first", 0, 8), ("second", 8, 12), ("third", 20, 5),
    ]  # fmt: skip
    assert fitted.updates == 25


def test_without_carrying_the_optimizer_begins_anew() -> None:
    one, other = network(), network()
    fit(one, [Stage(name="a"), Stage(name="b")])
    fit(other, [Stage(name="a"), Stage(name="b", carries=True)])
    assert not same(one.state_dict(), other.state_dict())


class Meddling(Strategy):
    """Puts everything into training mode, at every place."""

    def batch(self, trainer: Any, inputs: Any, targets: Tensor, keys: Any) -> tuple[Any, Tensor]:
        trainer.model.train()
        return inputs, targets

    def before_step(self, trainer: Any) -> None:
        for part in trainer.model.modules():
            part.training = True

    def after_step(self, trainer: Any) -> None:
        trainer.model.train()


@pytest.mark.parametrize("optimizer", [adam, "momentum", "adamw", "lbfgs"])
def test_what_is_frozen_doesnt_change_by_a_bit(optimizer: Any) -> None:
    model = network(drop=0.5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held: list[int] = []

    class Counting(Meddling):
        def after_step(self, trainer: Any) -> None:
            held[:] = [sum(p.numel() for group in trainer.optimizer.param_groups for p in group["params"])]

    fitted = fit(
        model, [Stage(name="a", trains=["middle"], strategies=[Counting()])], optimizer=optimizer,
        hyperparameters=None if callable(optimizer) else {"lr": 0.05},
    )  # fmt: skip
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"middle.0.weight", "middle.0.bias"}
    assert held == [72]
    assert fitted.stages[0].trained == 72


def test_temporary_parts_are_gone_and_the_model_is_as_it_was_beside_its_weights() -> None:
    model = network()
    model.head.bias.requires_grad_(False)
    attributes = {name: set(vars(part)) for name, part in model.named_modules()}
    fitted = fit(model, three())
    assert fitted.model is model
    Net().double().load_state_dict(model.state_dict())
    assert {name: set(vars(part)) for name, part in model.named_modules()} == attributes
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert not any(part.training for part in model.modules())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    # a next training trains all of it again
    before = model.body[1].running_mean.clone()
    fit(model, [Stage(name="again")])
    assert not torch.equal(model.body[1].running_mean, before)


def test_the_best_of_a_stage_is_its_own() -> None:
    class Inner(nn.Module):
        """Its outputs mean nothing to the metric."""

        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.body = net.body

        def forward(self, inputs: Tensor) -> Tensor:
            found: Tensor = self.body(inputs)
            return found

    stages = [
        Stage(name="inner", build=Inner, loss=lambda outputs, targets: outputs.pow(2).mean(), metric=None),
        Stage(name="last"),
    ]
    fitted = fit(network(), stages)
    assert fitted.stages[0].best is not None
    assert fitted.best == fitted.stages[1].best
    assert fitted.best is not None
    assert fitted.best.validation is not None
    assert fitted.best_state is not None
    assert fitted.best_state.keys() == network().state_dict().keys()


def test_the_best_weights_of_a_last_stage_with_parts_of_its_own_are_the_models() -> None:
    model = network()
    fitted = fit(model, [Stage(name="a", build=Headed, result="best")])
    assert fitted.best_state is not None
    assert same(fitted.best_state, model.state_dict())


def test_begin_and_build_draw_by_the_seed_of_the_stage_alone() -> None:
    def drawn(stages: list[Stage], seed: int) -> Tensor:
        values: list[Tensor] = []
        torch.manual_seed(len(stages) + seed)

        def build(net: nn.Module) -> nn.Module:
            made = Headed(net)  # type: ignore[arg-type]
            values.append(made.own.weight.detach().clone())
            return made

        fit(network(), [*stages, Stage(name="x", build=build, epochs=1)], seed=seed)
        assert torch.equal(values[0], values[1])
        return values[0]

    alone = drawn([], 7)
    assert torch.equal(drawn([Stage(name="before", epochs=1)], 7), alone)
    assert not torch.equal(drawn([], 8), alone)


def test_a_stage_that_fails_ends_the_list(tmp_path: Path) -> None:
    bad = Stage(
        name="bad", optimizer="sgd", hyperparameters={"lr": 1e6},
        loss=lambda outputs, targets: outputs.pow(4).mean(),
    )  # fmt: skip
    fitted = fit(network(), [bad, Stage(name="never")], out=tmp_path / "run")
    assert fitted.failed
    assert [each.name for each in fitted.stages] == ["bad"]
    assert fitted.stopped is not None
    assert "no longer finite" in fitted.stopped
    # what the stage was judged by isn't what the model would be
    assert fitted.best_state is None
    page = read_page(tmp_path / "run")
    assert (page.finished, page.failed) == (True, True)
    assert "has failed in the stage 'bad'" in page.lead
    assert "no longer finite" in page.lead


# A frozen prefix ----------------------------------------------------------------------------------------


class Counted(nn.Module):
    """Counts its calls, and may draw in evaluation mode too."""

    def __init__(self, inner: nn.Module, noise: float = 0.0) -> None:
        super().__init__()
        self.inner, self.noise, self.calls = inner, noise, list[int]()

    def forward(self, inputs: Tensor) -> Tensor:
        self.calls.append(len(inputs))
        found: Tensor = self.inner(inputs)
        return found + self.noise * torch.randn_like(found) if self.noise else found


@pytest.mark.parametrize("gives", ["a tensor", "a tuple", "a dictionary"])
def test_a_frozen_prefix_is_computed_once(gives: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Giving(nn.Module):
        def __init__(self, body: nn.Module) -> None:
            super().__init__()
            self.body = body

        def forward(self, inputs: Tensor) -> Any:
            z = self.body(inputs)
            return {"a tensor": z, "a tuple": (z, inputs), "a dictionary": {"z": z, "raw": inputs}}[gives]

    class Rest(nn.Module):
        def __init__(self, net: Net) -> None:
            super().__init__()
            self.middle, self.head = net.middle, net.head

        def forward(self, z: Tensor, raw: Tensor | None = None) -> Tensor:
            found: Tensor = self.head(self.middle(z))
            return found if raw is None else found + raw[:, :3]

    made: list[Counted] = []

    def build(net: nn.Module) -> nn.Module:
        made.append(Counted(net.body))
        return Prefixed(Giving(made[-1]), Rest(net))  # type: ignore[arg-type]

    stages = [Stage(name="a", trains=["middle", "head"], build=build, result="best")]
    model, fresh = network(drop=0.5), network(drop=0.5)
    fitted = fit(model, stages)
    # a look at the first block of each split, then both whole
    assert made[-1].calls == [50, 20, 50, 20]
    assert fitted.best_state is not None
    assert same(fitted.best_state, model.state_dict())
    monkeypatch.setattr(computed, "can_be_computed", None)
    monkeypatch.setattr("thalweg.training.staged.can_be_computed", lambda *given: False)
    fit(fresh, stages)
    assert len(made[-1].calls) > 10
    for mine, theirs in zip(model.state_dict().values(), fresh.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("why", ["it draws", "it is trained", "batches change", "no room", "half", "loader"])
def test_a_prefix_that_doesnt_give_the_same_each_time_is_run_at_every_step(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Counted] = []

    def build(net: nn.Module) -> nn.Module:
        made.append(Counted(net.body, noise=0.1 if why == "it draws" else 0.0))
        return Prefixed(made[-1], nn.Sequential(net.middle, net.head))

    if why == "no room":
        monkeypatch.setattr(computed, "free_bytes", lambda: 1000)
    stage = Stage(
        name="a", build=build, trains=["middle", "body.0"] if why == "it is trained" else ["middle"],
        strategies=[Meddling()] if why == "batches change" else [],
    )  # fmt: skip
    data = DataLoader(TensorDataset(X, Y), batch_size=10) if why == "loader" else (X, Y)
    thalweg.fit(
        network(), data, "cross-entropy", adam, stages=[stage], epochs=2, batch_size=10,
        precision="bfloat16" if why == "half" else "float32",
    )  # fmt: skip
    assert len(made[-1].calls) >= 10


# Bad input -----------------------------------------------------------------------------------------------


def _narrow(net: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 3, dtype=torch.float64), net.head)


def _add_a_part(net: nn.Module) -> None:
    net.new = nn.Linear(3, 3, dtype=torch.float64)


def _rebuilt(net: nn.Module) -> nn.Module:
    net.body = nn.Sequential(nn.Flatten(), net.body)
    return net


@pytest.mark.parametrize(
    ("stage", "said"),
    [
        (Stage(name="b", trains=["hed"]), "'hed' of trains of the stage 'b' matches no parameter or part"),
        (Stage(name="b", trains=["middle.1"]), "in the stage 'b': nothing would be trained"),
        (Stage(name="b", build=_narrow), "in the stage 'b': the model Sequential can't take inputs"),
        (Stage(name="b", build=lambda net: None), "in the stage 'b': build gives NoneType"),  # type: ignore[arg-type, return-value]
        (Stage(name="b", optimizer="adma"), "in the stage 'b': "),
        (Stage(name="b", loss="mse"), "in the stage 'b': "),
        (Stage(name="b", schedule="cosin"), "in the stage 'b': "),
        (
            Stage(name="b", optimizer=adam([nn.Parameter(torch.zeros(1))])),
            "the optimizer of the stage 'b' is",
        ),
        (Stage(name="b", validation=None, strategies=[EarlyStopping()]), "in the stage 'b': "),
        (Stage(name="b", batch_size=51), "in the stage 'b': "),
        (
            Stage(name="b", begin=_add_a_part),
            "in the stage 'b': begin changes what the model consists of ('n",
        ),
        (Stage(name="b", begin=lambda net: setattr(net, "head", nn.Linear(8, 4))), "in the stage 'b': begin"),
        (Stage(name="b", begin=lambda net: net.head.half()), "in the stage 'b': begin"),  # type: ignore[func-returns-value]
        (Stage(name="b", build=_rebuilt), "in the stage 'b': build changes what the model consists of ('b"),
    ],
)
def test_what_is_wrong_in_the_last_stage_is_said_before_the_first_begins(
    stage: Stage, said: str, tmp_path: Path
) -> None:
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    with pytest.raises(UserError) as found:
        fit(model, [Stage(name="a", build=Headed), stage], out=tmp_path / "run")
    assert str(found.value).startswith(said)
    assert same(model.state_dict(), before)
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert not (tmp_path / "run").exists()


class _Refused(Exception):
    pass


@pytest.mark.parametrize("which", ["metric", "validation_loss", "loss", "in a loader"])
def test_what_scores_a_stage_is_tried_before_the_first_begins(which: str, tmp_path: Path) -> None:
    def raises(outputs: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return F.cross_entropy(outputs, targets)
        raise _Refused("not of these data")

    key = "metric" if which == "in a loader" else which
    stage = Stage(name="b", **{key: raises})
    if which == "in a loader":
        stage = replace(stage, validation=DataLoader(TensorDataset(X, Y), batch_size=10))
    began: list[str] = []
    first = Stage(name="a", adds=[Told(began)])
    with pytest.raises(_Refused) as found:
        fit(network(), [first, stage], out=tmp_path / "run")
    assert found.value.__notes__ == ["in the stage 'b'"]
    assert not began
    assert not (tmp_path / "run").exists()


class Told(Strategy):
    """Tells that a training has begun."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self.told = told

    def __deepcopy__(self, memo: Any) -> Told:
        return Told(self.told)

    def before_training(self, trainer: Any) -> None:
        self.told.append("begun")


def test_a_metric_that_needs_more_than_a_batch_isnt_refused() -> None:
    sizes: list[int] = []

    def of_many(outputs: Tensor, targets: Tensor) -> float:
        sizes.append(len(targets))
        if len(targets) < 500:
            raise _Refused("too few")
        return float((outputs.argmax(1) == targets).float().mean())

    inputs, targets = X.repeat(12, 1), Y.repeat(12)
    stages = [Stage(name="a", steps=2, metric="accuracy"), Stage(name="b", steps=2)]
    fitted = thalweg.fit(
        network(), (X, Y), "cross-entropy", adam, stages=stages, validation=(inputs, targets), metric=of_many,
    )  # fmt: skip
    assert not fitted.failed
    assert sizes[:2] == [256, 600]


def test_data_that_arent_finite_leave_no_directory(tmp_path: Path) -> None:
    inputs = X.clone()
    inputs[::5] = torch.nan
    with pytest.raises(UserError):
        thalweg.fit(
            network(), (inputs, Y), "cross-entropy", adam, stages=[Stage(name="a", epochs=1)],
            validation=(inputs, Y), out=tmp_path / "run",
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


# Resumed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 3}, "stages.third.epochs = 1, not 3"),
        ({"name": "other"}, "stages = ['first', 'second', 'third'], not ['first', 'second', 'other']"),
        ({"trains": ["head"]}, "stages.third.trains = None, not ['head']"),
        ({"about": {"sigma": 0.5}}, "stages.third.about = None, not {'sigma': 0.5}"),
    ],
)
def test_other_stages_are_refused_by_a_resume(change: dict[str, Any], said: str, finished: Path) -> None:
    stages = three()
    given = {"name": "third", "carries": True, "epochs": 1, **change}
    with pytest.raises(OptionError) as found:
        fit(network(), [*stages[:2], Stage(**given)], out=finished, resume=True)
    assert said in str(found.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stages") / "run"
    fit(network(drop=0.3), three(), out=folder)
    return folder


def test_a_finished_run_gives_its_result_again(finished: Path, undisturbed: Fitted) -> None:
    expected, found = undisturbed, fit(network(drop=0.3), three(), out=finished, resume=True)
    assert same(found.model.state_dict(), expected.model.state_dict())
    assert found.best_state is not None
    assert expected.best_state is not None
    assert same(found.best_state, expected.best_state)
    assert found.curve == expected.curve
    assert [each.curve for each in found.stages] == [each.curve for each in expected.stages]
    assert found.updates == expected.updates


def _child(out: Path, moment: int, resume: bool) -> None:
    os.fsync = lambda descriptor: None
    count = 0

    def dying(write: Callable[..., Any]) -> Callable[..., Any]:
        def one(*arguments: Any, **more: Any) -> Any:
            nonlocal count
            count += 1
            # a thread writes too
            mine = count
            if mine == moment:
                os._exit(9)
            made = write(*arguments, **more)
            if mine == -moment:
                os._exit(9)
            return made

        return one

    for name in ("append", "save_checkpoint", "write_bytes"):
        setattr(RunDirectory, name, dying(getattr(RunDirectory, name)))
    RunDirectory.create = classmethod(dying(RunDirectory.create.__func__))  # type: ignore[method-assign, attr-defined]
    fitted = fit(network(drop=0.3), three(), out=out, resume=resume)
    torch.save({"model": fitted.model.state_dict(), "curves": [s.curve for s in fitted.stages]}, out / "came")
    os._exit(0 if count < abs(moment) or not moment else 8)


def _run(out: Path, moment: int, *, resume: bool) -> int | None:
    process = forking.context().Process(target=_child, args=(out, moment, resume))
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def undisturbed() -> Fitted:
    return fit(network(drop=0.3), three())


@pytest.mark.skipif(os.name != "posix", reason="kills processes")
@pytest.mark.parametrize("moment", [2, 4, -4, 17, -25, 35, -37, 45])
def test_killed_at_any_moment_stages_end_with_the_bits_of_an_undisturbed_training(
    moment: int, tmp_path: Path, undisturbed: Fitted
) -> None:
    out = tmp_path / "run"
    codes = [_run(out, moment, resume=False)]
    codes.append(_run(out, abs(moment) // 3 + 3, resume=out.exists()))
    while codes[-1] == 9 and len(codes) < 4:
        codes.append(_run(out, 0, resume=out.exists()))
    assert codes[-1] == 0, codes
    assert 9 in codes, "nothing was killed"
    found = torch.load(out / "came", weights_only=False)
    assert same(found["model"], undisturbed.model.state_dict())
    assert found["curves"] == [each.curve for each in undisturbed.stages]


def test_interrupted_while_a_stage_is_prepared_it_goes_on(tmp_path: Path) -> None:
    asked = [True]

    def begin(net: nn.Module) -> None:
        with torch.no_grad():
            net.head.bias.add_(1.0)
        # the first call is the trial
        if len(asked) == 2 and asked.pop():
            raise KeyboardInterrupt
        asked.insert(0, False)

    def stages() -> list[Stage]:
        return [Stage(name="a", epochs=1), Stage(name="b", epochs=1, begin=begin)]

    with pytest.raises(Interrupted) as found:
        fit(network(), stages(), out=tmp_path / "run")
    assert "interrupted in the stage 'b'" in str(found.value)
    asked[:] = [False, False, False]
    resumed = fit(network(), stages(), out=tmp_path / "run", resume=True)
    expected = fit(network(), stages())
    assert same(resumed.model.state_dict(), expected.model.state_dict())


def test_a_stage_is_announced(capsys: pytest.CaptureFixture[str]) -> None:
    said: list[str] = []

    class Watcher(TrainingWatcher):
        def note(self, text: str) -> None:
            said.append(text)

    fit(network(), three()[:2], watcher=Watcher())
    assert said[0] == "stage 1 of 2, first: trains 83 of 83 parameters"
    assert said[1] == "stage 2 of 2, second: trains 99 of 155 parameters"


# Many processes ------------------------------------------------------------------------------------------


class Dying(Strategy):
    """Kills its process after so many steps of all stages; it may join a resume, since it only observes."""

    observes = True
    left: ClassVar[list[int]] = [0]

    def after_step(self, trainer: Any) -> None:
        self.left[0] -= 1
        if not self.left[0]:
            os._exit(9)


def four() -> list[Stage]:
    """Those, and one on a frozen prefix."""

    def build(net: nn.Module) -> nn.Module:
        assert isinstance(net, Net)
        return Prefixed(net.body, nn.Sequential(net.middle, net.head))

    return [*three(), Stage(name="on a prefix", epochs=1, trains=["middle", "head"], build=build)]


def _pair(rank: int, folder: Path, name: str, dies_after: int, out: Path | None, resume: bool) -> None:
    backend = pairs.BACKENDS[name]("cpu", sync_batch_norm=True)
    Dying.left[0] = dies_after
    stages = four()
    if dies_after:
        stages = [replace(stage, strategies=[*_given(stage), Dying()]) for stage in stages]
    fitted = fit(network(drop=0.2), stages, backend=backend, out=out, resume=resume)
    found = pairs.outcome(fitted, backend)
    found["stages"] = [
        [[e.step, e.train_loss or 0.0, e.validation_loss or 0.0] for e in each.curve]
        for each in fitted.stages
    ]
    found["alike"] = backend.collect([float(v.double().sum()) for v in found["model"].values()])
    if rank == 0:
        torch.save(found, folder / f"{name}.pt")


def _given(stage: Stage) -> list[Strategy]:
    return stage.strategies if isinstance(stage.strategies, list) else []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix" or not dist.is_gloo_available(), reason="needs gloo and fork")
@pytest.mark.parametrize("name", pairs.BACKENDS)
def test_two_processes_carry_out_stages_as_one_and_end_alike_after_kills(name: str, tmp_path: Path) -> None:
    def go(dies_after: int, out: Path | None, resume: bool) -> list[int | None]:
        return pairs.run(_pair, tmp_path, name, dies_after, out, resume, folder=tmp_path / "said")

    assert go(0, None, False) == [0, 0], pairs.said(tmp_path / "said")
    found = torch.load(tmp_path / f"{name}.pt", weights_only=False)
    assert found["alike"][0] == found["alike"][1]
    one = fit(network(drop=0.2), four())
    pairs.come_to_the_same(found, pairs.outcome(one), rtol=1e-9, atol=1e-10)
    curves = [[[e.step, e.train_loss or 0.0, e.validation_loss or 0.0] for e in s.curve] for s in one.stages]
    for mine, theirs in zip(found["stages"], curves, strict=True):
        torch.testing.assert_close(torch.tensor(mine), torch.tensor(theirs), rtol=1e-9, atol=1e-10)

    # in the second stage, and in the last, whose optimizer's state was carried over
    out = tmp_path / "out"
    for dies_after, resume in ((11, False), (9, True)):
        assert go(dies_after, out, resume) == [9, 9], pairs.said(tmp_path / "said")
    assert go(0, out, True) == [0, 0], pairs.said(tmp_path / "said")
    resumed = torch.load(tmp_path / f"{name}.pt", weights_only=False)
    assert same(resumed["model"], found["model"])
    assert same(resumed["best"], found["best"])
    assert resumed["stages"] == found["stages"]
    begun = {each["number"]: each for each in RunDirectory.read(out).events() if each["event"] == "stage"}
    # of shards no process has all that the prefix needs
    assert [begun[number]["once"] for number in range(1, 5)] == [False] * 3 + [name == "ddp"]


@pytest.mark.parametrize("optimizer", ["lbfgs", "bfgs", "cg-pr"])
def test_the_state_of_all_parameters_together_is_carried_too(optimizer: str) -> None:
    def trained(stages: list[Stage]) -> tuple[Tensor, list[str]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        fitted = thalweg.fit(
            model, (X, Y), "cross-entropy", optimizer, batch_size=50, steps=4,
            hyperparameters={"max_iter": 1}, stages=stages,
        )  # fmt: skip
        return torch.cat([p.detach().flatten() for p in model.parameters()]), fitted.notes

    whole, _ = trained([Stage(name="all")])
    carried, notes = trained([Stage(name="a", steps=2), Stage(name="b", steps=2, carries=True)])
    anew, _ = trained([Stage(name="a", steps=2), Stage(name="b", steps=2)])
    assert not notes
    torch.testing.assert_close(carried, whole, rtol=1e-8, atol=1e-10)
    assert (anew - whole).abs().max() > 1e-6
    _, notes = trained([Stage(name="a", steps=2, trains=["2"]), Stage(name="b", steps=2, carries=True)])
    assert "others are trained now" in notes[0]
    # another optimizer keeps another state, whichever it is
    for other, numbers in (("newton-cg", {"max_iter": 1}), ("adam", {"lr": 0.01})):
        before = Stage(name="a", steps=2, optimizer=other, hyperparameters=numbers)
        _, notes = trained([before, Stage(name="b", steps=2, carries=True)])
        assert "the stage before had another optimizer" in notes[0]


_KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adam": ("adam", {"lr": 0.01}),
    "adamw": ("adamw", {"lr": 0.01}),
    "momentum": ("momentum", {"lr": 0.01}),
    "muon": ("muon", {"lr": 0.01}),
    "lbfgs": ("lbfgs", {"max_iter": 1}),
    "torch's SGD": (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "torch's Adam": (torch.optim.Adam, {"lr": 0.01}),
    "torch's amsgrad": (torch.optim.Adam, {"lr": 0.01, "amsgrad": True}),
    "torch's Rprop": (torch.optim.Rprop, {"lr": 0.01}),
}


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("adam", "adamw", None),
        ("adam", "torch's Adam", None),
        ("torch's SGD", "momentum", None),
        ("torch's amsgrad", "torch's Adam", None),
        ("adam", "momentum", "the state that Adam of the stage before kept isn't what SGD keeps"),
        ("momentum", "torch's Adam", "the state that SGD of"),
        ("torch's Adam", "torch's amsgrad", "the state that Adam of the stage before kept isn't what Adam"),
        ("adam", "torch's Rprop", "isn't what Rprop keeps"),
        ("lbfgs", "adam", "the state that LBFGS of"),
        ("muon", "adam", "isn't what Adam keeps"),
    ],
)
def test_a_state_of_another_kind_isnt_carried_and_that_is_said(
    one: str, other: str, said: str | None
) -> None:
    def trained(carries: bool) -> tuple[Tensor, list[str]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
        (first, its), (second, others) = _KINDS[one], _KINDS[other]
        stages = [
            Stage(name="a", steps=2, optimizer=first, hyperparameters=its),
            Stage(name="b", steps=2, optimizer=second, hyperparameters=others, carries=carries),
        ]
        fitted = thalweg.fit(model, (X, Y), "cross-entropy", "sgd", batch_size=50, steps=2, stages=stages)
        return torch.cat([p.detach().flatten() for p in model.parameters()]), fitted.notes

    (carried, notes), (anew, none) = trained(True), trained(False)
    assert not none
    assert len(notes) == (said is not None)
    if said is not None:
        assert said in notes[0]
    assert torch.equal(carried, anew) == (said is not None)
