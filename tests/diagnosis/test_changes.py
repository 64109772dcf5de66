"""Changes of a set-up: each against the same change made by hand, and nothing given is changed."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.diagnosis.cases import inputs, net, numbers, setup, three_classes
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.diagnosis import Setup, changes
from thalweg.errors import ModelError, OptionError

X = inputs()
THREE, Y = three_classes(X), numbers(X)


class Functions(nn.Module):
    """Calls functions where others have modules, the same one more than once, and in place."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.sigmoid(self.a(x))
        h = self.b(h).sigmoid_()
        return self.c(F.dropout(h, 0.5, self.training))


def twice(x: Tensor) -> Tensor:
    return 2 * x


@pytest.mark.parametrize("number", [0, 1])
def test_the_call_that_is_meant_gives_way_and_no_other(number: int) -> None:
    model = Functions().eval()
    changed = changes.Rewritten(model, replaced={("sigmoid", number): torch.relu})
    h = torch.relu(model.a(X)) if number == 0 else torch.sigmoid(model.a(X))
    h = torch.relu(model.b(h)) if number == 1 else torch.sigmoid(model.b(h))
    assert torch.equal(changed(X), model.c(h))
    followed = changes.Rewritten(model, followed={("linear", number): twice})
    h = torch.sigmoid(model.a(X) * (2 if number == 0 else 1))
    h = torch.sigmoid(model.b(h) * (2 if number == 1 else 1))
    assert torch.equal(followed(X), model.c(h))


def test_a_call_of_the_loss_gives_way() -> None:
    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(torch.softmax(torch.softmax(outputs, 1), 1), targets)

    changed = changes.rewritten_loss({("softmax", 1): lambda x: x})(setup(net(3), (X, THREE), own))
    outputs = torch.randn(len(X), 3)
    assert torch.equal(changed.loss(outputs, THREE), F.cross_entropy(torch.softmax(outputs, 1), THREE))


@pytest.mark.parametrize("shape", [(50, 3), (50, 2, 5, 4), (50, 7, 3)])
def test_inputs_are_standardized_feature_by_feature(shape: tuple[int, ...]) -> None:
    x = 100 + 10 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(nn.Flatten(), nn.LazyLinear(1))
    model(x)
    changed = changes.standardized_inputs(setup(model, (x, torch.randn(50, 1)), "mse"))
    front = changed.model()[0]
    axes = {2: (0,), 3: (0, 1), 4: (0, 2, 3)}[len(shape)]
    z = front(x)
    assert torch.allclose(z.mean(axes), torch.zeros(()), atol=1e-4)
    assert torch.allclose(z.std(axes, correction=0), torch.ones(()), atol=1e-4)


def test_a_feature_that_never_changes_stays_finite() -> None:
    x = X.clone()
    x[:, 1] = 7.0
    changed = changes.standardized_inputs(setup(net(1), (x, Y), "mse"))
    assert torch.equal(changed.model()[0](x)[:, 1], torch.zeros(len(x)))


def test_targets_are_standardized_and_predictions_brought_back() -> None:
    y = 5e5 + 1e5 * Y
    changed = changes.standardized_targets(setup(net(1), (X, y), nn.MSELoss()))
    _, z = changed.batch(torch.arange(len(X)))
    assert abs(float(z.mean())) < 1e-3
    assert float(z.std(correction=0)) == pytest.approx(1, abs=1e-3)
    assert torch.allclose(changed.decode(z), y, rtol=1e-5)


def test_gaps_are_filled_by_medians_wherever_the_model_is_asked() -> None:
    x = X.clone()
    x[::7, 2] = -999.0
    changed = changes.gaps_filled(-999.0)(setup(net(1), (x, Y), "mse"))
    front = changed.model()[:2]
    new = torch.tensor([[0.0, 0.0, -999.0, 0.0]])
    median = x[:, 2][x[:, 2] != -999].median()
    assert torch.equal(front[0](new)[0, 2], median)
    assert float(front(x).abs().max()) < 10


def optimizers() -> list[Callable[[Any], torch.optim.Optimizer]]:
    return [
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
        lambda p: torch.optim.AdamW(p, lr=0.01),
        lambda p: torch.optim.RMSprop(p, lr=0.01),
    ]


@pytest.mark.parametrize("make", optimizers())
@pytest.mark.parametrize("whole", [True, False])
def test_optimizers_go_with_changed_models(make: Callable[[Any], Any], whole: bool) -> None:
    """What was trained and is there still is, what was left out still is, and what is new is trained."""
    model = net(2)
    trained = list(model.parameters()) if whole else [*model[2].parameters()]
    optimizer = make(trained)
    given = setup(model, (X, THREE), nn.CrossEntropyLoss(), optimizer)
    changed = changes.new_last_layer(tuple(model[2].parameters()), 3)(given)
    made, found = changed.start(0)
    held = {id(p) for group in found.param_groups for p in group["params"]}
    assert made(X).shape == (len(X), 3)
    assert {id(p) for p in made[2].parameters()} <= held
    assert ({id(p) for p in made[0].parameters()} <= held) == whole
    assert type(found) is type(optimizer)
    for name, value in optimizer.param_groups[0].items():
        if name != "params":
            assert found.param_groups[0][name] == value
    # a step moves what is held, and nothing of the person's
    before = copy.deepcopy(model.state_dict())
    F.cross_entropy(made(X), THREE).backward()
    weights = made[2].weight.detach().clone()
    found.step()
    assert not torch.equal(made[2].weight, weights)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


def test_groups_of_an_optimizer_stay_apart() -> None:
    model = net(2)
    groups = [{"params": model[0].parameters(), "lr": 0.3}, {"params": model[2].parameters(), "lr": 0.7}]
    given = setup(model, (X, THREE), nn.CrossEntropyLoss(), torch.optim.SGD(groups, lr=1.0))
    _, slower = changes.faster(0.1)(given).start(0)
    assert [group["lr"] for group in slower.param_groups] == pytest.approx([0.03, 0.07])
    made, widened = given.with_model(lambda m: nn.Sequential(m, nn.Linear(2, 2))).start(0)
    assert [len(group["params"]) for group in widened.param_groups] == [4, 2]
    assert {id(p) for p in made[0][2].parameters()} == {id(p) for p in widened.param_groups[1]["params"]}


def test_what_was_frozen_or_left_out_is_trained() -> None:
    model = net(1)
    model[0].weight.requires_grad_(False)
    given = setup(model, (X, Y), "mse", torch.optim.SGD([model[2].weight], lr=0.1))
    made, optimizer = changes.trained_whole(given).start(0)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert held == {id(p) for p in made.parameters()}
    assert not model[0].weight.requires_grad


def test_dropout_is_left_out_of_modules_and_functions() -> None:
    changed = changes.no_dropout(setup(Functions(), (X, Y), "mse")).model().train()
    assert torch.equal(changed(X), changed(X))
    lstm = nn.LSTM(4, 3, num_layers=2, dropout=0.5, batch_first=True)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = lstm

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x[:, None])[0][:, -1, :1]

    changed = changes.no_dropout(setup(Last(), (X, Y), "mse")).model().train()
    assert torch.equal(changed(X), changed(X))
    assert lstm.dropout == 0.5


def test_weights_are_drawn_anew_the_same_for_a_seed() -> None:
    given = changes.reinitialized("he")(setup(net(1), (X, Y), "mse"))
    one, again, other = given.model(0), given.model(0), given.model(1)
    assert torch.equal(one[0].weight, again[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert float(one[0].weight.detach().std()) == pytest.approx(math.sqrt(2 / 4), rel=0.4)


def test_decay_batches_and_clipping() -> None:
    given = setup(net(1), (X, Y), "mse", lambda p: torch.optim.AdamW(p, weight_decay=0.5))
    assert changes.with_decay(0.0)(given).start(0)[1].param_groups[0]["weight_decay"] == 0
    assert changes.of_batch(8)(given).batch_size == 8
    assert changes.of_batch(10_000)(given).batch_size == len(X)
    assert changes.clipped(0.5)(given).clip == 0.5
    assert (given.batch_size, given.clip) == (32, None)


def test_what_cannot_be_changed_is_refused() -> None:
    words = torch.zeros(len(X), 3, dtype=torch.long)
    embedded = nn.Sequential(nn.Embedding(3, 4), nn.Flatten(), nn.Linear(12, 1))
    with pytest.raises(ModelError, match="one tensor of fractions"):
        changes.standardized_inputs(setup(embedded, (words, Y), "mse"))
    conv = nn.Sequential(nn.Conv1d(4, 2, 1), nn.Flatten())
    layer = changes.new_last_layer(tuple(conv.parameters()), 3)
    with pytest.raises(ModelError, match="only you can change"):
        layer(setup(conv, (X[..., None], THREE), nn.CrossEntropyLoss())).model()


# What a set-up is given ---------------------------------------------------------------------------------


def test_a_training_is_taken_from_whatever_holds_it() -> None:
    dataset = torch.utils.data.TensorDataset(X, Y)
    loader = torch.utils.data.DataLoader(dataset, batch_size=24, drop_last=True)
    for data, size, shuffled in (
        ((X, Y), 32, True), (dataset, 32, True), (loader, 24, False),
        (torch.utils.data.DataLoader(dataset, batch_size=24, shuffle=True), 24, True),
        ([(X[:40], Y[:40]), (X[40:80], Y[40:80])], 40, True), ((X.numpy(), Y.numpy()), 32, True),
    ):  # fmt: skip
        found = Setup.of(net(1), data, "mse", "adam", epochs=2)
        assert (found.batch_size, found.shuffled) == (size, shuffled)
        assert torch.equal(found.inputs, X[: len(found.inputs)])
        assert torch.equal(found.targets, Y[: len(found.targets)])
    assert Setup.of(net(1), loader, "mse", "adam", epochs=2).steps == 20
    assert Setup.of(net(1), (X, Y), "mse", "adam", epochs=2).steps == 16


def test_many_examples_are_thinned_evenly_and_counted() -> None:
    x = torch.arange(25_000.0)[:, None]
    found = Setup.of(nn.Linear(1, 1), (x, x), "mse", "adam", batch_size=100, epochs=3)
    assert found.examples == 25_000
    assert found.steps == 750
    assert len(found.inputs) == 10_000
    assert float(found.inputs[0]) == 0
    assert float(found.inputs[-1]) == 24_999


def test_starts_are_copies_and_functions_make_models_by_seed() -> None:
    model = net(1)
    given = setup(model, (X, Y), "mse", torch.optim.Adam(model.parameters()))
    one, optimizer = given.start(0)
    assert one is not model
    assert {id(p) for p in one.parameters()} == {id(p) for p in optimizer.param_groups[0]["params"]}
    by_seed = setup(lambda: nn.Linear(4, 1), (X, Y), "mse")
    assert torch.equal(by_seed.model(0).weight, by_seed.model(0).weight)
    assert not torch.equal(by_seed.model(0).weight, by_seed.model(1).weight)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"model": "net"}, "torch.nn.Module"),
        ({"model": lambda x: x}, "without arguments"),
        ({"model": lambda: 3}, "not a module"),
        ({"optimizer": 3}, "function of parameters"),
        ({"optimizer": lambda p: 3}, "not a torch optimizer"),
        ({"data": []}, "no batches"),
        ({"data": (X[:0], Y[:0])}, "no example"),
        ({"data": (X, Y[:3])}, "one for each"),
        ({"loss": 3}, "isn't a function"),
        ({"loss": "nse"}, "no loss"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"model": lambda: nn.Linear(4, 1), "optimizer": torch.optim.SGD(net(1).parameters())}, "function"),
    ],
)
def test_bad_input_is_one_sentence(given: dict[str, Any], said: str) -> None:
    arguments: dict[str, Any] = {
        "model": net(1), "data": (X, Y), "loss": "mse", "optimizer": "adam", "epochs": 2, **given,
    }  # fmt: skip
    with pytest.raises((OptionError, ModelError, ValueError), match=said):
        Setup.of(**arguments).start(0)
