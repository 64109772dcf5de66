"""PyTorch's own database of optimizer inputs, over ours beside its classes; each difference has a reason."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from contract.subjects import close, trees_equal
from thalweg import optim
from thalweg.errors import OptionError

common = pytest.importorskip("torch.testing._internal.common_optimizers", exc_type=ImportError)

INFOS = [info for info in common.optim_db if hasattr(optim, info.name)]
ELEMENTWISE = [info for info in INFOS if info.name not in ("LBFGS", "Muon")]
each_class = pytest.mark.parametrize("info", INFOS, ids=[info.name for info in INFOS])
each_elementwise = pytest.mark.parametrize("info", ELEMENTWISE, ids=[info.name for info in ELEMENTWISE])

# How a step is carried out; ours decides by itself, and takes the words.
FLAGS = ("foreach", "fused", "capturable", "differentiable")

# What torch refuses and ours does, by the database's description, and why.
MORE = {
    "lr as Tensor doesn't work with foreach & not capturable": "a tensor rate is read once a step",
    "betas must be either both floats or both Tensors": "each is read by itself",
    r"betas\[0\] as a Tensor is not supported for capturable=False and foreach=True": "likewise",
}
# What ours refuses and torch does.
LESS = {
    ("LBFGS", "complex"): "directions are real",
    ("Adagrad", "sparse"): "rules need every element",
    ("SGD", "sparse"): "rules need every element",
}
# Inputs with which the steps are others.
OTHERWISE = {("LBFGS", "strong_wolfe"): "the search is another"}


def test_everything_that_torch_has_under_a_name_of_ours_is_compared() -> None:
    assert [info.name for info in INFOS] == [
        "Adagrad", "Adam", "AdamW", "LBFGS", "Muon", "NAdam", "RMSprop", "Rprop", "SGD",
    ]  # fmt: skip


@pytest.fixture(autouse=True)
def _wide_numbers() -> Iterator[None]:
    """NAdam's ``mu_product`` has torch's default type, ours is float64: as wide there, to compare digits."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch computes Muon's iteration in bfloat16, in which no two orders of operations agree."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())


def inputs_of(info: Any) -> list[Any]:
    """Return the inputs for a CPU, and those that torch takes on a GPU alone; no GPU is asked."""
    found = info.optim_inputs_func("cpu")
    known = [str(each.kwargs) for each in found]
    return found + [each for each in info.optim_inputs_func("cuda") if str(each.kwargs) not in known]


def plain(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return what torch's plain loop takes: numbers for tensors, and nothing about how it is carried out."""

    def number(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(number, value))
        return value.item() if isinstance(value, Tensor) else value

    kept = {name: number(value) for name, value in kwargs.items() if name not in FLAGS}
    return {**kept, **({"foreach": False} if "foreach" in kwargs else {})}


def parameters(info: Any, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Return matrices, and where it may be a vector, a number, nothing, and what doesn't lie in a row."""
    generator = torch.Generator().manual_seed(3)
    shapes: list[tuple[int, ...]] = [(3, 2), (2, 4), (3, 3)]
    shapes += [] if info.name == "Muon" else [(5,), (), (0, 3), (2, 1, 2)]
    made = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    if dtype.is_complex:
        made = [torch.complex(x, x.flip(0) if x.ndim else -x) for x in made]
    if info.name != "LBFGS":
        # torch's takes views
        made[1] = made[1].t().contiguous().t()
        made[2] = made[2].repeat(1, 2)[:, :3]
    return [nn.Parameter(x) for x in made]


def pulled(params: Sequence[Tensor], step: int, *, track: bool = False) -> None:
    """Give gradients of a function, and another slope at each step."""
    for i, p in enumerate(params):
        held = p if track else p.detach()
        p.grad = 0.5 * held.clone() + 0.1 * (step + 1) * (-1) ** (i + step)


def own(info: Any, params: Any, kwargs: dict[str, Any]) -> Any:
    more = {"precision": "parameter"} if info.name == "Muon" else {}
    return getattr(optim, info.name)(params, **kwargs, **more)


def same_states(ours: Any, theirs: Any, mine: Sequence[Tensor], others: Sequence[Tensor]) -> None:
    for p, q in zip(mine, others, strict=True):
        for name, value in theirs.state[q].items():
            if value is not None:
                close([torch.as_tensor(ours.state[p][name])], [torch.as_tensor(value)], 1e-11)
    for one, two in zip(ours.param_groups, theirs.param_groups, strict=True):
        assert two.keys() <= one.keys()


CASES = [
    (info, flag) for info in INFOS for flag in ("", "foreach", "fused", "differentiable")
    if info.name not in ("LBFGS", "Muon") or not flag
]  # fmt: skip


@pytest.mark.parametrize(("info", "flag"), CASES, ids=[f"{info.name}-{flag}" for info, flag in CASES])
def test_every_input_takes_torchs_steps(info: Any, flag: str, exact: None) -> None:
    """Weights, states and groups after each of five steps, whichever way it is to be carried out."""
    more = {flag: True} if flag in own(info, parameters(info), {}).defaults else {}
    for given in inputs_of(info):
        mine, others = parameters(info), parameters(info)
        if flag == "differentiable":
            mine = [p.detach().clone() for p in mine]
        ours = own(info, mine, copy.deepcopy(given.kwargs) | more)
        theirs = info.optim_cls(others, **plain(given.kwargs))
        for step in range(5):
            if info.name == "LBFGS":
                with_closures(ours, theirs, mine, others, given.desc)
                continue
            pulled(mine, step, track=flag == "differentiable")
            pulled(others, step)
            ours.step()
            theirs.step()
            close(mine, others, 1e-11)
            same_states(ours, theirs, mine, others)


def with_closures(ours: Any, theirs: Any, mine: list[Tensor], others: list[Tensor], desc: str) -> None:
    losses = []
    for optimizer, params in ((ours, mine), (theirs, others)):

        def closure(optimizer: Any = optimizer, params: list[Tensor] = params) -> Tensor:
            optimizer.zero_grad()
            loss: Tensor = sum((p**2 + (p - 1) ** 4).sum() for p in params)  # type: ignore[assignment]
            loss.backward()
            return loss

        losses.append((closure().item(), optimizer.step(closure).item(), closure().item()))
    if ("LBFGS", desc) in OTHERWISE:
        assert all(after <= before + 1e-12 for before, _, after in losses)
        return
    # torch ends where values change by little, ours where they do so relative to their size
    close(mine, others, 1e-5)


@each_class
def test_every_input_that_torch_refuses_is_refused(info: Any) -> None:
    """As torch does, or with a sentence of ours; what ours takes nevertheless stands in the table."""
    for error in info.optim_error_inputs_func("cpu", torch.float64):
        given = error.optimizer_error_input
        params = parameters(info) if given.params is None else given.params
        if error.error_type is UserWarning:
            with pytest.warns(UserWarning, match="duplicate parameters"):
                own(info, params, given.kwargs)
        elif given.desc in MORE:
            own(info, params, given.kwargs)
        elif error.error_on is common.OptimizerErrorEnum.STEP_ERROR:
            with pytest.raises(OptionError):
                own(info, params, given.kwargs).step()
        else:
            with pytest.raises((ValueError, TypeError)) as caught:
                own(info, params, given.kwargs)
            assert "\n" not in str(caught.value)


def test_the_tables_say_nothing_more() -> None:
    said = {
        error.optimizer_error_input.desc
        for info in INFOS
        for error in info.optim_error_inputs_func("cpu", torch.float64)
    }
    assert set(MORE) <= said
    assert {name for name, what in LESS if what == "sparse"} == {
        info.name for info in INFOS if info.supports_sparse
    }
    assert {name for name, what in LESS if what == "complex"} == {
        info.name for info in INFOS if info.supports_complex
    } - {info.name for info in ELEMENTWISE}


@each_class
def test_complex_parameters_take_torchs_steps(info: Any) -> None:
    mine, others = (parameters(info, torch.complex128) for _ in range(2))
    if not info.supports_complex or (info.name, "complex") in LESS:
        pulled(mine, 0)
        with pytest.raises(OptionError, match="complex"):
            own(info, mine, {}).step()
        return
    for given in inputs_of(info):
        mine, others = (parameters(info, torch.complex128) for _ in range(2))
        ours, theirs = (
            own(info, mine, copy.deepcopy(given.kwargs)),
            info.optim_cls(others, **plain(given.kwargs)),
        )
        for step in range(3):
            for params, optimizer in ((mine, ours), (others, theirs)):
                pulled(params, step)
                optimizer.step()
        for p, q in zip(mine, others, strict=True):
            torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-11, atol=1e-11)


SCHEDULED = [(info, number) for info in ELEMENTWISE for number in range(len(info.scheduler_inputs))]


@pytest.mark.parametrize(
    ("info", "number"), SCHEDULED, ids=[f"{info.name}-{number}" for info, number in SCHEDULED]
)
def test_torchs_schedulers_drive_ours_as_its_own(info: Any, number: int) -> None:
    """All schedulers of one entry of the database together."""
    mine, others = parameters(info), parameters(info)
    ours, theirs = own(info, mine, {"lr": 0.1}), info.optim_cls(others, lr=0.1)
    made = [[make(optimizer) for make in info.scheduler_inputs[number]] for optimizer in (ours, theirs)]
    for step in range(14):
        for params, optimizer, schedulers in zip((mine, others), (ours, theirs), made, strict=True):
            pulled(params, step)
            optimizer.step()
            for scheduler in schedulers:
                needs_loss = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
                scheduler.step(1.0) if needs_loss else scheduler.step()
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"]
    assert ours.param_groups[0]["lr"] != 0.1
    close(mine, others, 1e-11)


@each_elementwise
def test_states_of_older_versions_load(info: Any) -> None:
    """Without the words that came later, and with steps that are plain numbers."""
    for given in info.optim_inputs_func("cpu"):
        begun, copied = parameters(info), parameters(info)
        theirs, plainly = info.optim_cls(begun, **given.kwargs), plain(given.kwargs)
        for step in range(3):
            pulled(begun, step)
            theirs.step()
        old = copy.deepcopy(theirs.state_dict())
        for group in old["param_groups"]:
            for name in (*info.not_og_supported_flags, "fused"):
                if name != "maximize" or not group.get(name):
                    group.pop(name, None)
        for entry in old["state"].values():
            if "step" in entry:
                entry["step"] = float(entry["step"])
        for p, q in zip(copied, begun, strict=True):
            p.data.copy_(q)
        ours = own(info, copied, plainly)
        ours.load_state_dict(old)
        for step in range(3, 6):
            pulled(begun, step)
            pulled(copied, step)
            theirs.step()
            ours.step()
        close(copied, begun, 1e-11)


@each_elementwise
def test_what_is_frozen_on_the_way_is_as_in_torch(info: Any) -> None:
    """``requires_grad`` switched off and on, gradients set to None or to zero in between."""
    mine, others = parameters(info), parameters(info)
    kwargs = {"lr": 0.05, **({"weight_decay": 0.1} if info.name != "Rprop" else {})}
    ours, theirs = own(info, mine, kwargs), info.optim_cls(others, **kwargs)
    for step in range(6):
        for params, optimizer in ((mine, ours), (others, theirs)):
            pulled(params, step)
            params[0].requires_grad_(step not in (2, 3))
            optimizer.step()
            optimizer.zero_grad(set_to_none=step % 2 == 0)
            if step == 3:
                # what was set to zero is a gradient, which decays and keeps on moving
                optimizer.step()
    close(mine, others, 1e-11)
    same_states(ours, theirs, mine, others)


@each_class
def test_copies_and_pickles_of_torchs_hooks_do_not_travel(info: Any) -> None:
    """As in torch: a copy has its state and groups, and no hook of anybody's."""
    params = parameters(info)
    ours = own(info, params, {})
    calls: list[int] = []
    ours.register_step_post_hook(lambda *_: calls.append(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        copied = copy.deepcopy(ours)
    take: Callable[[Any], Any] = lambda it: it.step(lambda: zero(it)) if info.name == "LBFGS" else it.step()  # noqa: E731
    take(copied)
    assert calls == []
    take(ours)
    assert calls == [1]
    assert trees_equal(copied.state_dict()["param_groups"], ours.state_dict()["param_groups"])


def zero(optimizer: Any) -> Tensor:
    loss: Tensor = sum(p.square().sum() for p in optimizer.param_groups[0]["params"])
    loss.backward()
    return loss
