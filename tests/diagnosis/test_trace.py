"""What a model and its loss compute is seen, whoever wrote them."""

from __future__ import annotations

import torch
from tests.diagnosis.cases import facts, inputs, net, numbers, three_classes
from torch import Tensor, nn
from torch.nn import functional as F

from thalweg.diagnosis.trace import TracedBatch, recording


def traced(model: nn.Module, x: Tensor) -> TracedBatch:
    with recording(model, len(x)) as noted:
        noted.mark(x, -1)
        outputs = model(x)
        source = noted.source(outputs)
    return TracedBatch(tuple(noted.operations), source, len(noted.operations), tuple(outputs.shape))


class ByFunctions(nn.Module):
    """The same as :func:`net` with softmax, without a module for what has no weights."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x)).view(len(x), -1)
        return torch.softmax(self.last(h), dim=-1)


def test_modules_and_functions_are_seen_alike() -> None:
    x = inputs()
    seen = [traced(model, x) for model in (net(3, nn.Softmax(dim=-1)), ByFunctions())]
    for each in seen:
        kinds = [op.kind for op in each.model if op.kind != "passing"]
        assert kinds == ["weights", "activation", "weights", "softmax"]
        assert each.ending is not None
        assert each.ending.name == "softmax"
        assert each.nonlinear
    assert [op.path for op in seen[1].model if op.kind == "weights"] == ["first", "last"]


def test_what_only_passes_numbers_on_is_looked_through() -> None:
    model = net(3, nn.Softmax(dim=-1), nn.Flatten(), nn.Dropout(0.0), nn.Identity())
    ending = traced(model, inputs()).ending
    assert ending is not None
    assert ending.name == "softmax"


def test_linear_layers_alone_are_linear() -> None:
    x = inputs()
    assert not traced(
        nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2), nn.Sigmoid()), x
    ).nonlinear
    assert traced(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2)), x).nonlinear
    pooled = nn.Sequential(nn.Conv1d(1, 2, 3), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(2, 2))
    assert traced(pooled, x[:, None]).nonlinear


def test_gates_and_recurrence_are_not_linear() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.c(self.a(x) * self.b(x))

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.last = nn.LSTM(1, 4, batch_first=True), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.inner(x[..., None])[0][:, -1])

    assert traced(Gated(), inputs()).nonlinear
    seen = traced(Recurrent(), inputs())
    assert [seen.operations[n].kind for n in seen.weights] == ["recurrent", "weights"]


def test_the_loss_is_seen_through_a_function_of_ones_own() -> None:
    x = inputs()

    def own(outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(torch.softmax(outputs, 1), targets) * 2

    found = facts(net(3), (x, three_classes(x)), own)
    assert found.compared is not None
    assert found.compared.name == "cross_entropy"
    assert found.judge.kind == "classes"


def test_statistics_are_those_of_the_outputs() -> None:
    x = inputs()
    model = net(3)
    with torch.no_grad():
        model[0].bias[:4] = -100.0
    seen = traced(model, x)
    first, relu = seen.model[0], seen.model[1]
    expected = model[0](x).detach().double()
    assert first.statistics is not None
    assert relu.statistics is not None
    assert abs(first.statistics.spread - float(expected.std(correction=0))) < 1e-9
    assert relu.statistics.dead == float((torch.relu(expected) == 0).all(0).double().mean()) == 0.25
    assert not relu.statistics.constant


def test_flat_shares_are_those_beyond_97_percent() -> None:
    x = 2 * inputs()
    tanh = traced(nn.Sequential(nn.Linear(4, 4), nn.Tanh()), x).model[-1].statistics
    model = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())
    sigmoid = traced(model, 8 * x).model[-1].statistics
    assert tanh is not None
    assert sigmoid is not None
    values = model(8 * x).detach().double()
    assert sigmoid.flat == float(((values < 0.015) | (values > 0.985)).double().mean()) > 0
    assert 0 < tanh.flat < sigmoid.flat


def test_hooks_and_modes_are_gone_afterwards() -> None:
    model = net(3)
    traced(model, inputs())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_what_a_loss_was_given_is_known_where_it_raises() -> None:
    x = inputs()
    found = facts(net(2), (x, three_classes(x)), nn.CrossEntropyLoss())
    assert "out of bounds" in found.problem
    assert found.compared is not None
    assert found.compared.name == "cross_entropy"
    assert found.width == 2


def test_weights_that_are_not_the_models_are_strangers() -> None:
    class Loose(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = [nn.Linear(4, 4)]
            self.last = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layers[0](x).relu())

    x = inputs()
    assert facts(Loose(), (x, numbers(x)), "mse").strangers == ((4, 4), (4,))
    assert facts(net(1), (x, numbers(x)), "mse").strangers == ()
