"""The classes that torch has too: every option, step by step; checkpoints in both directions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from thalweg import optim

from .problems import close, parameters, set_gradients, side_by_side, snapshot, train

CASES: list[tuple[str, dict[str, Any]]] = [
    ("SGD", {}),
    ("SGD", {"lr": 0.1, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.05, "momentum": 0.9}),
    ("SGD", {"lr": 0.05, "momentum": 0.9, "dampening": 0.4, "weight_decay": 0.05}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True}),
    ("SGD", {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.1, "maximize": True}),
    ("Adagrad", {}),
    ("Adagrad", {"lr": 0.3, "lr_decay": 0.1, "weight_decay": 0.1, "eps": 1e-3}),
    ("Adagrad", {"lr": 0.3, "initial_accumulator_value": 0.5, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"lr": 0.02, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1}),
    ("RMSprop", {"lr": 0.01, "momentum": 0.9}),
    ("RMSprop", {"lr": 0.01, "centered": True, "eps": 1e-2}),
    ("RMSprop", {"lr": 0.01, "centered": True, "momentum": 0.5, "eps": 1e-2, "maximize": True}),
    ("Adam", {}),
    ("Adam", {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    ("Adam", {"lr": 0.05, "amsgrad": True}),
    ("Adam", {"lr": 0.05, "amsgrad": True, "weight_decay": 0.1, "maximize": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.05, "betas": (0.7, 0.9), "eps": 1e-3, "weight_decay": 0.3}),
    ("AdamW", {"lr": 0.05, "weight_decay": 0.0}),
    ("AdamW", {"lr": 0.05, "amsgrad": True, "maximize": True}),
    ("NAdam", {}),
    ("NAdam", {"lr": 0.05, "betas": (0.7, 0.9), "momentum_decay": 0.3, "weight_decay": 0.1}),
    ("NAdam", {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.1, "maximize": True}),
    ("NAdam", {"lr": 0.05, "decoupled_weight_decay": True, "weight_decay": 0.1, "eps": 1e-2}),
    ("Rprop", {}),
    ("Rprop", {"lr": 0.3, "etas": (0.3, 1.5), "step_sizes": (0.01, 0.2)}),
    ("Rprop", {"lr": 0.1, "maximize": True}),
]
TWINS = ("SGD", "Adagrad", "RMSprop", "Adam", "AdamW", "NAdam", "Rprop")
TUNED = [case for case in CASES if case[1] and not case[1].get("maximize")]


@pytest.fixture(autouse=True)
def _wide_numbers() -> Iterator[None]:
    """NAdam's ``mu_product`` has torch's default type, ours is float64: as wide there, to compare digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def name_of(case: Any) -> str:
    return str(case).replace(" ", "")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("case", CASES, ids=name_of)
def test_equal_to_torch_step_by_step(case: tuple[str, dict[str, Any]], dtype: torch.dtype) -> None:
    name, options = case
    # torch's own three implementations agree to rounding; the plain loop is the reference.
    side_by_side(
        lambda p: getattr(optim, name)(p, **options),
        lambda p: getattr(torch.optim, name)(p, foreach=False, **options),
        dtype,
    )


@pytest.mark.parametrize("name", TWINS)
def test_signature_and_groups_are_torchs(name: str) -> None:
    ours = inspect.signature(getattr(optim, name)).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    extra = {"eps_inside", "bias_correction", "overshoot"}
    # An older torch may lack arguments that a newer one has; what it has must agree.
    for argument, parameter in theirs.items():
        assert ours[argument].default == parameter.default, argument
        assert ours[argument].kind == parameter.kind, argument
    positional = [p.name for p in ours.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [p.name for p in theirs.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert set(ours) - set(theirs) <= extra | {"decoupled_weight_decay"}
    groups = [getattr(m, name)(parameters()).state_dict()["param_groups"][0] for m in (optim, torch.optim)]
    assert {k: v for k, v in groups[0].items() if k not in extra} == groups[1]


@pytest.mark.parametrize("case", TUNED, ids=name_of)
def test_checkpoints_load_both_ways_and_training_goes_on_equally(case: tuple[str, dict[str, Any]]) -> None:
    name, options = case
    ours_class, torch_class = getattr(optim, name), getattr(torch.optim, name)
    for first, second in ((ours_class, torch_class), (torch_class, ours_class), (ours_class, ours_class)):
        a = parameters()
        begun = first(a, **options)
        train(begun, a, range(7))
        b = [torch.nn.Parameter(p.detach().clone()) for p in a]
        # Other options: those of the checkpoint have to win.
        went_on = second(b, lr=0.777)
        went_on.load_state_dict(snapshot(begun))
        train(begun, a, range(7, 20))
        train(went_on, b, range(7, 20))
        close(a, b)
        close(begun.state_dict()["state"], went_on.state_dict()["state"])
        assert went_on.param_groups[0]["lr"] == options["lr"]


@pytest.mark.parametrize("name", TWINS)
def test_fresh_checkpoints_load_both_ways(name: str) -> None:
    ours_class, torch_class = getattr(optim, name), getattr(torch.optim, name)
    for first, second in ((ours_class, torch_class), (torch_class, ours_class)):
        a, b = parameters(), parameters()
        begun, went_on = first(a, lr=0.1), second(b, lr=0.2)
        close(begun.state_dict()["state"], second(parameters(), lr=0.1).state_dict()["state"])
        went_on.load_state_dict(snapshot(begun))
        train(begun, a, range(3))
        train(went_on, b, range(3))
        close(a, b)


@pytest.mark.parametrize("name", TWINS)
def test_a_gradient_that_is_none_for_a_while(name: str) -> None:
    a, b = parameters(), parameters()
    options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}
    ours = getattr(optim, name)(a, lr=0.05, **options)
    theirs = getattr(torch.optim, name)(b, lr=0.05, foreach=False, **options)
    for step in range(30):
        without = [(0, 2), (), (1,), (0, 1, 2, 3, 4)][step % 4] if step < 20 else ()
        set_gradients(a, step, without)
        set_gradients(b, step, without)
        ours.step()
        theirs.step()
        close(a, b)
    close(ours.state_dict()["state"], theirs.state_dict()["state"])


@pytest.mark.parametrize("name", TWINS)
def test_groups_and_groups_added_later(name: str) -> None:
    a, b = parameters(), parameters()
    options = {"momentum": 0.9, "dampening": 0.5} if name == "SGD" else {}

    # torch's Rprop doesn't heed a decay, which ours refuses
    second = {"etas": (0.4, 1.3)} if name == "Rprop" else {"weight_decay": 0.5}

    def groups(p: list[torch.nn.Parameter]) -> list[dict[str, Any]]:
        return [{"params": p[:1], "lr": 0.2}, {"params": p[1:3], **second}]

    ours = getattr(optim, name)(groups(a), lr=0.05, **options)
    theirs = getattr(torch.optim, name)(groups(b), lr=0.05, foreach=False, **options)
    train(ours, a[:3], range(9))
    train(theirs, b[:3], range(9))
    ours.add_param_group({"params": a[3:], "lr": 0.01})
    theirs.add_param_group({"params": b[3:], "lr": 0.01})
    train(ours, a, range(9, 30))
    train(theirs, b, range(9, 30))
    close(a, b)
    close(ours.state_dict()["state"], theirs.state_dict()["state"])
    assert ours.state_dict()["param_groups"][2]["params"] == [3, 4]


@pytest.mark.parametrize("case", TUNED, ids=name_of)
def test_complex_parameters(case: tuple[str, dict[str, Any]]) -> None:
    name, options = case
    a, b = parameters(torch.complex64, ((3, 2), ())), parameters(torch.complex64, ((3, 2), ()))
    ours = getattr(optim, name)(a, **options)
    theirs = getattr(torch.optim, name)(b, foreach=False, **options)
    train(ours, a, range(20))
    train(theirs, b, range(20))
    close(a, b, torch.complex64)
    close(ours.state_dict()["state"], theirs.state_dict()["state"], torch.complex64)


@pytest.mark.parametrize("name", TWINS)
def test_tensor_learning_rates_and_torchs_schedulers(name: str) -> None:
    def made(library: Any, p: list[torch.nn.Parameter], lr: Any) -> tuple[Any, Any]:
        optimizer = getattr(library, name)(p, lr=lr)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))

    a, b, c = parameters(), parameters(), parameters()
    pairs = [made(optim, a, 0.25), made(torch.optim, b, 0.25), made(optim, c, torch.tensor(0.25))]
    for step in range(20):
        for p, (optimizer, scheduler) in zip((a, b, c), pairs, strict=True):
            set_gradients(p, step)
            optimizer.step()
            scheduler.step()
    close(a, b)
    # The tensor's own 1/(1+step) is rounded to float32 at each step.
    torch.testing.assert_close(list(a), list(c), rtol=1e-5, atol=1e-6)
    assert isinstance(pairs[2][0].param_groups[0]["lr"], torch.Tensor)


def test_momentum_that_is_switched_on_later_begins_with_the_gradient() -> None:
    a, b = parameters(), parameters()
    ours = optim.SGD(a, lr=0.1, dampening=0.5)
    theirs = torch.optim.SGD(b, lr=0.1, dampening=0.5, foreach=False)
    for optimizer, p in ((ours, a), (theirs, b)):
        train(optimizer, p, range(3))
        assert len(optimizer.state) == 0
        optimizer.param_groups[0]["momentum"] = 0.9
        train(optimizer, p, range(3, 9))
    close(a, b)


def test_decoupled_decay_of_adam_and_of_a_group() -> None:
    if "decoupled_weight_decay" not in inspect.signature(torch.optim.Adam).parameters:
        pytest.skip("this torch has no such argument")
    side_by_side(
        lambda p: optim.Adam(p, weight_decay=0.3, decoupled_weight_decay=True),
        lambda p: torch.optim.Adam(p, weight_decay=0.3, decoupled_weight_decay=True, foreach=False),
    )


def test_what_torch_lacks() -> None:
    """Adam without bias correction, RMSprop with eps inside the root: the slides in float64."""
    a, b = parameters(), [p.detach().clone() for p in parameters()]
    c, d = parameters(), [p.detach().clone() for p in parameters()]
    plain = optim.Adam(a, lr=0.01, bias_correction=False)
    inside = optim.RMSprop(c, lr=0.01, alpha=0.9, eps=1e-6, eps_inside=True)
    m, s, r = ([torch.zeros_like(p) for p in b] for _ in range(3))
    for step in range(60):
        set_gradients(a, step)
        set_gradients(c, step)
        for i in range(len(b)):
            g, h = a[i].grad, c[i].grad
            assert g is not None
            assert h is not None
            m[i] = 0.9 * m[i] + 0.1 * g
            s[i] = 0.999 * s[i] + 0.001 * g * g
            b[i] = b[i] - 0.01 * m[i] / (s[i].sqrt() + 1e-8)
            r[i] = 0.9 * r[i] + 0.1 * h * h
            d[i] = d[i] - 0.01 * h / torch.sqrt(1e-6 + r[i])
        plain.step()
        inside.step()
    torch.testing.assert_close([p.detach() for p in a], b, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close([p.detach() for p in c], d, rtol=1e-11, atol=1e-11)


def test_checkpoints_of_older_torch() -> None:
    """A momentum buffer of None, step as a number, and groups that lack newer options."""
    a, b = parameters(), parameters()
    theirs = torch.optim.SGD(a, lr=0.1, momentum=0.9, foreach=False)
    state = snapshot(theirs)
    state["state"] = {i: {"momentum_buffer": None} for i in range(len(a))}
    for name in ("foreach", "differentiable", "fused", "maximize"):
        state["param_groups"][0].pop(name, None)
    ours = optim.SGD(b)
    ours.load_state_dict(state)
    train(theirs, a, range(5))
    train(ours, b, range(5))
    close(a, b)

    adam = torch.optim.Adam(a, lr=0.1, foreach=False)
    train(adam, a, range(4))
    state = snapshot(adam)
    for entry in state["state"].values():
        entry["step"] = int(entry["step"].item())
    mine = optim.Adam(b)
    with torch.no_grad():
        for p, q in zip(a, b, strict=True):
            q.copy_(p)
    mine.load_state_dict(state)
    train(adam, a, range(4, 9))
    train(mine, b, range(4, 9))
    close(a, b)
    close(mine.state_dict()["state"], adam.state_dict()["state"])


@pytest.mark.parametrize("decoupled", [True, False])
@pytest.mark.parametrize("foreach", [True, False])
def test_lion_equals_another_implementation(decoupled: bool, foreach: bool) -> None:
    package = pytest.importorskip("pytorch_optimizer")
    options: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1}
    a, b = parameters(), parameters()
    ours = optim.Lion(a, decoupled_weight_decay=decoupled, **options)
    theirs = package.Lion(b, weight_decouple=decoupled, foreach=foreach, **options)
    for step in range(40):
        for optimizer, params in ((ours, a), (theirs, b)):
            set_gradients(params, step)
            optimizer.step()
        close(a, b)
    for p, q in zip(a, b, strict=True):
        close(ours.state[p]["exp_avg"], theirs.state[q]["exp_avg"])
