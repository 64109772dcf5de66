"""What a careful reader is told beside the verdict."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from thalweg.errors import spelled_as_command
from thalweg.racing.caveats import warnings
from thalweg.racing.results import ReplicateWinner, SettingInfo, Warning_
from thalweg.racing.verdict import Evidence, compare_all, conclude, weigh


def scores_of(means: list[float], *, spread: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal((len(means), 5, 2))
    return np.array(means)[:, None, None] + spread * noise


def told(
    scores: np.ndarray,
    names: list[str],
    *,
    margin: float = 0.01,
    evidence: Evidence | None = None,
    **rest: Any,
) -> dict[str, Warning_]:
    evidence = evidence or weigh(names, scores, higher_is_better=True, n_train=8000, n_test=200)
    verdict = compare_all(evidence, margin=margin, axis="work", budget="")
    mean = conclude(evidence, verdict, metric="accuracy", margin=margin).winner_mean
    given = {"trials": 16, "epochs": 20, "winners": {}, "test_looks": 1, "metric": "accuracy", **rest}
    return {one.code: one for one in warnings(evidence, verdict, winner_mean=mean, margin=margin, **given)}


def winner(replicate: int, **edges: Literal["low", "high"]) -> ReplicateWinner:
    return ReplicateWinner(
        replicate=replicate,
        identity=f"r{replicate}/adam/t01",
        setting=SettingInfo(optimizer="adam", hyperparameters={}, schedule="constant"),
        rerun_validation=[],
        edges=edges,
        extended=False,
    )


def test_a_winner_elsewhere_need_not_be_one_is_always_said() -> None:
    found = told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"])
    assert set(found) == {"scope", "rare-failures"}
    assert "16 settings of 20 passes" in found["scope"].text


def test_an_edge_in_half_the_splits() -> None:
    often = [winner(r, lr="high") if r < 3 else winner(r, beta1="low") for r in range(5)]
    found = told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"], winners={"adam": often})
    assert found["edge"].optimizer == "adam"
    assert "lr at the high end of its space in 3 of 5 splits" in found["edge"].text
    assert "spaces={'adam.lr': (LOW, HIGH)}" in found["edge"].text
    seldom = [winner(r, lr="high") if r < 2 else winner(r) for r in range(5)]
    assert "edge" not in told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"], winners={"adam": seldom})


def test_every_setting_at_an_edge_is_named_with_what_widens_it() -> None:
    won = [winner(r, lr="high", beta1="low") if r < 3 else winner(r, eps="high") for r in range(5)]
    text = told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"], winners={"adam": won})["edge"].text
    assert "lr at the high end of its space in 3 of 5 splits" in text
    assert "beta1 at the low end of its space in 3 of 5 splits" in text
    assert text.endswith("widen them with spaces={'adam.lr': (LOW, HIGH), 'adam.beta1': (LOW, HIGH)}")
    with spelled_as_command():
        text = told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"], winners={"adam": won})["edge"].text
        assert text.endswith("--space adam.lr=LOW:HIGH --space adam.beta1=LOW:HIGH")


def test_runs_that_moved_no_weight() -> None:
    scores = scores_of([0.98, 0.7], spread=0.001)
    still = {"adam": [False] * 10, "sgd": [True] * 9 + [False]}
    found = told(scores, ["adam", "sgd"], unmoved=still)["unmoved"]
    assert found.optimizer == "sgd"
    assert found.text.startswith("sgd moved no weight in 9 of 10 confirmation runs")
    assert "unmoved" not in told(scores, ["adam", "sgd"], unmoved={"adam": [False] * 10})


def test_adam_behind_momentum() -> None:
    found = told(scores_of([0.8, 0.98, 0.9], spread=0.001), ["adam", "momentum", "sgd"])
    assert "lost to momentum at equal tuning" in found["adam-behind-momentum"].text
    assert "adam-behind-momentum" not in told(scores_of([0.98, 0.8], spread=0.001), ["adam", "momentum"])


def test_diverged_runs_are_counted() -> None:
    scores = scores_of([0.98, 0.7], spread=0.001)
    scores[1, 0] = np.nan
    assert "sgd diverged in 2 of 10 confirmation runs" in told(scores, ["adam", "sgd"])["diverged"].text


def test_too_few_splits_and_how_many_would_do() -> None:
    scores = scores_of([0.95, 0.95], spread=0.02)[:, :3]
    found = told(scores, ["adam", "sgd"], margin=0.03)
    text = found["too-few-splits"].text
    assert text.startswith("the pair is undecided at a margin of 3 points: 3 splits are too few; about ")
    assert 3 < int(text.split("about ")[1].split(" ")[0]) < 100


def test_too_few_test_examples_where_splits_cannot_help() -> None:
    scores = scores_of([0.95, 0.95], spread=0.02)
    evidence = weigh(["adam", "sgd"], scores, higher_is_better=True, n_train=100, n_test=50)
    found = told(scores, ["adam", "sgd"], margin=0.005, evidence=evidence)
    text = found["too-few-test-examples"].text
    assert "50 test examples are too few" in text
    assert int(text.split("about ")[1].split(",")[0]) > 500


def test_too_few_test_examples_in_a_fixed_test_set() -> None:
    random = np.random.default_rng(0)
    right = np.repeat((random.random((2, 1, 1, 100)) < 0.9).astype(float), 5, axis=1)
    right = np.abs(right - (random.random(right.shape) < 0.01))
    evidence = weigh(
        ["adam", "sgd"],
        right.mean(axis=-1),
        higher_is_better=True,
        n_train=1000,
        n_test=100,
        resample=lambda weights: (right @ weights / weights.sum()).ravel(),
    )
    found = told(right.mean(axis=-1), ["adam", "sgd"], evidence=evidence)
    text = found["too-few-test-examples"].text
    # two classifiers that err on a tenth each, apart, differ with variance 0.18 an example
    assert 10_000 < int(text.split("about ")[1].split(",")[0]) < 40_000


def test_two_splits_are_too_few_to_say_how_many_are_needed() -> None:
    random = np.random.default_rng(0)
    right = (random.random((2, 2, 1, 100)) < 0.9).astype(float)
    evidence = weigh(
        ["adam", "sgd"],
        right.mean(axis=-1),
        higher_is_better=True,
        n_train=1000,
        n_test=100,
        resample=lambda weights: (right @ weights / weights.sum()).ravel(),
    )
    found = told(right.mean(axis=-1), ["adam", "sgd"], evidence=evidence, margin=0.005)
    assert "too-few-test-examples" not in found
    assert "2 splits are too few to say" in found["too-few-splits"].text


def test_looks_at_the_test_data() -> None:
    scores = scores_of([0.98, 0.7], spread=0.001)
    assert "test-looks" not in told(scores, ["adam", "sgd"], test_looks=1)
    assert "scored in 4 races" in told(scores, ["adam", "sgd"], test_looks=4)["test-looks"].text


def test_what_so_few_runs_cannot_show_is_said_where_somebody_is_behind() -> None:
    text = told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"])["rare-failures"].text
    # 0.95 of all would be seen in ten runs: 1 - 0.05 ** (1 / 10)
    assert "10 confirmation runs" in text
    assert "up to 26 % of its runs" in text
    assert "rare-failures" not in told(scores_of([0.9, 0.9], spread=0.05), ["adam", "sgd"])


def test_a_run_far_below_the_others_is_pointed_at() -> None:
    scores = scores_of([0.98, 0.97], spread=0.002)
    assert "collapsed" not in told(scores, ["adam", "sgd"])
    scores[0, 2, 1] = 0.1
    found = told(scores, ["adam", "sgd"])["collapsed"]
    assert found.optimizer == "adam"
    assert "in 1 of 10 confirmation runs (10.0 % accuracy at worst, usually 98" in found.text
    scores[0] = 0.98
    scores[1] = 0.97
    assert "collapsed" not in told(scores, ["adam", "sgd"])


def test_agreement_closer_than_one_example_is_pointed_at() -> None:
    scores = np.full((2, 5, 2), 0.95)
    evidence = weigh(
        ["adam", "sgd"], scores, higher_is_better=True, n_train=800, n_test=20, resolution=1 / 20
    )
    text = told(scores, ["adam", "sgd"], evidence=evidence)["one-example"].text
    assert "the pair agrees more closely than one of 20 test examples can show" in text
    apart = scores + np.array([[0.1, -0.1, 0.0, 0.1, -0.2], [0.0] * 5])[..., None]
    wider = weigh(["adam", "sgd"], apart, higher_is_better=True, n_train=800, n_test=20, resolution=1 / 20)
    assert "one-example" not in told(apart, ["adam", "sgd"], evidence=wider)


def test_the_mean_of_who_was_picked_is_corrected() -> None:
    scores = scores_of([0.95, 0.951, 0.949], spread=0.02)
    found = told(scores, ["adam", "sgd", "rprop"])["winner-mean"]
    means = dict(zip(["adam", "sgd", "rprop"], scores.mean(axis=(1, 2)), strict=True))
    leader = max(means, key=means.__getitem__)
    assert found.optimizer == leader
    assert found.text.startswith(f"{leader}'s mean of {100 * means[leader]:.1f} % accuracy was picked")
    assert "winner-mean" not in told(scores_of([0.98, 0.7], spread=0.001), ["adam", "sgd"])


def test_what_a_metric_of_ones_own_leaves_out_on_a_fixed_test_set_is_said() -> None:
    scores = scores_of([0.98, 0.7], spread=0.001)
    assert "test-noise" not in told(scores, ["adam", "sgd"])
    text = told(scores, ["adam", "sgd"], test_noise=False)["test-noise"].text
    assert text.startswith("all splits share 200 test examples")
