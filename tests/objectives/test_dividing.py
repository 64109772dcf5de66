"""A loss of parts is the loss of the whole: against one backward pass over the full batch, in float64."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thalweg
from small import prepared, problem, runs, workload
from thalweg.data.examples import TensorExamples
from thalweg.data.source import Prepared
from thalweg.errors import OptionError
from thalweg.execution import lanes, loop
from thalweg.objectives import Task, as_loss
from thalweg.objectives.dividing import Division, divided
from thalweg.training.evaluate import score
from thalweg.training.loader import in_blocks
from thalweg.training.steps import make_step
from training import pairs

N, C, T = 23, 3, 4
G = torch.Generator().manual_seed(4)
X = torch.randn(N, 5, generator=G, dtype=torch.float64)
LABELS = torch.randint(0, C, (N,), generator=G)
IGNORED = LABELS.masked_fill(torch.rand(N, generator=G) < 0.4, 1)
TOKENS = torch.randint(0, C, (N, T), generator=G)
# whole rows, and thereby a whole part in some divisions, hold nothing but padding
TOKENS[:8] = -100
TOKENS[12:, 2:] = -100
NUMBERS = torch.randn(N, C, generator=G, dtype=torch.float64)
WEIGHT = torch.tensor([0.2, 1.0, 5.0], dtype=torch.float64)


class Tokens(nn.Module):
    """Scores ``[N, C, T]``."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, C * T)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x).reshape(-1, C, T)  # type: ignore[no-any-return]


class LogSoftmax(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, C)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.layer(x), 1)


def shifted(outputs: Tensor, targets: Tensor) -> Tensor:
    """The next token's loss, as language models have it."""
    return F.cross_entropy(outputs[..., :-1].transpose(1, 2).flatten(0, 1), targets[:, 1:].flatten())


def halved(outputs: Tensor, targets: Tensor) -> Tensor:
    return 0.5 * F.cross_entropy(outputs, targets)


def weighted(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets, weight=1 + targets.abs())


def own_mean(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).pow(4).mean()


def own_sum(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).pow(4).sum()


def root(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.mse_loss(outputs, targets).sqrt()


def penalized(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs, targets) + outputs.square().mean()


plain = functools.partial(nn.Linear, 5, C)
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Tensor]] = {
    "cross_entropy": (plain, F.cross_entropy, LABELS),
    "named": (Tokens, "cross-entropy", TOKENS),
    "partial, ignored": (plain, functools.partial(F.cross_entropy, ignore_index=1), IGNORED),
    "module, weighted and ignored": (plain, nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1), IGNORED),
    "smoothed": (plain, nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=1, label_smoothing=0.1), IGNORED),
    "nll": (LogSoftmax, nn.NLLLoss(weight=WEIGHT, ignore_index=1), IGNORED),
    # a class that the weights have none for
    "weighted, 255 ignored": (
        plain, nn.CrossEntropyLoss(weight=WEIGHT, ignore_index=255), IGNORED.masked_fill(IGNORED == 1, 255),
    ),
    "tokens": (Tokens, nn.CrossEntropyLoss(), TOKENS),
    "tokens, weighted": (Tokens, functools.partial(F.cross_entropy, weight=WEIGHT), TOKENS),
    "probabilities": (plain, nn.CrossEntropyLoss(weight=WEIGHT), NUMBERS.softmax(1)),
    "bce": (plain, nn.BCEWithLogitsLoss(weight=WEIGHT, pos_weight=2 * WEIGHT), (NUMBERS > 0).double()),
    "kl": (LogSoftmax, nn.KLDivLoss(reduction="batchmean"), NUMBERS.softmax(1)),
    "margin": (plain, nn.MultiMarginLoss(weight=WEIGHT), LABELS),
    "soft margin": (plain, nn.MultiLabelSoftMarginLoss(), (NUMBERS > 0).double()),
    "mse": (plain, nn.MSELoss(), NUMBERS),
    "sum": (plain, nn.MSELoss(reduction="sum"), NUMBERS),
    "sum, ignored": (plain, nn.CrossEntropyLoss(ignore_index=1, reduction="sum"), IGNORED),
    "old spelling of a sum": (plain, functools.partial(F.mse_loss, size_average=False), NUMBERS),
    "shifted": (Tokens, shifted, TOKENS),
    "halved": (Tokens, halved, TOKENS),
    "weighted by targets": (plain, weighted, NUMBERS),
    "own mean": (plain, own_mean, NUMBERS),
    "own sum": (plain, own_sum, NUMBERS),
}  # fmt: skip
UNDIVIDED: dict[str, tuple[Callable[[], nn.Module], Any, Tensor]] = {
    "root": (plain, root, NUMBERS),
    "penalized": (Tokens, penalized, TOKENS),
}


def made(case: str) -> tuple[nn.Module, Any, Tensor]:
    build, loss, targets = {**CASES, **UNDIVIDED}[case]
    torch.manual_seed(0)
    if isinstance(loss, str):
        loss = thalweg.objectives.loss(loss, Task(kind="custom"))
    return build().double(), loss, targets


def expected(case: str) -> tuple[float, list[Tensor]]:
    """The loss of the full batch and its gradient, by torch alone."""
    model, loss, targets = made(case)
    function = loss.function if isinstance(loss, thalweg.objectives.Loss) else loss
    value = function(model(X), targets)
    value.backward()
    return value.item(), [p.grad for p in model.parameters() if p.grad is not None]


def stepped(case: str, **settings: Any) -> tuple[float, list[Tensor]]:
    model, loss, targets = made(case)
    backend = settings.get("backend")
    if backend is not None:
        model = backend.set_up(model)
    # a rate of 1 makes the step the gradient
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    step = make_step("gradient", optimizer, model, loss, **settings)
    inputs, whole = X, None
    if backend is not None:
        share = torch.arange(N).tensor_split(backend.world)[backend.rank]
        inputs, targets, whole = X[share], targets[share], N
    value, _ = step(inputs, targets, 1e18, whole)
    after = [p.detach() for p in model.parameters()]
    return float(value), [b - a for a, b in zip(after, before, strict=True)]


def assert_same(found: tuple[float, list[Tensor]], case: str) -> None:
    value, gradients = expected(case)
    assert found[0] == pytest.approx(value, rel=1e-12)
    for one, other in zip(found[1], gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("parts", [2, 5, N])
@pytest.mark.parametrize("case", CASES)
def test_accumulated_gradients_are_those_of_the_full_batch(case: str, parts: int) -> None:
    assert_same(stepped(case, parts=parts), case)


@pytest.mark.parametrize("parts", [2, N])
@pytest.mark.parametrize("case", UNDIVIDED)
def test_a_loss_that_cannot_be_divided_is_refused_where_it_would_be(case: str, parts: int) -> None:
    assert_same(stepped(case), case)
    with pytest.raises(OptionError, match=r"isn't the mean over its parts .*leave accumulation out"):
        stepped(case, parts=parts)


def test_what_a_batch_without_padding_cannot_tell_is_asked_again() -> None:
    """Both a mean over examples and over tokens, until tokens are ignored."""
    model, loss, targets = made("penalized")
    step = make_step("gradient", torch.optim.SGD(model.parameters(), lr=0.1), model, loss, parts=2)
    whole = TOKENS.clamp_min(0)
    step(X, whole, 1e18)
    with pytest.raises(OptionError, match="isn't the mean over its parts"):
        step(X, targets, 1e18)


def test_one_example_that_is_predicted_exactly_does_not_settle_how_parts_go_together() -> None:
    """A loss of 0 is its own sum and its own mean; the whole batch tells the two apart."""
    model = nn.Linear(1, 1, bias=False).double()
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = torch.tensor([[0.0], [1.0], [2.0]]).double()
    targets = torch.tensor([[0.0], [3.0], [5.0]]).double()
    step = make_step("gradient", torch.optim.SGD(model.parameters(), lr=0.01), model, own_sum, parts=3)
    step(x, targets, 1e18)
    # d/dw sum (w x - t)**4 = 4 sum x (w x - t)**3 = 4 (-8 - 54)
    assert model.weight.item() == pytest.approx(1.0 + 0.01 * 248)


@pytest.mark.filterwarnings("ignore:size_average and reduce args")
@pytest.mark.parametrize("case", {**CASES, **UNDIVIDED})
def test_a_split_has_the_loss_of_the_whole_whatever_the_blocks(case: str) -> None:
    model, loss, targets = made(case)
    for size in (N, 7, 1):
        blocks = in_blocks(TensorExamples(X, targets), size)
        found, _, _ = score(model, blocks, loss, None, lambda: torch.no_grad())
        assert found == pytest.approx(expected(case)[0], rel=1e-12), size


def test_outputs_that_differ_in_length_are_weighed_by_their_elements() -> None:
    """Blocks that are padded to lengths of their own: the mean is over all numbers."""
    blocks = [(torch.ones(3, 2), torch.zeros(3, 2)), (torch.ones(2, 5) * 3, torch.zeros(2, 5))]
    for loss in (F.mse_loss, own_sum):
        found, _, _ = score(nn.Identity(), blocks, loss, None, lambda: torch.no_grad())
        assert found == pytest.approx({F.mse_loss: 96 / 16}.get(loss, 6 + 810))
    with pytest.raises(OptionError, match=r"the loss 'root' .*validate on fewer examples"):
        score(nn.Identity(), [(torch.rand(4, n), torch.zeros(4, n)) for n in (2, 3)], root, None,
              lambda: torch.no_grad())  # fmt: skip


@pytest.mark.parametrize("case", ["module, weighted and ignored", "tokens", "sum", "root", "shifted"])
def test_lanes_evaluate_as_the_loop_does(case: str) -> None:
    build, loss, targets = {**CASES, **UNDIVIDED}[case]
    many = torch.arange(600) % N
    examples = TensorExamples(X[many], targets[many])
    data = Prepared(
        train=TensorExamples(X, targets), validation=examples, test=examples, input_shape=(5,), outputs=C,
        task=Task(kind="custom"), indices={},
    )  # fmt: skip
    common: dict[str, Any] = {
        "problem": problem(
            lambda shape, outputs: build().double(), data, loss=loss, metric=lambda o, t: float(o.mean())
        ),
        "workload": workload(batch_size=11, epochs=2),
    }
    run = runs(1, names=["momentum"])[0]
    lane, alone = lanes.run([run], **common)[0], loop.run(run, **common)
    assert lane.validation_loss == pytest.approx(alone.validation_loss, rel=1e-9)
    assert lane.train_loss == pytest.approx(alone.train_loss, rel=1e-9)


def test_cross_entropy_by_name_leaves_padding_out_in_lanes_too() -> None:
    data = prepared(dtype=torch.float64)
    targets = data.train.targets.masked_fill(torch.arange(150) % 3 == 0, -100)
    data = Prepared(**{**vars(data), "train": TensorExamples(data.train.inputs, targets)})
    common: dict[str, Any] = {
        "problem": problem(
            lambda shape, outputs: nn.Sequential(nn.Flatten(), nn.Linear(16, 3)).double(), data
        ),
        "workload": workload(epochs=1),
    }
    run = runs(1, names=["momentum"])[0]
    lane, alone = lanes.run([run], **common)[0], loop.run(run, **common)
    assert lane.train_loss == pytest.approx(alone.train_loss, rel=1e-9)


PAIRED = ["cross_entropy", "module, weighted and ignored", "tokens", "sum", "mse", "halved", "own sum"]


def shared_out(rank: int, folder: Path) -> None:
    for name, kind in pairs.BACKENDS.items():
        for case in PAIRED:
            for parts in (1, 3):
                value, gradients = stepped(case, backend=kind(), parts=parts)
                full = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in gradients]
                if rank == 0:
                    torch.save((value, full), folder / f"{name} {case} {parts}.pt")
        try:
            stepped("root", backend=kind())
        except OptionError as error:
            (folder / f"{name} {rank}.txt").write_text(str(error))
        blocks = list(in_blocks(TensorExamples(X, IGNORED), 9))
        for case in ("module, weighted and ignored", "sum, ignored"):
            model, loss, _ = made(case)
            found, _, _ = score(model, blocks, loss, None, lambda: torch.no_grad(), kind())
            torch.save(found, folder / f"score {name} {case} {rank}.pt")
        model, loss, _ = made("root")
        blocks = list(in_blocks(TensorExamples(X, NUMBERS), 9))
        found, _, _ = score(model, blocks, loss, None, lambda: torch.no_grad(), kind())
        torch.save(found, folder / f"score {name} root {rank}.pt")


def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    assert pairs.run(shared_out, tmp_path, folder=tmp_path / "said") == [0, 0], pairs.said(tmp_path / "said")
    for name in pairs.BACKENDS:
        for case in PAIRED:
            for parts in (1, 3):
                assert_same(torch.load(tmp_path / f"{name} {case} {parts}.pt"), case)
        for rank in range(2):
            assert "train in one process" in (tmp_path / f"{name} {rank}.txt").read_text()
            for case in ("module, weighted and ignored", "sum, ignored", "root"):
                found = torch.load(tmp_path / f"score {name} {case} {rank}.pt")
                assert found == pytest.approx(expected(case)[0], rel=1e-12)


def test_a_training_with_accumulation_is_that_without() -> None:
    """Through ``fit``, with Adam, dropout left out, and a last part that is smaller."""
    ends = []
    for parts in (1, 4):
        model, loss, targets = made("module, weighted and ignored")
        fitted = thalweg.fit(
            model, (X, targets), loss, "adam", epochs=3, batch_size=10, accumulate=parts,
            validation=(X, targets),
        )  # fmt: skip
        ends.append([*(float(p.detach().sum()) for p in model.parameters()), fitted.final["validation_loss"]])
    assert ends[0] == pytest.approx(ends[1], rel=1e-9)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (nn.MSELoss(reduction="none"), "reduction='none'.*say reduction='mean'"),
        (functools.partial(F.cross_entropy, reduction="none"), "reduction='none'"),
        (lambda o, t: F.mse_loss(o, t, reduction="none"), r"gives shape \(10, 3\), but .* scalar"),
        (lambda o, t: own_mean(o.detach(), t), "doesn't depend on any parameter"),
    ],
)
def test_what_is_no_loss_of_a_batch(loss: Any, says: str) -> None:
    model = plain().double()
    targets = LABELS if "cross" in repr(loss) else NUMBERS
    with pytest.raises(OptionError, match=says):
        thalweg.fit(model, (X, targets), loss, "sgd", steps=1, batch_size=10)


def test_a_loss_that_draws_is_taken_for_a_mean() -> None:
    def noisy(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs + torch.multinomial(torch.ones(9), 1) - targets).square().mean()

    model = plain().double()
    thalweg.fit(model, (X, NUMBERS), noisy, "sgd", steps=2, batch_size=10, accumulate=2)


def test_trying_a_loss_disturbs_no_generator() -> None:
    def spy(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(torch.get_rng_state())
        return own_mean(outputs, targets)

    seen: list[Tensor] = []
    model = plain().double()
    before = torch.get_rng_state()
    step = make_step("gradient", torch.optim.SGD(model.parameters(), lr=0.1), model, as_loss(spy), parts=2)
    step(X, NUMBERS, 1e18)
    assert all(torch.equal(state, before) for state in seen)


def test_a_divisor_is_that_of_torch() -> None:
    """Against what torch's own sum over its own mean comes to."""
    outputs = torch.randn(N, C, generator=G, dtype=torch.float64)
    for options in ({}, {"weight": WEIGHT}, {"ignore_index": 1}, {"weight": WEIGHT, "ignore_index": 1}):
        mean = functools.partial(F.cross_entropy, **options)
        found = divided(mean, outputs, IGNORED)
        whole = F.cross_entropy(outputs, IGNORED, reduction="sum", **options) / mean(outputs, IGNORED)
        assert float(found.divisor or 0) == pytest.approx(float(whole), rel=1e-12)


def test_a_loss_is_tried_again_even_when_it_has_long_been_taken_for_a_mean() -> None:
    """At every 64th part, once powers of two are further apart: the 192nd is the first after the 130th."""

    def masked(outputs: Tensor, targets: Tensor) -> Tensor:
        errors = (outputs[:, 0] - targets[:, 0]).square()
        return (errors * targets[:, 1]).sum() / targets[:, 1].sum()

    division = Division(as_loss(masked), remedy="leave accumulation out")
    outputs, goal = torch.randn(8, 1, generator=G), torch.randn(8, generator=G)
    full = torch.stack([goal, torch.ones(8)], 1)
    holes = torch.stack([goal, torch.tensor([1.0, 1, 1, 0, 1, 0, 0, 1])], 1)
    for number in range(1, 192):
        assert division.part(outputs, full if number < 130 else holes).kind == "mean"
    with pytest.raises(OptionError, match="isn't the mean over its parts"):
        division.part(outputs, holes)


DIVIDED: dict[str, tuple[Any, tuple[int, ...], Tensor, float]] = {
    "mse": (F.mse_loss, (N, C), NUMBERS, C),
    "huber": (F.huber_loss, (N, C), NUMBERS, C),
    "mse of one number": (F.mse_loss, (N,), NUMBERS[:, 0], 1),
    "bce": (F.binary_cross_entropy_with_logits, (N, C), (NUMBERS > 0).double(), C),
    "probabilities": (F.cross_entropy, (N, C), NUMBERS.softmax(1), 1),
    "probabilities of tokens": (
        F.cross_entropy, (N, C, T), NUMBERS.softmax(1)[..., None].expand(-1, -1, T), T,
    ),
    "margin": (F.multi_margin_loss, (N, C), LABELS, 1),
    "soft margin": (F.multilabel_soft_margin_loss, (N, C), (NUMBERS > 0).double(), 1),
    "soft margin of tokens": (
        F.multilabel_soft_margin_loss, (N, T, C), (NUMBERS > 0).double()[:, None].expand(-1, T, -1), T,
    ),
    "multilabel margin": (F.multilabel_margin_loss, (N, C), LABELS[:, None].expand(-1, C).contiguous(), 1),
}  # fmt: skip


@pytest.mark.parametrize("case", DIVIDED)
def test_a_divisor_and_its_positions_are_those_of_torch(case: str) -> None:
    function, shape, targets, positions = DIVIDED[case]
    outputs = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = divided(function, outputs, targets)
    whole = function(outputs, targets, reduction="sum") / function(outputs, targets)
    assert float(found.divisor or 0) == pytest.approx(float(whole), rel=1e-12) == N * positions
    assert found.positions == positions


def test_the_mean_over_a_batch_of_kl_divergence_divides_by_examples() -> None:
    outputs, targets = NUMBERS.log_softmax(1), NUMBERS.flip(0).softmax(1)
    found = divided(functools.partial(F.kl_div, reduction="batchmean"), outputs, targets)
    whole = F.kl_div(outputs, targets, reduction="sum") / F.kl_div(outputs, targets, reduction="batchmean")
    assert float(found.divisor or 0) == pytest.approx(float(whole), rel=1e-12) == N
    assert found.positions == 1
