"""Probes at every depth: features against hooks, fits against scikit-learn and closed forms."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor, nn

from stages.nets import Functional, ResNet, VisionTransformer, mlp
from thalweg.errors import DataError, ModelError, OptionError
from thalweg.layers.modes import set_evaluation
from thalweg.stages import (
    BlockFeatures,
    choose_row,
    domain_errors,
    features_of_blocks,
    fit_linear,
    probe_blocks,
    probe_features,
    probe_parts,
)
from thalweg.stages.linear_probes import Estimate, difference, score_of

GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(7, 1, 8, 8, generator=GENERATOR)
X = torch.randn(90, 5, generator=GENERATOR)
NOISE = torch.randn(90, generator=GENERATOR)
CLASSES = torch.bucketize(X[:, 0] + X[:, 1] ** 2 / 2 + 0.5 * NOISE, torch.tensor([0.0, 1.0]))

FEW = (0.1, 0.01)


# Features ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "inputs", "places"),
    [
        (mlp(5, 6, 4, 3), X, ["2", "4"]),
        (ResNet(), IMAGES, ["layer1.1", "layer2.0", "layer2.1", "global_pool"]),
        (VisionTransformer(), IMAGES, ["blocks.1", "blocks.2", "head"]),
        (Functional((5, 6, 4, 3), dropout=0.5), X, ["layers.1", "layers.2"]),
    ],
)
def test_features_are_what_hooks_see_in_evaluation(
    model: nn.Module, inputs: Tensor, places: list[str]
) -> None:
    model = copy.deepcopy(model).train()
    before = copy.deepcopy(model.state_dict())
    seen: dict[str, Tensor] = {}
    twin = set_evaluation(copy.deepcopy(model))
    for place in places:
        twin.get_submodule(place).register_forward_pre_hook(
            lambda module, args, place=place: seen.__setitem__(place, args[0].detach().clone())
        )
    twin(inputs)
    found = features_of_blocks(model, (inputs, torch.arange(len(inputs))), batch_size=3)
    assert len(found.values) == len(places)
    for value, place in zip(found.values, places, strict=True):
        there = seen[place]
        axes = {2: (), 3: (1,), 4: (2, 3)}[there.ndim]
        wanted = there.mean(axes) if axes else there
        assert value.shape == wanted.shape
        assert torch.allclose(value, wanted, atol=1e-6), place
    assert torch.equal(found.targets, torch.arange(len(inputs)))
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_what_no_features_are_had_of() -> None:
    with pytest.raises(DataError, match="features were asked of 1 example"):
        features_of_blocks(mlp(5, 6, 3), (X[:1], CLASSES[:1]))
    with pytest.raises(ModelError, match="no chain of blocks"):
        features_of_blocks(nn.Linear(5, 3), (X, CLASSES))
    with pytest.raises(DataError, match="features are of examples"):
        features_of_blocks(mlp(5, 6, 3), torch.utils.data.DataLoader([(X[0], 1)]))
    with pytest.raises(OptionError, match="the model is of type int"):
        probe_blocks(3, (X, CLASSES), (X, CLASSES))


# Fits ----------------------------------------------------------------------------------------------------


def standardized(x: Tensor) -> np.ndarray[Any, Any]:
    return ((x.double() - x.double().mean(0)) / x.double().std(0, correction=0)).numpy()


def test_logistic_regression_is_scikit_learns() -> None:
    penalties = (0.1, 1e-3)
    for penalty, mine in zip(penalties, fit_linear(3 * X + 1, CLASSES, penalties), strict=True):
        theirs = LogisticRegression(C=1 / (len(X) * penalty), tol=1e-10, max_iter=1000)
        theirs.fit(standardized(X), CLASSES.numpy())
        probabilities = mine(3 * X + 1).softmax(1).numpy()
        assert np.abs(probabilities - theirs.predict_proba(standardized(X))).max() < 1e-4
        assert np.abs(mine.weight.T.numpy() - theirs.coef_).max() < 2e-3


def test_ridge_regression_is_the_closed_form() -> None:
    y = torch.stack([X[:, 0] - 2 * X[:, 1] + NOISE, X[:, 2] + 3], 1)
    for targets in (y, y[:, 0]):
        for penalty, mine in zip((1.0, 1e-3), fit_linear(X, targets, (1.0, 1e-3)), strict=True):
            theirs = Ridge(alpha=len(X) * penalty).fit(standardized(X), targets.double().numpy())
            wanted = theirs.predict(standardized(X)).reshape(len(X), -1)
            assert np.abs(mine(X).numpy() - wanted).max() < 1e-9


def test_more_features_than_examples_and_constant_ones() -> None:
    wide = torch.cat([X[:20], torch.randn(20, 40, generator=GENERATOR), torch.full((20, 2), 0.1)], 1)
    for targets in (CLASSES[:20], NOISE[:20]):
        for probe in fit_linear(wide, targets):
            assert probe.weight.isfinite().all()
            assert not probe.weight[-2:].any()
            assert probe(wide).isfinite().all()


def test_what_isnt_fitted() -> None:
    for x, y, said in (
        (X, CLASSES[:3], "are no examples to fit"),
        (X[:0], CLASSES[:0], "are no examples to fit"),
        (X.log(), CLASSES, "features aren't finite"),
    ):
        with pytest.raises(DataError, match=said):
            fit_linear(x, y)
    with pytest.raises(OptionError, match=r"a penalty is 0\.0"):
        fit_linear(X, CLASSES, [0.0])
    with pytest.raises(DataError, match="all 90 targets are the same number"):
        probe_features(X, NOISE, (X, torch.zeros(90)))


# Scores --------------------------------------------------------------------------------------------------


def test_intervals_are_wilsons() -> None:
    for wrong, n in ((0, 10), (3, 40), (200, 600)):
        found = score_of(torch.cat([torch.ones(wrong), torch.zeros(n - wrong)]), classes=True)
        wanted = stats.binomtest(n - wrong, n).proportion_ci(method="wilson")
        assert np.allclose([found.low, found.high], [wanted.low, wanted.high])


def test_a_score_isnt_better_for_a_penalty_that_was_chosen_by_it() -> None:
    """On noise alone the score is chance on average, though the best of six would be above it."""
    scores = []
    for draw in range(30):
        generator = torch.Generator().manual_seed(draw)
        x, there = torch.randn(30, 8, generator=generator), torch.randn(400, 8, generator=generator)
        y = torch.randint(0, 2, (30,), generator=generator)
        known = torch.randint(0, 2, (400,), generator=generator)
        scores.append(probe_features(x, y, (there, known)).score.value)
    mean, error = np.mean(scores), np.std(scores) / 30**0.5
    assert abs(mean - 0.5) < 3 * error


def test_each_half_is_judged_by_what_the_other_chooses() -> None:
    """Of two penalties each is better on one half of the examples: none has the errors of its own choice."""
    from thalweg.randomness import streams

    x = torch.tensor([[-1.0], [1.0]]).repeat(20, 1)
    y = x[:, 0] * 1.0
    there, known = torch.full((40, 1), 1.0), torch.ones(40)
    half = torch.zeros(40, dtype=torch.bool)
    half[torch.from_numpy(streams.order(40, seed=0, epoch=0))[:20]] = True
    # a strong penalty halves what is predicted, a weak one leaves it
    known = torch.where(half, 0.5, 1.0)
    found = probe_features(x, y, (there, known), penalties=[1.0, 1e-9])
    spread = float(known.double().var(correction=0))
    assert torch.allclose(found.errors, torch.full((40,), 0.25 / spread, dtype=torch.float64), atol=1e-6)


def test_a_class_that_no_training_example_has_is_wrong() -> None:
    found = probe_features(X, CLASSES.clamp(max=1), (X, torch.full((90,), 2)))
    assert found.score.value == 0


def test_the_best_depth_and_what_ties_with_it() -> None:
    n = 300
    generator = torch.Generator().manual_seed(1)
    signal = torch.randn(2 * n, 1, generator=generator)
    noisy = [signal + scale * torch.randn(2 * n, 1, generator=generator) for scale in (2.0, 0.3, 0.3)]
    y = (signal[:, 0] > 0).long()
    names = ("a", "b", "c")
    train, there = (BlockFeatures(names, tuple(noisy), y).at(each) for each in torch.arange(2 * n).chunk(2))
    found = probe_blocks(nn.Linear(1, 1), train, there)
    assert found.best in (2, 3)
    assert found.tied == (2, 3)
    assert "best" in repr(found)
    assert repr(found).count("\n") == 4
    assert found.probes[0].score.high < found.probes[1].score.low


def test_the_model_is_probed_on_fresh_examples() -> None:
    model = mlp(5, 16, 16, 3)
    found = probe_blocks(model, (X[:60], CLASSES[:60]), (X[60:], CLASSES[60:]), penalties=FEW)
    train = features_of_blocks(model, (X[:60], CLASSES[:60]))
    there = features_of_blocks(model, (X[60:], CLASSES[60:]))
    for depth, probe in enumerate(found.probes):
        again = probe_features(
            train.values[depth], train.targets, (there.values[depth], there.targets), penalties=FEW
        )
        assert again.score == probe.score
        assert len(probe.errors) == 30
    assert found.features == (16, 16)


def test_a_difference_is_of_pairs() -> None:
    one, other = (torch.rand(50, generator=GENERATOR) < 0.3).double(), torch.zeros(50).double()
    found = difference(one, other)
    wanted = stats.norm.interval(0.95, float(one.mean()), float(one.std(correction=0)) / 50**0.5)
    assert found.low < wanted[0] < wanted[1] < found.high
    assert found.high - wanted[1] < 0.02
    assert difference(one, one).value == 0


# How much data, how similar ------------------------------------------------------------------------------


def test_a_learning_curve_keeps_the_shares_of_classes() -> None:
    y = torch.tensor([0] * 64 + [1] * 24 + [2] * 2)
    curve = probe_parts(X, y, (X, y), parts=(0.125, 0.5, 1.0), draws=4, penalties=FEW)
    assert [(point.examples, point.draws) for point in curve] == [(12, 4), (45, 4), (90, 1)]
    whole = probe_features(X, y, (X, y), penalties=FEW)
    assert curve[-1].score == whole.score
    assert curve[0].errors.shape == (90,)
    numbers = probe_parts(X, NOISE, (X, NOISE))
    assert [point.examples for point in numbers] == [11, 22, 45, 90]
    with pytest.raises(OptionError, match=r"a part is 1\.5 of the examples"):
        probe_parts(X, y, (X, y), parts=(1.5,))


def test_domains_that_are_one_arent_told_apart_and_others_are() -> None:
    x = torch.randn(900, 6, generator=GENERATOR)
    names = ("a", "b")

    def features(values: Tensor, shift: float) -> BlockFeatures:
        return BlockFeatures(names, (values, values + shift), torch.zeros(len(values)))

    same, far = domain_errors(features(x[:400], 0.0), features(x[400:], 3.0))
    assert same.error.low < 0.5 < same.error.high
    assert abs(same.distance) < 0.35
    assert far.error.high < 0.03
    assert far.distance > 1.9
    # the best line between two normal distributions a distance d apart errs in Phi(-d / 2)
    one = domain_errors(features(x[:400], 0.0), features(x[400:], 1.0 / 6**0.5))[1]
    assert one.error.low < stats.norm.cdf(-0.5) < one.error.high
    with pytest.raises(DataError, match="there are 3 examples of one of the sets"):
        domain_errors(features(x[:3], 0.0), features(x, 0.0))


# The row of the table --------------------------------------------------------------------------------------


def measured(wrong: list[float], n: int = 500) -> Any:
    """Probes of which so many of the n validation examples are wrong, nested."""
    from thalweg.stages.linear_probes import FeatureProbe
    from thalweg.stages.probes import Probes

    probes = []
    for part in wrong:
        errors = (torch.arange(n) < part * n).double()
        probes.append(
            FeatureProbe(
                penalty=0.1, score=score_of(errors, classes=True), train=1.0, errors=errors, linear=None
            )
        )
    return Probes(tuple(map(str, range(len(wrong)))), tuple(probes), (4,) * len(wrong))


def parts_of(half: float, whole: float, n: int = 500) -> Any:
    from thalweg.stages.probes import PartScore

    found = []
    for examples, part in ((50, half), (100, whole)):
        errors = (torch.arange(n) < part * n).double()
        found.append(
            PartScore(examples=examples, draws=1, score=score_of(errors, classes=True), errors=errors)
        )
    return found


@pytest.mark.parametrize(
    ("source", "half", "said"),
    [
        # errors of the source's blocks, of half of the data, and what the table says
        ([0.4, 0.3, 0.2], 0.3, ("little", True, 3, 0, "a linear classifier on top of all blocks")),
        ([0.4, 0.2, 0.3], 0.3, ("little", False, 2, 0, "a linear classifier on an earlier stage")),
        ([0.45, 0.44, 0.43], 0.6, ("little", False, 3, 0, "a linear classifier on the stage that does best")),
        ([0.4, 0.3, 0.2], 0.21, ("much", True, 3, 1, "fine-tune a few layers: the last block and the head")),
        ([0.4, 0.2, 0.3], 0.21, ("much", False, 3, None, "fine-tune many layers")),
        ([0.45, 0.44, 0.44], 0.45, ("much", False, 3, None, "fine-tune many layers")),
        # worse at the last block, but by less than a tenth
        ([0.4, 0.2, 0.21], 0.21, ("much", True, 3, 1, "fine-tune a few layers")),
    ],
)  # fmt: skip
def test_the_row_of_the_table(source: list[float], half: float, said: tuple[Any, ...]) -> None:
    random = [measured([0.45, 0.5, 0.6]), measured([0.45, 0.6, 0.7])]
    found = choose_row(measured(source), random, parts_of(half, min(source)))
    assert (found.data, found.similar, found.take, found.tune) == said[:4]
    assert found.row.startswith(said[4])
    assert found.sure_of_data
    assert found.sure_of_similarity or source[2] == 0.21
    assert all(line for line in found.evidence)


def test_few_validation_examples_settle_nothing() -> None:
    random = [measured([0.45, 0.5, 0.6], n=20)]
    found = choose_row(measured([0.4, 0.35, 0.3], n=20), random, parts_of(0.35, 0.3, n=20))
    assert not found.sure_of_data
    assert not found.sure_of_similarity
    assert sum("which the interval doesn't settle" in line for line in found.evidence) == 2


def test_a_row_needs_measurements() -> None:
    with pytest.raises(OptionError, match="give one net and two parts"):
        choose_row(measured([0.1]), [], parts_of(0.2, 0.1))


def test_nothing_wrong_at_all_is_no_division_by_zero() -> None:
    found = choose_row(measured([0.0, 0.0]), [measured([0.0, 0.0])], parts_of(0.0, 0.0))
    assert (found.data, found.similar) == ("much", False)
    assert found.gain == Estimate(0.0, 0.0, 0.0)
