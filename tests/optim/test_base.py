"""What a face of a rule does beyond the contract of all optimizers: counts, types, derivatives, errors."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from thalweg import optim
from thalweg.errors import OptionError
from thalweg.optim.base import RuleOptimizer

from .problems import close, parameters, set_gradients, train

CLASSES: dict[str, Callable[..., RuleOptimizer]] = {
    "SGD": lambda p, **o: optim.SGD(p, **{"lr": 0.05, "momentum": 0.9, "dampening": 0.3, **o}),
    "Momentum": lambda p, **o: optim.Momentum(p, **{"lr": 0.05, **o}),
    "Momentum-outside": lambda p, **o: optim.Momentum(p, **{"lr": 0.05, "spelling": "outside", **o}),
    "Momentum-average": lambda p, **o: optim.Momentum(p, **{"lr": 0.05, "spelling": "average", **o}),
    "Nesterov": lambda p, **o: optim.Nesterov(p, **{"lr": 0.05, **o}),
    "Adagrad": lambda p, **o: optim.Adagrad(p, **{"lr": 0.05, "initial_accumulator_value": 0.2, **o}),
    "RMSprop": lambda p, **o: optim.RMSprop(p, **{"lr": 0.05, "momentum": 0.5, **o}),
    "Adam": lambda p, **o: optim.Adam(p, **{"lr": 0.05, "amsgrad": True, **o}),
    "AdamW": lambda p, **o: optim.AdamW(p, **{"lr": 0.05, **o}),
    "NAdam": lambda p, **o: optim.NAdam(p, **{"lr": 0.05, "weight_decay": 0.1, **o}),
    "ScheduleFreeAdamW": lambda p, **o: optim.ScheduleFreeAdamW(
        p, **{"lr": 0.05, "weight_decay": 0.1, "warmup_steps": 3, "r": 0.5, **o}
    ),
    "Rprop": lambda p, **o: optim.Rprop(p, **{"lr": 0.05, **o}),
    "Rprop-back": lambda p, **o: optim.Rprop(p, **{"lr": 0.05, "step_sizes": None, "overshoot": "back", **o}),
    "Lion": lambda p, **o: optim.Lion(p, **{"lr": 0.05, "weight_decay": 0.1, **o}),
    "Quickprop": lambda p, **o: optim.Quickprop(p, **{"lr": 0.05, "weight_decay": 0.1, **o}),
    "Muon": lambda p, **o: optim.Muon(p, **{"lr": 0.05, "others": "adamw", "precision": "parameter", **o}),
    "SOAP": lambda p, **o: optim.SOAP(p, **{"lr": 0.05, "precondition_frequency": 2, **o}),
    "own": lambda p, **o: optim.from_rule(forgetful)(p, **o),
}
# Rules over whole matrices can't be differentiated, and have no complex parameters.
ELEMENTWISE = {name: make for name, make in CLASSES.items() if name not in ("Muon", "SOAP")}
every_class = pytest.mark.parametrize("make", CLASSES.values(), ids=CLASSES.keys())
COUNTING = {name: make for name, make in CLASSES.items() if name != "SGD"}


def forgetful(p: Any, g: Any, trail: Any, *, lr: float = 0.05, t: int) -> Any:
    trail = trail * (1 - 1 / t) + g / t
    return p - lr * trail, trail


def counts(optimizer: RuleOptimizer) -> list[float | None]:
    state = optimizer.state_dict()["state"]
    total = sum(len(group["params"]) for group in optimizer.param_groups)
    return [state[i]["step"].item() if i in state else None for i in range(total)]


@pytest.mark.parametrize("make", COUNTING.values(), ids=COUNTING.keys())
def test_steps_are_counted_for_each_parameter(make: Any) -> None:
    params = parameters()
    optimizer = make(params)
    eager = optimizer.state_dict()["state"] != {}
    set_gradients(params, 0, without=(0, 3))
    optimizer.step()
    assert counts(optimizer) == ([0, 1, 1, 0, 1] if eager else [None, 1, 1, None, 1])
    set_gradients(params, 1, without=(1,))
    optimizer.step()
    optimizer.step()
    assert counts(optimizer) == [2, 1, 3, 2, 3]
    steps = [optimizer.state[p]["step"] for p in params]
    assert all(s.dtype == torch.float32 and s.shape == () and s.device.type == "cpu" for s in steps)
    # Whoever gets hold of one count can change it alone, and it is believed.
    steps[2].fill_(10)
    optimizer.step()
    assert counts(optimizer) == [3, 1, 11, 3, 4]


def test_counts_are_float64_where_that_is_the_default_as_in_torch() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        params = parameters()
        optimizer, theirs = optim.Adam(params), torch.optim.Adam(params)
        train(optimizer, params, range(1))
        train(theirs, params, range(1))
        ours = optimizer.state[params[0]]["step"]
        assert ours.dtype == theirs.state[params[0]]["step"].dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_live_state_dict_of_ours_can_be_trained_on_by_torch() -> None:
    """The counts lie side by side in one tensor; torch, which adds to each, must not count n times."""
    a, b = parameters(), parameters()
    ours = optim.Adam(a)
    train(ours, a, range(2))
    theirs = torch.optim.Adam(b)
    theirs.load_state_dict(ours.state_dict())
    train(theirs, b, range(2, 5))
    assert [theirs.state[p]["step"].item() for p in b] == [5] * 5


def test_state_that_a_person_replaces_is_believed() -> None:
    a, b = parameters(), parameters()
    optimizer = optim.Adam(a)
    train(optimizer, a, range(4))
    optimizer.state = defaultdict(dict)
    with torch.no_grad():
        for p, q in zip(a, b, strict=True):
            p.copy_(q)
    train(optimizer, a, range(4))
    fresh = optim.Adam(b)
    train(fresh, b, range(4))
    close(a, b)
    close(optimizer.state_dict(), fresh.state_dict())
    del optimizer.state[a[1]]
    train(optimizer, a, range(4, 5))
    assert counts(optimizer) == [5, 1, 5, 5, 5]


def test_groups_that_change_places_keep_their_counts() -> None:
    params = parameters(shapes=((2,), (2,), (3,), (3,)))
    optimizer = optim.Adam([{"params": params[:2]}, {"params": params[2:]}])
    set_gradients(params, 0, without=(1, 3))
    optimizer.step()
    train(optimizer, params[:2], range(3))
    assert counts(optimizer) == [4, 3, 4, None]
    told = {id(p): optimizer.state[p]["step"].item() if p in optimizer.state else 0 for p in params}
    optimizer.param_groups.reverse()
    optimizer.param_groups[0]["params"].reverse()
    train(optimizer, params, range(2))
    assert {id(p): optimizer.state[p]["step"].item() for p in params} == {k: v + 2 for k, v in told.items()}


def test_parameters_given_or_taken_later_in_place() -> None:
    params = parameters()
    optimizer = optim.Adam(params[:3])
    train(optimizer, params[:3], range(2))
    optimizer.param_groups[0]["params"].append(params[3])
    train(optimizer, params[:4], range(2, 4))
    del optimizer.param_groups[0]["params"][0]
    train(optimizer, params[1:4], range(4, 5))
    assert [optimizer.state[p]["step"].item() for p in params[:4]] == [4, 5, 5, 3]


def test_what_a_load_hook_changes_is_what_is_loaded() -> None:
    for dtype in (torch.float32, torch.bfloat16):
        params = parameters(dtype)
        optimizer = optim.Adam(params)
        train(optimizer, params, range(1))

        def doubled(_: Any, given: dict[str, Any]) -> dict[str, Any]:
            changed = copy.deepcopy(given)
            for entry in changed["state"].values():
                entry["exp_avg"] *= 2
            return changed

        before = optimizer.state[params[0]]["exp_avg"].clone()
        optimizer.register_load_state_dict_pre_hook(doubled)
        optimizer.load_state_dict(optimizer.state_dict())
        close(optimizer.state[params[0]]["exp_avg"], 2 * before)


def test_bfloat16_second_moment_follows_its_average_and_loads_into_torch() -> None:
    p = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    optimizer = optim.Adam([p], lr=0.0)
    p.grad = torch.ones_like(p)
    for _ in range(3000):
        optimizer.step()
    p.grad = torch.zeros_like(p)
    for _ in range(1000):
        optimizer.step()
    expected = (1 - 0.999**3000) * 0.999**1000
    assert optimizer.state[p]["exp_avg_sq"].item() == pytest.approx(expected, rel=1e-3)
    theirs = torch.optim.Adam([torch.nn.Parameter(p.detach().clone())])
    theirs.load_state_dict(optimizer.state_dict())
    (entry,) = theirs.state.values()
    assert entry["exp_avg_sq"].dtype == torch.bfloat16
    back = optim.Adam([p])
    back.load_state_dict(theirs.state_dict())
    assert back.state[p]["exp_avg_sq"].dtype == torch.float32


@every_class
def test_mixed_dtypes_frozen_and_strided_parameters(make: Any) -> None:
    shape = (3, 2)
    mixed = [
        *parameters(torch.float32, (shape,)),
        *parameters(torch.float64, (shape,)),
        *parameters(torch.bfloat16, (shape,)),
        torch.nn.Parameter(parameters(torch.float64, ((2, 3),))[0].detach().t()),
    ]
    frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
    together = make([*mixed, frozen])
    alone_params = copy.deepcopy(mixed)
    alone = [make([p]) for p in alone_params]
    for step in range(5):
        for p, q in zip(mixed, alone_params, strict=True):
            set_gradients([p], step)
            set_gradients([q], step)
        together.step()
        for optimizer in alone:
            optimizer.step()
    for p, q in zip(mixed, alone_params, strict=True):
        assert torch.equal(p, q)
    assert torch.equal(frozen, torch.ones(2))


@every_class
def test_sparse_gradients_name_parameter_and_remedy(make: Any) -> None:
    layer = torch.nn.Embedding(4, 2, sparse=True)
    layer(torch.tensor([1])).sum().backward()
    with pytest.raises(OptionError, match="sparse=False") as caught:
        make(layer.named_parameters()).step()
    assert "'weight'" in str(caught.value)
    with pytest.raises(OptionError, match=r"parameter 0 of its group, of shape \(4, 2\)"):
        make(layer.parameters()).step()


@pytest.mark.parametrize("make", ELEMENTWISE.values(), ids=ELEMENTWISE.keys())
def test_differentiable_steps_give_the_same_numbers_and_right_gradients(make: Any) -> None:
    start = torch.tensor([0.5, -1.2], dtype=torch.float64, requires_grad=True)
    pull = torch.tensor([1.5, 0.7], dtype=torch.float64, requires_grad=True)

    def unrolled(start: Tensor, pull: Tensor) -> Tensor:
        p = start.clone()
        optimizer = make([p], differentiable=True)
        for step in range(3):
            p.grad = pull * p.clone() + step
            optimizer.step()
        return p

    plain = torch.nn.Parameter(start.detach().clone())
    optimizer = make([plain])
    for step in range(3):
        plain.grad = pull.detach() * plain.detach() + step
        optimizer.step()
    close(unrolled(start, pull), plain)
    assert torch.autograd.gradcheck(unrolled, (start, pull))


def test_hypergradients_flow_to_tensor_hyperparameters() -> None:
    lr = torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    decay = torch.tensor(0.2, dtype=torch.float64, requires_grad=True)

    def loss(lr: Tensor, decay: Tensor) -> Tensor:
        p = torch.tensor([1.0, -2.0], dtype=torch.float64)
        optimizer = optim.AdamW([p], lr=lr, weight_decay=decay, differentiable=True)  # type: ignore[arg-type]
        for _ in range(3):
            p.grad = p.clone() ** 3
            optimizer.step()
        return (p**2).sum()

    assert torch.autograd.gradcheck(loss, (lr, decay))


def test_differentiable_complex_and_low_precision_parameters() -> None:
    for dtype in (torch.complex64, torch.bfloat16):
        plain, tracked = parameters(dtype), parameters(dtype)
        a, b = optim.Adam(plain), optim.Adam([p.clone() for p in tracked], differentiable=True)
        held = b.param_groups[0]["params"]
        for step in range(3):
            for optimizer, params in ((a, plain), (b, held)):
                set_gradients([p.detach() for p in params], step)
                for i, p in enumerate(params):
                    generator = torch.Generator().manual_seed(10 * step + i)
                    p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
                optimizer.step()
        torch.testing.assert_close(
            [p.detach() for p in plain], [p.detach() for p in held], rtol=1e-2, atol=1e-3
        )
        assert held[0].grad_fn is not None


def test_ignored_arguments_are_accepted() -> None:
    for options in ({"foreach": True}, {"fused": True}, {"capturable": True}):
        params = parameters()
        train(optim.Adam(params, **options), params, range(2))  # type: ignore[arg-type]


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("SGD", {"lr": -1}, r"SGD: lr is -1; give a finite number of at least 0"),
    ("SGD", {"lr": float("nan")}, r"lr is nan"),
    ("SGD", {"lr": "fast"}, r"lr is 'fast'; give a number"),
    ("SGD", {"lr": torch.ones(2)}, r"lr is a tensor of shape \(2,\); give a number or a tensor with one"),
    ("SGD", {"momentum": -0.1}, r"momentum is -0\.1"),
    ("SGD", {"weight_decay": -0.1}, r"weight_decay is -0\.1"),
    ("SGD", {"dampening": None}, r"dampening is None"),
    ("SGD", {"nesterov": True}, r"give a momentum over 0 and no dampening"),
    ("SGD", {"nesterov": True, "momentum": 0.9, "dampening": 0.1}, r"no dampening"),
    ("SGD", {"nesterov": "look", "momentum": 0.9}, r"nesterov is 'look'; give True, False or 'lookahead'"),
    ("SGD", {"nesterov": "lookahead"}, r"nesterov='lookahead' with momentum 0 .* give a momentum over 0"),
    (
        "SGD",
        {"nesterov": "lookahead", "momentum": 0.9, "differentiable": True},
        r"autograd can't differentiate; give nesterov=True",
    ),
    ("Momentum", {"momentum": 1.0}, r"Momentum: momentum is 1\.0; give a number of at least 0 and below 1"),
    ("Momentum", {"spelling": "insde"}, r"spelling is 'insde'; did you mean 'inside'"),
    ("Nesterov", {"momentum": -0.5}, r"Nesterov: momentum is -0\.5"),
    ("Adagrad", {"lr_decay": -1}, r"lr_decay is -1"),
    ("Adagrad", {"initial_accumulator_value": -1}, r"initial_accumulator_value is -1"),
    ("Adagrad", {"eps": -1}, r"eps is -1"),
    ("RMSprop", {"alpha": 1.5}, r"alpha is 1\.5"),
    ("RMSprop", {"momentum": -1}, r"momentum is -1"),
    ("Adam", {"betas": (1.0, 0.9)}, r"Adam: betas\[0\] is 1\.0"),
    ("Adam", {"betas": (0.9, -0.1)}, r"betas\[1\] is -0\.1"),
    ("Adam", {"betas": 0.9}, r"betas is 0\.9; give two numbers"),
    ("Adam", {"eps": -1e-8}, r"eps is -1e-08"),
    ("AdamW", {"weight_decay": -1}, r"AdamW: weight_decay is -1"),
    ("NAdam", {"momentum_decay": -1}, r"NAdam: momentum_decay is -1"),
    ("ScheduleFreeAdamW", {"betas": (0.0, 0.9)}, r"betas\[0\] is 0\.0; give a number over 0"),
    ("ScheduleFreeAdamW", {"warmup_steps": -1}, r"warmup_steps is -1"),
    ("Muon", {"ns_steps": 2.5}, r"ns_steps is 2\.5; give a whole number from 1 to 99"),
    ("Muon", {"ns_coefficients": (1, 2)}, r"ns_coefficients is \(1, 2\); give three numbers"),
    ("Muon", {"adjust_lr_fn": "orignal"}, r"adjust_lr_fn is 'orignal'; did you mean 'original'"),
    ("Muon", {"momentum": 1.0}, r"Muon: momentum is 1\.0"),
    ("Muon", {"others": "sgd"}, r"others is 'sgd'"),
    ("SOAP", {"shampoo_beta": 1.0}, r"SOAP: shampoo_beta is 1\.0"),
    (
        "SOAP",
        {"precondition_frequency": 0},
        r"precondition_frequency is 0; give a whole number of at least 1",
    ),
    ("Rprop", {"etas": (1.2, 0.5)}, r"Rprop: etas is \(1\.2, 0\.5\); give a factor between 0 and 1"),
    ("Rprop", {"etas": 0.5}, r"Rprop: etas is 0\.5; give two numbers such as \(0\.5, 1\.2\)"),
    ("Rprop", {"step_sizes": (1.0, 0.1)}, r"step_sizes is \(1\.0, 0\.1\); give a floor"),
    ("Rprop", {"overshoot": "bakc"}, r"overshoot is 'bakc'; did you mean 'back'"),
    ("Lion", {"betas": (0.9, 1.0)}, r"Lion: betas\[1\] is 1\.0"),
    ("Lion", {"weight_decay": -1}, r"Lion: weight_decay is -1"),
    ("Quickprop", {"growth": 0}, r"Quickprop: growth is 0; give a number of at least 1"),
    ("Quickprop", {"lr": -1}, r"Quickprop: lr is -1"),
]


@pytest.mark.parametrize(("name", "options", "said"), BAD, ids=str)
def test_values_out_of_range(name: str, options: dict[str, Any], said: str) -> None:
    made = getattr(optim, name)
    with pytest.raises(OptionError, match=said) as caught:
        made(parameters(), **options)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)
    with pytest.raises(OptionError, match=said):
        made([{"params": parameters(), **options}])
    optimizer = made(parameters(), **({"others": "adamw"} if name == "Muon" else {}))
    with pytest.raises(OptionError, match=said):
        optimizer.add_param_group({"params": parameters(), **options})
    assert len(optimizer.param_groups) == 1


def test_torchs_own_refusals_stay() -> None:
    with pytest.raises(ValueError, match="empty parameter list"):
        optim.SGD([])
    with pytest.raises(TypeError, match="iterable"):
        optim.SGD(torch.ones(1))  # type: ignore[arg-type]
    optimizer = optim.SGD(parameters())
    with pytest.raises(ValueError, match="more than one parameter group"):
        optimizer.add_param_group({"params": optimizer.param_groups[0]["params"]})
    with pytest.raises(ValueError, match="different number of parameter groups"):
        optimizer.load_state_dict({"state": {}, "param_groups": []})
    with pytest.raises(TypeError, match="dict"):
        optimizer.add_param_group([])  # type: ignore[arg-type]


def test_a_compiled_training_step_may_hold_ours() -> None:
    a, b = parameters(), parameters()
    ours, plain = optim.Adam(a), optim.Adam(b)

    def advance(optimizer: RuleOptimizer, params: list[torch.nn.Parameter]) -> None:
        for p in params:
            p.grad = 2 * p.detach()
        optimizer.step()

    compiled = torch.compile(advance, backend="eager")
    for _ in range(3):
        compiled(ours, a)
        advance(plain, b)
    close(a, b)
    assert counts(ours) == [3] * 5
    torch.compiler.reset()
