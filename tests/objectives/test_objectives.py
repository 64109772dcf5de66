from __future__ import annotations

import math
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as oracle
from torch.nn import functional as F

from thalweg import objectives
from thalweg.errors import OptionError
from thalweg.objectives import Task
from thalweg.run.targets import suited_metric

TWO = Task(kind="classification", classes=("no", "yes"))
FOUR = Task(kind="classification", classes=("a", "b", "c", "d"))
NUMBER = Task(kind="regression", spread=30.0, center=5.0, scale=20.0)
CUSTOM = Task(kind="custom")
N, LANES = 50, 3


def draws(task: Task, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Outputs [LANES, N, C] with ties, targets [N], weights [LANES, N] that are counts of a resample."""
    generator = torch.Generator().manual_seed(len(task.classes))
    width = max(1, len(task.classes))
    outputs = torch.randn(LANES, N, width, generator=generator, dtype=dtype).mul(4).round().div(4)
    targets = (
        torch.randint(0, width, (N,), generator=generator)
        if task.classes
        else torch.randn(N, generator=generator, dtype=dtype)
    )
    weights = torch.bincount(
        torch.randint(0, N * LANES, (N * LANES,), generator=generator), minlength=N * LANES
    )
    return outputs, targets, weights.reshape(LANES, N)


def expected(name: str, outputs: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> float:
    predicted = outputs.argmax(-1)
    own = {"sample_weight": weights}
    if name == "accuracy":
        return float(oracle.accuracy_score(targets, predicted, **own))
    if name == "balanced-accuracy":
        return float(oracle.balanced_accuracy_score(targets, predicted, **own))
    if name == "log-loss":
        likely = np.exp(outputs) / np.exp(outputs).sum(-1, keepdims=True)
        return float(oracle.log_loss(targets, likely, labels=range(outputs.shape[-1]), **own))
    if name == "auc":
        return float(oracle.roc_auc_score(targets, outputs[:, 1] - outputs[:, 0], **own))
    guess, truth = (5 + 20 * part for part in (outputs[:, 0], targets))
    if name == "rmse":
        return float(oracle.root_mean_squared_error(truth, guess, **own))
    if name == "r2":
        return float(oracle.r2_score(truth, guess, **own))
    return float(oracle.mean_absolute_error(truth, guess, **own))


@pytest.mark.parametrize(
    ("name", "task"),
    [
        *((name, task) for name in ("accuracy", "balanced-accuracy", "log-loss") for task in (TWO, FOUR)),
        ("auc", TWO),
        *((name, NUMBER) for name in ("rmse", "r2", "mae")),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_metrics_equal_scikit_learn_for_lanes_and_resamples(
    name: str, task: Task, dtype: torch.dtype
) -> None:
    metric = objectives.metric(name, task)
    outputs, targets, weights = draws(task, dtype)
    reduced = metric.reduce(outputs, targets)
    assert reduced.shape == (LANES, N)
    for counts in (None, weights, weights[0]):
        scores = metric.score(reduced, targets, counts)
        assert scores.dtype == torch.float64
        each = torch.ones(LANES, N) if counts is None else counts.expand(LANES, N)
        for lane in range(LANES):
            found = expected(name, outputs[lane].double().numpy(), targets.numpy(), each[lane].numpy())
            assert scores[lane].item() == pytest.approx(found, rel=1e-5 if dtype == torch.float32 else 1e-12)
    many = metric.score(reduced[0], targets, weights)
    torch.testing.assert_close(many, torch.stack([metric.score(reduced[0], targets, w) for w in weights]))
    repeated = torch.repeat_interleave(torch.arange(N), weights[1])
    resampled = metric.score(reduced[1][repeated], targets[repeated])
    torch.testing.assert_close(metric.score(reduced[1], targets, weights[1]), resampled)


@pytest.mark.parametrize("name", ["rmse", "r2", "mae"])
def test_metrics_of_several_numbers_an_example_are_over_all(name: str) -> None:
    """R2 is the mean of that of each number; the others know no difference between numbers."""
    task = Task(kind="regression", spread=30.0, center=5.0, scale=20.0, columns=3)
    metric = objectives.metric(name, task)
    generator = torch.Generator().manual_seed(3)
    outputs = torch.randn(LANES, N, 3, generator=generator, dtype=torch.float64)
    targets = outputs[0] + torch.tensor([0.1, 1.0, 3.0]) * torch.randn(N, 3, generator=generator)
    weights = torch.randint(0, 4, (LANES, N), generator=generator)
    reduced = metric.reduce(outputs, targets)
    for counts in (None, weights):
        scores = metric.score(reduced, targets, counts)
        for lane in range(LANES):
            guess, truth = (5 + 20 * part.numpy() for part in (outputs[lane], targets))
            own = {} if counts is None else {"sample_weight": weights[lane].numpy()}
            found = {
                "rmse": lambda *pair, **own: math.sqrt(oracle.mean_squared_error(*pair, **own)),
                "r2": oracle.r2_score,
                "mae": oracle.mean_absolute_error,
            }[name](truth, guess, **own)
            assert scores[lane].item() == pytest.approx(found, rel=1e-12)


def test_an_own_metric_of_a_resample_is_given_each_example_as_often_as_it_was_drawn() -> None:
    def own(outputs: torch.Tensor, targets: torch.Tensor) -> float:
        return float((outputs[:, 0] * targets).sum() / len(targets))

    metric = objectives.metric(own, CUSTOM)
    outputs = torch.tensor([[1.0], [2.0], [4.0], [8.0]], dtype=torch.float64)
    targets, counts = torch.tensor([1.0, 1.0, 2.0, 1.0]), torch.tensor([[0, 1, 3, 2], [1, 1, 1, 1]])
    scores = metric.score(metric.reduce(outputs, targets), targets, counts)
    assert scores.tolist() == [(2.0 + 3 * 8.0 + 2 * 8.0) / 6, (1.0 + 2.0 + 8.0 + 8.0) / 4]


def test_balanced_accuracy_counts_a_class_that_training_has_not_seen() -> None:
    metric = objectives.metric("balanced-accuracy", TWO)
    outputs, targets = (
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]),
        torch.tensor([0, 0, 0, 2]),
    )
    scores = metric.score(metric.reduce(outputs, targets), targets)
    assert scores.item() == pytest.approx((2 / 3 + 0) / 2, rel=1e-12)


def test_one_logit_for_two_classes() -> None:
    outputs, targets, weights = draws(TWO)
    logit = outputs[..., 1:] - outputs[..., :1]
    both = torch.cat([torch.zeros_like(logit), logit], -1)
    keep = logit[..., 0] != 0
    for name in objectives.names("metric", TWO):
        metric = objectives.metric(name, TWO)
        counts = weights * keep
        one = metric.score(metric.reduce(logit, targets), targets, counts)
        torch.testing.assert_close(one, metric.score(metric.reduce(both, targets), targets, counts))


@pytest.mark.parametrize("name", ["accuracy", "balanced-accuracy", "log-loss", "auc"])
def test_nan_outputs_make_nan_scores_in_their_lane_alone(name: str) -> None:
    metric = objectives.metric(name, TWO)
    outputs, targets, _ = draws(TWO)
    whole = metric.score(metric.reduce(outputs, targets), targets)
    outputs[1, 7, 0] = math.nan
    scores = metric.score(metric.reduce(outputs, targets), targets)
    assert scores[1].isnan()
    assert torch.equal(scores[[0, 2]], whole[[0, 2]])


def test_metrics_that_a_resample_leaves_undefined() -> None:
    outputs, targets, _ = draws(TWO)
    alone = (targets == 1).long()
    auc = objectives.metric("auc", TWO)
    assert auc.score(auc.reduce(outputs, targets), targets, alone).isnan().all()
    balanced = objectives.metric("balanced-accuracy", TWO)
    accuracy = objectives.metric("accuracy", TWO)
    reduced = accuracy.reduce(outputs, targets)
    torch.testing.assert_close(
        balanced.score(reduced, targets, alone), accuracy.score(reduced, targets, alone)
    )


@pytest.mark.parametrize("name", ["cross-entropy", "bce", "mse", "mae", "huber"])
def test_losses_equal_torch_and_their_lanes(name: str) -> None:
    task = {"cross-entropy": FOUR, "bce": TWO}.get(name, NUMBER)
    loss = objectives.loss(name, task)
    outputs, targets, _ = draws(task)
    assert loss.per_example is not None
    each = loss.per_example(outputs, targets)
    assert each.shape == (LANES, N)
    torch.testing.assert_close(each, loss.per_example(outputs, targets.expand(LANES, N)))
    for lane in range(LANES):
        one = outputs[lane]
        direct = {
            "cross-entropy": lambda one=one: F.cross_entropy(one, targets),
            "bce": lambda one=one: F.cross_entropy(one, targets),
            "mse": lambda one=one: F.mse_loss(one[:, 0], targets),
            "mae": lambda one=one: F.l1_loss(one[:, 0], targets),
            "huber": lambda one=one: F.huber_loss(one[:, 0], targets),
        }[name]()
        torch.testing.assert_close(loss(one, targets), direct)
        torch.testing.assert_close(each[lane].mean(), direct)


def test_bce_of_one_logit() -> None:
    outputs, targets, _ = draws(TWO)
    loss = objectives.loss("bce", TWO)
    direct = F.binary_cross_entropy_with_logits(outputs[0, :, 1], targets.double())
    torch.testing.assert_close(loss(outputs[0, :, 1:], targets), direct)


def test_losses_of_several_numbers_an_example() -> None:
    outputs, targets = torch.randn(8, 3), torch.randn(8, 3)
    assert objectives.loss("mse", CUSTOM)(outputs, targets) == F.mse_loss(outputs, targets)


def test_losses_of_images_of_classes() -> None:
    outputs, targets = torch.randn(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.long)
    assert objectives.loss("cross-entropy", CUSTOM)(outputs, targets) == F.cross_entropy(outputs, targets)


def test_defaults() -> None:
    assert (objectives.loss(None, TWO).name, objectives.metric(None, TWO).name) == (
        "cross-entropy",
        "accuracy",
    )
    assert (objectives.loss(None, NUMBER).name, objectives.metric(None, NUMBER).name) == ("mse", "rmse")
    with pytest.raises(OptionError, match=r"doesn't settle the loss"):
        objectives.loss(None, CUSTOM)
    with pytest.raises(OptionError, match=r"doesn't settle the metric"):
        objectives.metric(None, CUSTOM)


def test_predictions_of_different_splits_compare() -> None:
    truth, guess = torch.tensor([1e6, 1e6 + 3.0], dtype=torch.float64), torch.tensor([1e6 + 1, 1e6 + 2.0])
    scores, predictions = [], []
    for center, scale in ((1e6, 2.0), (1e6 + 1, 0.5)):
        metric = objectives.metric("mae", Task(kind="regression", center=center, scale=scale))
        reduced = metric.reduce(((guess.double() - center) / scale)[:, None], truth)
        predictions.append(reduced)
        scores.append(metric.score(torch.stack(predictions), (truth - center) / scale)[-1].item())
    assert scores == [1.0, 1.0]
    torch.testing.assert_close(predictions[0], predictions[1])


def test_bounds_and_margins() -> None:
    for name, task, best, worst, margin in (
        ("accuracy", TWO, 1, 0, 0.01),
        ("balanced-accuracy", TWO, 1, 0, 0.01),
        ("auc", TWO, 1, 0, 0.01),
        ("log-loss", TWO, 0, math.inf, 0.02),
        ("rmse", NUMBER, 0, math.inf, 0.6),
        ("mae", NUMBER, 0, math.inf, 0.6),
        ("r2", NUMBER, 1, -math.inf, 0.02),
    ):
        metric = objectives.metric(name, task)
        assert (metric.best, metric.worst) == (best, worst)
        assert metric.default_margin == pytest.approx(margin)
        assert metric.higher_is_better == (metric.best > metric.worst)
        assert metric.per_example


@pytest.mark.parametrize(
    ("what", "name", "task", "says"),
    [
        ("loss", "cross-entrpy", TWO, "there is no loss 'cross-entrpy'; did you mean 'cross-entropy'"),
        ("metric", "acuracy", TWO, "there is no metric 'acuracy'; did you mean 'accuracy'"),
        ("loss", "mse", TWO, "'mse' doesn't fit classification; choose 'cross-entropy' or 'bce'"),
        ("loss", "cross-entropy", NUMBER, "doesn't fit regression; choose 'mse' or 'mae' or 'huber'"),
        ("loss", "bce", FOUR, "'bce' is for two classes, not 4"),
        ("metric", "auc", FOUR, "'auc' is for two classes, not 4"),
        ("metric", "rmse", TWO, "'rmse' is for regression, not for a classification task; choose 'accuracy'"),
        ("metric", "rmse", CUSTOM, "give a function .* 'file.py:function'"),
        ("loss", "nowhere.py:f", TWO, "there is no file 'nowhere.py'"),
        ("metric", "math:pi", TWO, "isn't a function"),
    ],
)
def test_names_that_cannot_be_used(what: str, name: str, task: Task, says: str) -> None:
    with pytest.raises(OptionError, match=says):
        getattr(objectives, what)(name, task)


OWN = """
import torch
def loss(outputs, targets):
    return ((outputs[:, 0] - targets) ** 4).mean()
def biggest(outputs, targets):
    return (outputs[:, 0] - targets).abs().max()
biggest.higher_is_better = False
biggest.best = 0.0
biggest.margin = 0.5
def word(outputs, targets):
    return "good"
"""


def test_own_functions(tmp_path: Path) -> None:
    path = tmp_path / "own.py"
    path.write_text(OWN)
    outputs, targets, weights = draws(NUMBER)
    loss = objectives.loss(f"{path}:loss", NUMBER)
    assert loss.per_example is None
    assert loss(outputs[0], targets) == ((outputs[0, :, 0] - targets) ** 4).mean()
    metric = objectives.metric(f"{path}:biggest", NUMBER)
    assert not metric.per_example
    assert (metric.best, metric.worst, metric.higher_is_better) == (0.0, math.inf, False)
    assert metric.default_margin == 0.5
    reduced = metric.reduce(outputs, targets)
    scores = metric.score(reduced, targets)
    torch.testing.assert_close(scores, 20 * (outputs[..., 0] - targets).abs().amax(-1))
    resampled = metric.score(reduced, targets, weights)
    gone = (outputs[..., 0] - targets).abs().masked_fill(weights == 0, 0.0)
    torch.testing.assert_close(resampled, 20 * gone.amax(-1))
    with pytest.raises(OptionError, match=r"gave str, not a number"):
        objectives.metric(f"{path}:word", NUMBER).score(reduced, targets)


def test_functions_given_in_python_are_found_again_by_name() -> None:
    def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, 0] - targets).square().mean()

    first = objectives.loss(mine, NUMBER)
    assert first.name.startswith("python:mine")
    assert objectives.loss(first.name, NUMBER).function is mine
    assert objectives.loss(mine, NUMBER).name == first.name

    def another() -> object:
        def mine(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
            return outputs.sum()

        return mine

    other = objectives.loss(another(), NUMBER)
    assert other.name != first.name
    assert objectives.loss(first.name, NUMBER).function is mine
    assert objectives.loss(torch.nn.MSELoss, CUSTOM)(torch.ones(2), torch.zeros(2)) == 1
    assert objectives.loss(first, NUMBER) is first


@pytest.mark.parametrize("name", ["accuracy", "balanced-accuracy", "log-loss", "auc"])
def test_a_metric_by_name_goes_to_another_process(name: str) -> None:
    task = Task(kind="classification", classes=("a", "b"))
    whole = suited_metric(objectives.metric(name, task), task, ignored=7)
    copy = pickle.loads(pickle.dumps(whole))
    outputs = torch.tensor([[0.3], [-2.0], [0.1], [4.0]], dtype=torch.float64)
    targets = torch.tensor([1, 0, 0, 7])
    scores = [float(each.score(each.reduce(outputs, targets), targets)) for each in (whole, copy)]
    assert scores[0] == scores[1]
