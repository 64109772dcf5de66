"""``fit`` against loops written by hand, on every kind of data, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg
from thalweg import catalogue
from thalweg.errors import DataError, OptionError, UserError
from thalweg.randomness import streams
from thalweg.randomness.keyed import Keyed, RunDraws
from thalweg.strategies import Averaging, BatchSize, Clipping, EarlyStopping, Guard, ReduceOnPlateau
from thalweg.training import Pattern, parameter_groups

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(70, 5, generator=GENERATOR)
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()


def network(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 3))


def equal(one: nn.Module, other: nn.Module) -> bool:
    return all(
        torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    )


def by_hand(clip: float | None = None, dropout: float = 0.0) -> nn.Module:
    model = network(dropout).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    draws, step, total = RunDraws(7, torch.device("cpu")), 0, 3 * (70 // 16)
    factors = thalweg.schedules.build("cosine", total=total)(np.arange(total))
    for epoch in range(3):
        order = torch.from_numpy(streams.order(70, seed=7, epoch=epoch))
        for begin in range(0, 64, 16):
            chosen = order[begin : begin + 16]
            optimizer.param_groups[0]["lr"] = 0.05 * float(factors[step])
            draws.step = step
            optimizer.zero_grad()
            with Keyed(draws):
                loss = nn.functional.cross_entropy(model(X[chosen]), Y[chosen])
            loss.backward()
            if clip is not None:
                thalweg.optim.clipping.clip_by_norm([p.grad for p in model.parameters()], clip)
            optimizer.step()
            step += 1
    return model.eval()


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("clip", [None, 0.3])
def test_fit_is_the_loop_by_hand_to_the_bit(clip: float | None, dropout: float) -> None:
    model = network(dropout)
    before = torch.get_rng_state()
    fitted = thalweg.fit(
        model, (X, Y), nn.functional.cross_entropy, lambda ps: torch.optim.Adam(ps, lr=0.05), "cosine",
        [] if clip is None else [Clipping(norm=clip)],
        epochs=3, batch_size=16, seed=7, validation=(X, Y), metric="accuracy",
    )  # fmt: skip
    assert equal(fitted.model, by_hand(clip, dropout))
    assert fitted.updates == 12
    assert torch.equal(torch.get_rng_state(), before)


def rows(name: str, lr: float) -> Any:
    return lambda parameters: catalogue.get(name).make(parameters, lr=lr)


OPTIMIZERS: dict[str, Any] = {
    "torch SGD": lambda ps: torch.optim.SGD(ps, lr=0.05, momentum=0.9, nesterov=True),
    "torch AdamW": lambda ps: torch.optim.AdamW(ps, lr=0.01),
    "torch RMSprop": lambda ps: torch.optim.RMSprop(ps, lr=0.002),
    "torch NAdam": lambda ps: torch.optim.NAdam(ps, lr=0.01),
    "torch LBFGS": lambda ps: torch.optim.LBFGS(ps, lr=0.1, max_iter=3),
    **{name: rows(name, 0.01) for name in ("momentum", "adam", "rprop", "muon", "soap", "schedule-free")},
    "lbfgs": lambda ps: catalogue.get("lbfgs").make(ps),
    "gauss-newton": lambda ps: catalogue.get("gauss-newton").make(ps),
}
SCHEDULES = {
    "torch SGD": "one-cycle", "torch AdamW": "warmup-stable-decay", "adam": "exponential", "rprop": "step",
}  # fmt: skip


@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_kind_of_step_is_the_one_by_hand_to_the_bit(optimizer: str, parts: int) -> None:
    """With batch norm, dropout drawn by part and step, a schedule, and a ragged split into parts."""
    if parts > 1 and optimizer == "gauss-newton":
        pytest.skip("needs the graph of a whole batch")
    schedule = SCHEDULES.get(optimizer, "cosine")
    fitted = thalweg.fit(
        network(0.3), (X, Y), nn.functional.cross_entropy, OPTIMIZERS[optimizer], schedule,
        epochs=2, batch_size=16, seed=7, accumulate=parts,
    )  # fmt: skip

    model = network(0.3).train()
    made = OPTIMIZERS[optimizer](list(model.parameters()))
    if hasattr(made, "track"):
        made.track(model)
    base, total = made.param_groups[0].get("lr"), 2 * (70 // 16)
    factors = thalweg.schedules.build(schedule, total=total)(np.arange(total))
    draws = [RunDraws(7, torch.device("cpu"))]
    draws += [RunDraws(streams.seed32(7, "part", n), torch.device("cpu")) for n in range(1, parts)]
    step = 0
    for epoch in range(2):
        order = torch.from_numpy(streams.order(70, seed=7, epoch=epoch))
        for begin in range(0, 64, 16):
            chosen = order[begin : begin + 16]
            if base is not None:
                made.param_groups[0]["lr"] = base * float(factors[step])

            def closure(chosen: Tensor = chosen, step: int = step) -> Tensor:
                made.zero_grad()
                total_loss = torch.zeros(())
                # slices of one gathered batch, as fit has them: a gathered copy of a part lies elsewhere in
                # memory, and a matrix product of it may differ in the last bit
                given = zip(X[chosen].tensor_split(parts), Y[chosen].tensor_split(parts), draws, strict=True)
                for part, targets, draw in given:
                    draw.step = step
                    with Keyed(draw):
                        loss = nn.functional.cross_entropy(model(part), targets)
                    if parts > 1:
                        loss = loss * (len(part) / 16)
                    loss.backward()
                    total_loss = total_loss + loss.detach()
                return total_loss if parts > 1 else loss.detach()

            def outputs(chosen: Tensor = chosen, step: int = step) -> Any:
                draws[0].step = step
                with Keyed(draws[0]):
                    return model(X[chosen]), lambda o: nn.functional.cross_entropy(o, Y[chosen])

            if optimizer == "gauss-newton":
                made.step(outputs)
            elif "lbfgs" in optimizer.lower():
                made.step(closure)
            else:
                closure()
                made.step()
            step += 1
    if hasattr(made, "eval"):
        made.eval()
    assert fitted.updates == step
    assert equal(fitted.model, model)


class Items:
    """A Dataset that draws, as augmentation does, from torch's generator."""

    def __init__(self, noise: float = 0.0) -> None:
        self.noise = noise

    def __len__(self) -> int:
        return 70

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return X[position] + self.noise * torch.randn(5), Y[position]


@pytest.mark.parametrize(
    "data", [TensorDataset(X, Y), Items(), (X.numpy(), Y.numpy())], ids=["tensors", "items", "arrays"]
)
def test_the_same_data_in_any_form_train_alike(data: Any) -> None:
    models = [network(), network()]
    for model, form in zip(models, [(X, Y), data], strict=True):
        thalweg.fit(
            model, form, "cross-entropy", "sgd", epochs=2, batch_size=8, hyperparameters={"lr": 0.1},
            validation=form,
        )  # fmt: skip
    assert equal(*models)


def test_a_loader_is_shuffled_by_the_seed_and_its_epochs_differ() -> None:
    def weights(seed: int, **options: Any) -> nn.Module:
        model = network()
        torch.manual_seed(seed + 100)
        loader = DataLoader(TensorDataset(X, Y), batch_size=20, shuffle=True, **options)
        thalweg.fit(model, loader, "cross-entropy", "sgd", epochs=2, seed=seed, hyperparameters={"lr": 0.1})
        return model

    assert equal(weights(1), weights(1))
    assert equal(
        weights(1, generator=torch.Generator()), weights(1, generator=torch.Generator().manual_seed(9))
    )
    assert not equal(weights(1), weights(2))


def test_batches_in_parts_have_the_gradient_of_the_whole() -> None:
    torch.manual_seed(0)
    start = nn.Linear(5, 3).double()
    models = []
    for parts in (1, 3):
        model = nn.Linear(5, 3).double()
        model.load_state_dict(start.state_dict())
        thalweg.fit(
            model, (X.double(), Y), "cross-entropy", "sgd", epochs=2, batch_size=16, accumulate=parts,
            hyperparameters={"lr": 0.5},
        )  # fmt: skip
        models.append(model)
    torch.testing.assert_close(models[0].weight, models[1].weight, rtol=1e-12, atol=1e-12)


def test_searches_are_given_closures() -> None:
    model = nn.Linear(5, 1).double()
    x, goal = X.double(), X.double() @ torch.ones(5).double()
    fitted = thalweg.fit(
        model, (x, goal), "mse", torch.optim.LBFGS(model.parameters(), max_iter=20), steps=2, batch_size=70,
        validation=(x, goal),
    )  # fmt: skip
    assert fitted.updates == 2
    assert fitted.final["validation_loss"] < 1e-8
    with pytest.raises(OptionError, match="clipping doesn't go with LBFGS"):
        thalweg.fit(model, (x, goal), "mse", torch.optim.LBFGS(model.parameters()), "constant",
                    [Clipping(norm=1.0)], steps=2)  # fmt: skip


def test_bfloat16_forward_passes_train_float32_parameters() -> None:
    model = network()
    fitted = thalweg.fit(
        model, (X, Y), "cross-entropy", "adam", epochs=20, batch_size=16, precision="bfloat16",
        hyperparameters={"lr": 0.02}, validation=(X, Y), metric="accuracy",
    )  # fmt: skip
    assert model[0].weight.dtype == torch.float32
    assert fitted.final["validation"] > 0.9


def test_growing_batches_leave_an_epoch_a_pass_over_the_data() -> None:
    x = torch.arange(64.0)[:, None]
    seen: list[int] = []

    class Recording(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            seen.append(len(input))
            return super().forward(input)

    fitted = thalweg.fit(
        Recording(1, 1), (x, x), "mse", "sgd", "constant", [BatchSize(growth=4, shape="doubling")],
        epochs=6, batch_size=8, hyperparameters={"lr": 0.0}, evaluations=3,
    )  # fmt: skip
    assert sorted(set(seen)) == [8, 16, 32]
    assert seen == sorted(seen)
    assert sum(seen) == 6 * 64
    assert [e.step for e in fitted.curve] == [0, 16, 32, 48]


def test_early_stopping_gives_back_the_best_averaged_weights() -> None:
    model = network()
    fitted = thalweg.fit(
        model, (X[:20], Y[:20]), "cross-entropy", "adam", "constant",
        [EarlyStopping(watch="loss", patience=3), Averaging(decay=0.9)],
        epochs=60, batch_size=10, validation=(X[20:], Y[20:]), hyperparameters={"lr": 0.1}, evaluations=60,
    )  # fmt: skip
    assert fitted.stopped is not None
    losses = [e.validation_loss for e in fitted.curve]
    assert fitted.final["validation_loss"] == pytest.approx(min(losses), rel=1e-5)
    assert len(losses) < 61


def test_a_guard_saves_a_run_that_diverges() -> None:
    x, goal = X, X @ torch.ones(5)
    torch.manual_seed(0)
    wild = {"epochs": 30, "batch_size": 10, "hyperparameters": {"lr": 3.0}, "validation": (x, goal)}
    lost = thalweg.fit(nn.Linear(5, 1), (x, goal), "mse", "sgd", **wild)
    assert lost.failed
    assert "add a guard" in str(lost.stopped)
    kept = thalweg.fit(
        nn.Linear(5, 1), (x, goal), "mse", "sgd", "constant", [Guard(attempts=10, every=5)], **wild
    )
    assert not kept.failed
    assert kept.final["validation_loss"] < 0.1


def test_groups_by_pattern_and_depth() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2))
    groups = parameter_groups(
        model,
        lr=1.0,
        decay_all=False,
        depth_factor=0.1,
        patterns=[Pattern(match="2.*", rate=5.0, decay=True)],
    )
    names = {id(p): name for name, p in model.named_parameters()}
    found = {names[id(p)]: (g["lr"], g.get("weight_decay")) for g in groups for p in g["params"]}
    assert found["0.weight"] == (pytest.approx(0.01), None)
    assert found["0.bias"] == (pytest.approx(0.01), 0.0)
    assert found["1.weight"] == (pytest.approx(0.1), 0.0)
    assert found["2.bias"] == (5.0, None)
    with pytest.raises(OptionError, match="'head' matches no parameter; there are"):
        parameter_groups(model, patterns=[Pattern(match="head")])
    for rate in (-1.0, float("inf"), float("nan")):
        with pytest.raises(OptionError, match=rf"rate of the pattern '2\.\*' is {rate}, but must be"):
            parameter_groups(model, lr=0.1, patterns=[Pattern(match="2.*", rate=rate)])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": None}, "give epochs or steps"),
        ({"batch_size": 100}, "fewer than one batch"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"metric": "accuracy"}, "a metric is of validation data"),
        (
            {"strategies": [ReduceOnPlateau(watch="metric")]},
            "plateau watches the validation metric, which nobody",
        ),
        ({"strategies": [EarlyStopping()]}, "early-stopping watches the validation metric"),
        ({"loss": "cross-entropie"}, "did you mean 'cross-entropy'"),
        ({"schedule": "plateau"}, "is a strategy here"),
        ({"resume": True}, "resume needs out"),
        ({"data": iter([])}, "only once"),
        ({"data": (X, Y[:3])}, "70 inputs but 3 targets"),
        ({"data": 3}, "can't be trained on"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(X)])}, "none of the model's parameters"),
        ({"precision": "float8"}, "precision is 'float8'"),
    ],
)
def test_what_fit_refuses(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "data": (X, Y), "loss": "cross-entropy", "optimizer": "sgd", "epochs": 1, **changes,
    }  # fmt: skip
    with pytest.raises(UserError, match=words):
        thalweg.fit(
            network(), **given, **({} if "optimizer" in changes else {"hyperparameters": {"lr": 0.1}})
        )


def test_other_data_are_refused_at_a_resume(tmp_path: Path) -> None:
    def train(data: Any, **more: Any) -> Any:
        options = {"epochs": 2, "hyperparameters": {"lr": 0.1}, "out": tmp_path / "out", **more}
        return thalweg.fit(network(), data, "cross-entropy", "sgd", **options)

    first = train((X, Y))
    again = train((X, Y), resume=True)
    assert equal(first.model, again.model)
    with pytest.raises(DataError, match="the data aren't those"):
        train((X + 1, Y), resume=True)
    with pytest.raises(OptionError, match=r"was begun with seed = 0, not 1"):
        train((X, Y), resume=True, seed=1)
