"""Muon against torch's, whose iteration is computed here in the type of the parameter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thalweg import optim, rules, runtimes
from thalweg.errors import OptionError

from .problems import close, parameters, set_gradients, snapshot, train

SHAPES = ((3, 4), (6, 2), (4, 4), (1, 5), (0, 3))
CASES: list[dict[str, Any]] = [
    {},
    {"lr": 0.05, "weight_decay": 0.3, "momentum": 0.8, "nesterov": False},
    {"lr": 0.05, "adjust_lr_fn": "match_rms_adamw"},
    {"lr": 0.05, "adjust_lr_fn": "original", "ns_steps": 3, "ns_coefficients": (3.0, -3.2, 1.2), "eps": 1e-3},
    # above the norm of every gradient
    {"lr": 0.05, "eps": 50.0},
]
torchs = pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon")


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch computes the iteration in bfloat16, in which no two orders of operations agree."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda x: x.clone())


@torchs
@pytest.mark.parametrize("options", CASES, ids=str)
def test_equal_to_torch_step_by_step(options: dict[str, Any], exact: None) -> None:
    a, b = parameters(shapes=SHAPES), parameters(shapes=SHAPES)
    ours, theirs = optim.Muon(a, precision="parameter", **options), torch.optim.Muon(b, **options)
    for step in range(30):
        for optimizer, params in ((ours, a), (theirs, b)):
            set_gradients(params, step)
            optimizer.step()
        torch.testing.assert_close(list(a), list(b), rtol=1e-9, atol=1e-10)
    for p, q in zip(a, b, strict=True):
        torch.testing.assert_close(ours.state[p]["momentum_buffer"], theirs.state[q]["momentum_buffer"])


@torchs
def test_the_default_precision_is_torchs_too() -> None:
    a, b = parameters(torch.float32, SHAPES), parameters(torch.float32, SHAPES)
    ours, theirs = optim.Muon(a, lr=0.1, weight_decay=0.0), torch.optim.Muon(b, lr=0.1, weight_decay=0.0)
    start = [p.detach().clone() for p in a]
    for optimizer, params in ((ours, a), (theirs, b)):
        set_gradients(params, 0)
        optimizer.step()
    for p, q, s in zip(a, b, start, strict=True):
        torch.testing.assert_close(p - s, q - s, rtol=3e-2, atol=3e-3)


@pytest.mark.parametrize("precision", ["parameter", "bfloat16"])
@pytest.mark.parametrize(("dtype", "power"), [(torch.float32, 100), (torch.float64, 900)], ids=str)
def test_a_step_does_not_depend_on_the_size_of_gradients(
    dtype: torch.dtype, power: int, precision: Any
) -> None:
    """Times a power of two, to the bit, also where squares overflow; below eps steps become smaller."""
    if precision == "bfloat16":
        power = min(power, 100)
    ends = []
    for factor in (1.0, 2.0**power, 2.0**-10):
        params = parameters(dtype, SHAPES)
        optimizer = optim.Muon(params, lr=0.1, precision=precision)
        for step in range(3):
            set_gradients(params, step)
            for p in params:
                assert p.grad is not None
                p.grad *= factor
            optimizer.step()
        ends.append(params)
    for other in ends[1:]:
        assert all(map(torch.equal, ends[0], other))


@torchs
def test_checkpoints_load_both_ways(exact: None) -> None:
    def ours(p: Any) -> Any:
        return optim.Muon(p, lr=0.05, precision="parameter")

    def theirs(p: Any) -> Any:
        return torch.optim.Muon(p, lr=0.05)

    for first, second in ((ours, theirs), (theirs, ours)):
        a = parameters(shapes=SHAPES)
        begun = first(a)
        train(begun, a, range(5))
        b = [torch.nn.Parameter(p.detach().clone()) for p in a]
        went_on = second(b)
        went_on.load_state_dict(snapshot(begun))
        train(begun, a, range(5, 12))
        train(went_on, b, range(5, 12))
        torch.testing.assert_close(list(a), list(b), rtol=1e-9, atol=1e-10)


def test_many_steps_of_a_converging_iteration_make_a_matrix_orthogonal() -> None:
    """Coefficients 15/8, -10/8, 3/8 lead to the polar factor, which the singular vectors give too."""
    for shape in ((3, 5), (5, 3), (4, 4)):
        p = torch.nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        optimizer = optim.Muon(
            [p], lr=1.0, weight_decay=0, momentum=0.0, ns_steps=40, ns_coefficients=(1.875, -1.25, 0.375),
            precision="parameter", nesterov=False,
        )  # fmt: skip
        p.grad = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        optimizer.step()
        u, _, v = torch.linalg.svd(p.grad, full_matrices=False)
        scale = max(1.0, shape[0] / shape[1]) ** 0.5
        torch.testing.assert_close(-p.detach() / scale, u @ v, rtol=1e-8, atol=1e-8)


def test_others_are_adamws() -> None:
    shapes = ((3, 4), (4,), (), (2, 3, 2), (0,))
    a, b = parameters(shapes=shapes), parameters(shapes=shapes)
    options: dict[str, Any] = {"lr": 0.05, "weight_decay": 0.1}
    both = optim.Muon(
        a, others="adamw", adamw_betas=(0.8, 0.9), adamw_eps=1e-4, adamw_ratio=0.5, precision="parameter",
        **options,
    )  # fmt: skip
    matrices = optim.Muon(b[:1], precision="parameter", **options)
    vectors = optim.AdamW([b[1], b[2], b[4]], lr=0.025, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)
    flat = torch.nn.Parameter(b[3].detach().flatten(1))
    kernel = optim.Muon([flat], precision="parameter", **options)
    for step in range(15):
        set_gradients(a, step)
        set_gradients(b, step)
        flat.grad = a[3].grad.flatten(1)  # type: ignore[union-attr]
        for optimizer in (both, matrices, vectors, kernel):
            optimizer.step()
    for i in (0, 1, 2, 4):
        close(a[i], b[i])
    close(a[3].detach().flatten(1), flat)
    held = {i: {k for k, v in both.state[p].items() if v.numel()} for i, p in enumerate(a[:3])}
    assert held == {
        0: {"step", "momentum_buffer"},
        1: {"step", "exp_avg", "exp_avg_sq"},
        2: {"step", "exp_avg", "exp_avg_sq"},
    }


def test_what_is_no_matrix_is_refused_at_once_and_later() -> None:
    with pytest.raises(OptionError, match=r"has the shape \(4,\), but only matrices"):
        optim.Muon(parameters())
    optimizer = optim.Muon(parameters(shapes=((2, 2),)))
    late = parameters(shapes=((3,),))
    optimizer.add_param_group({"params": late})
    set_gradients(late, 0)
    with pytest.raises(OptionError, match="others='adamw'"):
        optimizer.step()
    complex_ones = parameters(torch.complex64, ((2, 2),))
    refused = optim.Muon(complex_ones)
    set_gradients(complex_ones, 0)
    with pytest.raises(OptionError, match="can't do with complex parameters"):
        refused.step()


@pytest.mark.parametrize("precision", ["parameter", "bfloat16"])
def test_lanes_equal_alone(precision: str) -> None:
    lanes, shapes = 3, ((4, 3), (2, 5), (6,), (2, 3, 2), ())
    generator = torch.Generator().manual_seed(2)
    together = [torch.randn(lanes, *s, generator=generator, dtype=torch.float64) for s in shapes]
    alone = [[p[lane].clone() for p in together] for lane in range(lanes)]
    each = {
        "lr": np.array([0.1, 0.02, 0.3]),
        "momentum": np.array([0.9, 0.5, 0.0]),
        "weight_decay": np.array([0.0, 0.1, 0.2]),
        "ns_steps": np.array([5.0, 2.0, 7.0]),
        "beta2": np.array([0.9, 0.99, 0.5]),
    }
    options = {"precision": precision}
    states = runtimes.initial_states(rules.muon_adamw, together, each, options, lanes=True)
    own = [{name: float(values[lane]) for name, values in each.items()} for lane in range(lanes)]
    own_states = [runtimes.initial_states(rules.muon_adamw, alone[i], own[i], options) for i in range(lanes)]
    for t in range(1, 6):
        grads = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in together]
        runtimes.apply(rules.muon_adamw, together, grads, states, each, options, t, lanes=True)
        for i in range(lanes):
            mine = [g[i] for g in grads]
            runtimes.apply(rules.muon_adamw, alone[i], mine, own_states[i], own[i], options, t)
    tolerance = 1e-10 if precision == "parameter" else 1e-2
    for i in range(lanes):
        for joint, single in zip(together, alone[i], strict=True):
            torch.testing.assert_close(joint[i], single, rtol=tolerance, atol=tolerance)
