"""Taps: what inner modules give, whatever runs the model."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.func import functional_call, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from thalweg.errors import ModelError, OptionError
from thalweg.layers.interface import Interface
from thalweg.stages.taps import Tapped, Taps

X = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def network(inplace: bool = False) -> nn.Sequential:
    torch.manual_seed(1)
    layers = nn.Sequential(
        nn.Linear(4, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 3), nn.ReLU(inplace)), nn.Linear(3, 2)
    )
    return layers.double()


def middle(net: nn.Sequential, x: Tensor) -> Tensor:
    """What the module "2.0" gives."""
    return F.linear(torch.tanh(F.linear(x, net[0].weight, net[0].bias)), net[2][0].weight, net[2][0].bias)


def hooks(model: nn.Module) -> int:
    return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules())


# In a loop of one's own ---------------------------------------------------------------------------------


def test_values_and_gradients_are_those_of_a_hand_written_pass() -> None:
    net, twin = network(), network()
    with Taps(net, {"hint": "2.0"}) as taps:
        (net(X).sum() + taps["hint"].square().sum()).backward()
    by_hand = middle(twin, X)
    (F.linear(by_hand.relu(), twin[3].weight, twin[3].bias).sum() + by_hand.square().sum()).backward()
    assert torch.equal(taps["hint"], by_hand)
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-14, atol=1e-14)
    assert hooks(net) == 0


def test_gradients_of_a_tap_reach_no_layer_above_it() -> None:
    net = network()
    with Taps(net, ["2.0"]) as taps:
        net(X)
        taps["2.0"].sum().backward()
    assert net[3].weight.grad is None
    assert net[2][0].weight.grad is not None


def test_an_operation_in_place_after_the_module_leaves_the_tap() -> None:
    net = network(inplace=True)
    with Taps(net, {"hint": "2.0"}) as taps:
        net(X)
        assert torch.equal(taps["hint"], middle(net, X))
        assert (taps["hint"] < 0).any()


def test_of_several_calls_the_last_counts() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.layer(x))

    model = Twice()
    with Taps(model, "layer") as taps:
        assert torch.equal(model(torch.ones(1, 2)), taps["layer"])


def test_each_pass_counts_by_itself() -> None:
    class Sometimes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.on = nn.Linear(2, 2), True

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if self.on else x

    model = Sometimes()
    with Taps(model, "layer") as taps:
        with pytest.raises(ModelError, match="hasn't called it"):
            taps["layer"]
        model(torch.ones(1, 2))
        assert taps["layer"].shape == (1, 2)
        model.on = False
        model(torch.ones(1, 2))
        with pytest.raises(ModelError, match="no output of 'layer' to read as 'layer': this forward pass"):
            taps["layer"]


def test_outputs_of_several_tensors_are_read_whole() -> None:
    model = nn.LSTM(2, 3)

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = model

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x)[0][-1]

    holder = Holder()
    with Taps(holder, "inner") as taps:
        last = holder(torch.ones(4, 1, 2))
    states, (hidden, _) = taps["inner"]
    assert torch.equal(states[-1], last)
    assert torch.equal(hidden[0], last)


def test_names_that_match_nothing_or_are_taken() -> None:
    net = network()
    with pytest.raises(
        OptionError, match=r"no part '2\.2' in the model, which the tap 'hint' names; did you"
    ):
        Taps(net, {"hint": "2.2"}).__enter__()
    assert hooks(net) == 0
    with pytest.raises(OptionError, match="call it otherwise"):
        Tapped(net, {"logits": "0"})
    with pytest.raises(OptionError, match="name at least one"):
        Taps(net, [])
    with pytest.raises(OptionError, match="no tap 'hynt'; did you mean 'hint'"):
        Taps(net, {"hint": "0"})["hynt"]


def test_hooks_of_the_author_stay() -> None:
    net = network()
    net[0].register_forward_hook(lambda module, args, output: output * 2)
    with Taps(net, ["0"]) as taps:
        net(X)
        assert torch.equal(taps["0"], F.linear(X, net[0].weight, net[0].bias) * 2)
    assert hooks(net) == 1


# As a module --------------------------------------------------------------------------------------------


def test_it_returns_what_the_model_does_and_the_taps() -> None:
    net = network()
    tapped = Tapped(net, {"hint": "2.0", "last": "3"})
    found = tapped(X)
    assert list(found) == ["logits", "hint", "last"]
    assert torch.equal(found["logits"], found["last"])
    assert torch.equal(found["hint"], middle(net, X))
    assert {id(p) for p in tapped.parameters()} == {id(p) for p in net.parameters()}
    tapped.close()
    assert hooks(net) == 0
    with pytest.raises(ModelError, match="hasn't called it"):
        tapped(X)


@pytest.mark.parametrize(
    ("returns", "names"),
    [
        (lambda y: {"logits": y, "more": y + 1}, ["logits", "more", "hint"]),
        (lambda y: {"scores": y, "more": y + 1}, ["scores", "more", "logits", "hint"]),
        (lambda y: (y, y + 1), ["logits", "hint"]),
    ],
)
def test_of_more_outputs_all_named_ones_are_kept(returns: Callable[[Tensor], Any], names: list[str]) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> Any:
            return returns(self.net(x))

    model = Wrapped()
    found = Tapped(model, {"hint": "net.2.0"})(X)
    assert list(found) == names
    assert torch.equal(found["logits"], network()(X))


def test_a_tap_that_is_called_as_a_part_is_refused() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.net(x), "hint": x}

    with pytest.raises(OptionError, match="called 'hint', as a part of what the model returns"):
        Tapped(Named(), {"hint": "net.0"})(X)


def test_nothing_of_a_batch_is_held_on_to() -> None:
    tapped = Tapped(network(), {"hint": "0"})
    kept = weakref.ref(tapped(X)["hint"])
    gc.collect()
    assert kept() is None


def test_a_copy_has_taps_of_its_own() -> None:
    tapped = Tapped(network(), {"hint": "0"})
    other = copy.deepcopy(tapped)
    tapped.close()
    with torch.no_grad():
        other.model[0].weight.zero_()
        other.model[0].bias.fill_(3.0)
    assert torch.equal(other(X)["hint"], torch.full((6, 5), 3.0, dtype=torch.float64))
    other.close()
    assert hooks(other) == 0


def test_inputs_go_in_as_the_model_takes_them() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 2).double()

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.layer(x * scale)

    class Whole(Two):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
            return self.layer(batch["x"] * batch["scale"])

    scale = torch.tensor(2.0, dtype=torch.float64)
    for model, inputs in (
        (Two(), (X, scale)), (Two(), {"scale": scale, "x": X}), (Whole(), {"scale": scale, "x": X}),
    ):  # fmt: skip
        tapped = Tapped(model, {"hint": "layer"})
        with Interface(own=("loss",)).attached(tapped):
            assert torch.equal(tapped(inputs)["hint"], model.layer(X * 2))


# Ended early --------------------------------------------------------------------------------------------


def noted_calls(module: nn.Module) -> list[int]:
    """Grows by one with each call."""
    calls: list[int] = []
    module.register_forward_hook(lambda *given: calls.append(1))
    return calls


def test_a_pass_that_stops_computes_nothing_after_the_last_tap_and_changes_no_bit() -> None:
    net, whole = network(inplace=True), network(inplace=True)
    after = noted_calls(net[2][1]), noted_calls(net[3])
    found = Tapped(net, {"hint": "2.0", "first": "0"}, stops=True)(X)
    expected = Tapped(whole, {"hint": "2.0", "first": "0"})(X)
    assert list(found) == ["hint", "first"]
    assert after == ([], [])
    for each in (found, expected):
        (each["hint"].square().sum() + each["first"].sum()).backward()
    for name in found:
        assert torch.equal(found[name], expected[name])
    for one, other in zip(net.parameters(), whole.parameters(), strict=True):
        assert one.grad is other.grad or torch.equal(one.grad, other.grad)
    # a next pass begins anew
    net[3](Tapped(net, {"hint": "2.0"}, stops=True)(X)["hint"])
    assert net(X).shape == (6, 2)


def test_stopping_ends_ones_own_pass_alone() -> None:
    net = network()
    inner = nn.Sequential(Tapped(net, {"hint": "2.0"}, stops=True))
    after = noted_calls(net[3])
    # an outer one that is through first, and one that sees the inner one's end
    assert torch.equal(Tapped(inner, {"early": "0.model.0"}, stops=True)(X)["early"], net[0](X))
    assert torch.equal(Tapped(inner, {"late": "0"}, stops=True)(X)["late"]["hint"], middle(net, X))
    assert not after


def test_whether_modules_are_called_once_is_known() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.last = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.layer(self.layer(x)))

    for names, once in ({"a": "last"}, True), ({"a": "layer"}, False), ({"a": "last", "b": "layer"}, False):
        tapped = Tapped(Twice(), names)
        for _ in range(2):
            tapped(torch.ones(1, 2))
            assert tapped.called_once == once


# Whatever runs the model --------------------------------------------------------------------------------


def test_lanes() -> None:
    nets = [network() for _ in range(3)]
    for number, net in enumerate(nets):
        with torch.no_grad():
            net[0].weight.mul_(number + 1)
    tapped = Tapped(copy.deepcopy(nets[0]), {"hint": "2.0"})
    parameters, _ = stack_module_state([Tapped(net, {"hint": "2.0"}) for net in nets])  # type: ignore[arg-type]

    def loss(values: dict[str, Tensor]) -> Tensor:
        found = functional_call(tapped, values, (X,))
        return found["hint"].square().sum() + found["logits"].sum()

    slopes = vmap(torch.func.grad(loss))(parameters)
    for number, net in enumerate(nets):
        found = Tapped(net, {"hint": "2.0"})(X)
        alone = torch.autograd.grad(found["hint"].square().sum() + found["logits"].sum(), [net[0].weight])
        torch.testing.assert_close(slopes["model.0.weight"][number], alone[0], rtol=1e-12, atol=1e-12)


# torch's tracer looks at .grad of what isn't a leaf
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize(
    ("way", "called"), [("whole", "not yet"), ("whole", "before"), ("part", "before"), ("in place", "before")]
)
def test_a_compiled_model(way: str, called: str) -> None:
    torch.compiler.reset()
    net = network()
    model: Any = net
    if way == "whole":
        model = torch.compile(net, backend="eager")
    elif way == "part":
        net[2] = torch.compile(net[2], backend="eager")
    else:
        net.compile(backend="eager")
    if called == "before":
        model(X)
    tapped = Tapped(model, {"hint": "2.0", "after": "2"})
    twin = network()
    found = tapped(X)
    assert torch.equal(found["hint"], middle(twin, X))
    assert torch.equal(found["after"], middle(twin, X).relu())
    found["hint"].sum().backward()
    tapped.close()
    assert torch.equal(model(X), twin(X))
    assert not tapped._seen.values
    torch.compiler.reset()


def test_a_compiled_model_that_was_called_before_its_taps_is_told_of() -> None:
    torch.compiler.reset()
    model: Any = torch.compile(network(), backend="eager")
    model(X)
    with Taps(model, {"hint": "2.0"}) as taps:
        model(X)
        with pytest.raises(ModelError, match=r"call torch\.compiler\.reset\(\)"):
            taps["hint"]
        torch.compiler.reset()
        model(X)
        assert taps["hint"].shape == (6, 3)
    torch.compiler.reset()


def test_tapped_can_be_compiled_as_a_whole() -> None:
    torch.compiler.reset()
    for stops in (False, True):
        tapped = torch.compile(Tapped(network(), {"hint": "2.0"}, stops=stops), backend="eager")
        for _ in range(2):
            assert torch.equal(tapped(X)["hint"], middle(network(), X))
    torch.compiler.reset()


class Checkpointed(nn.Module):
    def __init__(self, reentrant: bool) -> None:
        super().__init__()
        self.net, self.reentrant = network(), reentrant

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.net[0](x)
        return self.net[3](checkpoint(self.net[2], hidden, use_reentrant=self.reentrant))


@pytest.mark.parametrize("stops", [False, True])
def test_within_a_checkpoint(stops: bool) -> None:
    model = Checkpointed(False)
    tapped = Tapped(model, {"hint": "net.2.0"}, stops=stops)
    found = tapped(X)
    (found["hint"].square().sum() + (0.0 if stops else found["logits"].sum())).backward()
    assert not tapped._seen.values
    net = network()
    hint = F.linear(F.linear(X, net[0].weight, net[0].bias), net[2][0].weight, net[2][0].bias)
    (hint.square().sum() + (0.0 if stops else net[3](hint.relu()).sum())).backward()
    for one, other in zip(model.parameters(), net.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if other.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-13, atol=1e-13)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning")
def test_a_checkpoint_that_cuts_gradients_off_is_told_of() -> None:
    tapped = Tapped(Checkpointed(True), {"hint": "net.2.0"})
    with pytest.raises(ModelError, match="use_reentrant=False"):
        tapped(X.clone().requires_grad_())
    with torch.no_grad():
        assert tapped(X.clone().requires_grad_())["hint"].shape == (6, 3)


def test_data_parallel(one_process: None) -> None:
    net = network()
    parallel = nn.parallel.DistributedDataParallel(Tapped(net, {"hint": "2.0"}))
    found = parallel(X)
    assert torch.equal(found["hint"], middle(network(), X))
    (found["hint"].sum() + found["logits"].sum()).backward()
    assert net[0].weight.grad is not None
    parallel.module.close()
    # named as in the plain model
    around = nn.parallel.DistributedDataParallel(net)
    with Taps(around, ["2.0"]) as taps:
        around(X)
        assert torch.equal(taps["2.0"], middle(network(), X))
    # which waits for the end of a pass
    other = network()
    other[3].requires_grad_(False)
    last = Tapped(nn.parallel.DistributedDataParallel(other), {"hint": "2.0"}, stops=True)
    for _ in range(2):
        last(X)["hint"].sum().backward()
    assert other[0].weight.grad is not None


@pytest.mark.parametrize("parts", [["2.0"], ["3"], []])
def test_fully_sharded(one_process: None, parts: list[str]) -> None:
    mesh = init_device_mesh("cpu", (1,))
    for stops in (False, True):
        sharded = copy.deepcopy(Tapped(network(), {"hint": "2.0"}, stops=stops))
        after = noted_calls(sharded.model[3])
        for part in parts:
            fully_shard(sharded.model.get_submodule(part), mesh=mesh)
        fully_shard(sharded, mesh=mesh)
        twin = Tapped(network(), {"hint": "2.0"}, stops=stops)
        for model in (sharded, twin, sharded, twin):
            found = model(X)
            (found["hint"].square().sum() + (0.0 if stops else found["logits"].sum())).backward()
        for one, other in zip(sharded.parameters(), twin.parameters(), strict=True):
            if other.grad is not None:
                torch.testing.assert_close(one.grad.full_tensor(), other.grad, rtol=1e-13, atol=1e-13)  # type: ignore[union-attr]
        # what is no unit, nor within one, may be ended
        assert bool(after) == (not stops or parts == ["2.0"])
