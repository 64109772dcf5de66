# ruff: noqa: RUF001
from __future__ import annotations

import statistics

import pytest

from report.synthetic import make
from thalweg.racing.results import Results
from thalweg.report import tables
from thalweg.report.numbers import ScoreFormat


def test_ranked_is_by_mean_with_diverged_ones_last(results: Results):
    order = tables.ranked(results)
    means = [o.mean for o in order]
    assert [o.name for o in order][-1] == "rmsprop"
    assert means[-1] is None
    assert means[:-1] == sorted((m for m in means if m is not None), reverse=True)


def test_ranked_puts_the_smallest_error_first():
    order = tables.ranked(make(regression=True, diverged_confirmation=None))
    means = [o.mean for o in order if o.mean is not None]
    assert means == sorted(means)


def test_leaderboard_says_what_diverged_and_who_could_be_best(results: Results):
    order = tables.ranked(results)
    rows = {row["name"]: row for row in tables.leaderboard(results, order, ScoreFormat.of(results))}
    assert rows["rmsprop"]["dead"] == 1
    assert rows["rmsprop"]["mean"] == "–"
    assert {name for name, row in rows.items() if row["work"]} == set(results.verdict.work.could_be_best)
    assert rows["adam"]["reached"] == "8 of 10"


def test_a_missed_goal_is_infinitely_late(results: Results):
    order = tables.ranked(results)
    adam = next(o for o in order if o.name == "adam")
    reached = sorted(r.goal.steps for r in adam.runs if r.goal.steps is not None)
    rows = {row["name"]: row for row in tables.cost(results, order, ScoreFormat.of(results))}
    # eight of ten reached it: the median of all ten lies between the fifth and the sixth
    assert rows["adam"]["steps"] == f"{round(statistics.mean(reached[4:6]))}"
    few = [
        run.model_copy(update={"goal": run.goal.model_copy(update={"steps": None})}) for run in adam.runs[:6]
    ]
    slow = adam.model_copy(update={"runs": [*few, *adam.runs[6:]]})
    assert tables.cost(results, [slow], ScoreFormat.of(results))[0]["steps"] == "–"


def test_matrix_is_antisymmetric(results: Results):
    order = tables.ranked(results)
    rows = tables.matrix(results.verdict.work, order, ScoreFormat.of(results))
    turned = {"better": "worse", "worse": "better", "equivalent": "equivalent", "undecided": "undecided"}
    signs = str.maketrans("+−", "−+")
    for i, row in enumerate(rows):
        assert row["cells"][i] is None
        for j, cell in enumerate(row["cells"]):
            if cell is not None:
                other = rows[j]["cells"][i]
                assert other["verdict"] == turned[cell["verdict"]]
                assert other["difference"] == cell["difference"].translate(signs)
    first = next(p for p in results.verdict.work.pairs if p.difference is not None)
    names = [o.name for o in order]
    cell = rows[names.index(first.a)]["cells"][names.index(first.b)]
    assert cell["verdict"] == first.verdict
    assert cell["difference"] == ScoreFormat.of(results).signed(first.difference)


def test_compute_adds_everything_that_was_spent():
    results = make(eliminate=True)
    order = tables.ranked(results)
    rows = tables.compute(order)
    for optimizer, row in zip(order, rows, strict=True):
        spent = sum(optimizer.compute.model_dump().values())
        assert row["total"].replace("\u202f", "") == f"{round(spent)}"
    assert max(sum(width for _, width in row["parts"]) for row in rows) == pytest.approx(100)


def test_elimination_is_listed_with_its_settings():
    results = make(eliminate=True)
    rows = tables.eliminated(results)
    assert [row["identity"] for row in rows] == results.elimination.eliminated
    assert all(row["step"] == "180" and "lr" in row["setting"] for row in rows)
    regrets = tables.audits(results, ScoreFormat.of(results))
    assert len(regrets) == len(results.elimination.audits)
    assert any(row["validation"] == "diverged" for row in regrets)


def test_setup_says_what_a_sceptic_asks(results: Results):
    groups = dict(tables.setup(results))
    text = str(groups)
    for needed in (
        "blake2b:7d3f0c55a1b2c3d4",
        "2.13.0",
        "exactly the same numbers, to the last digit",
        "3 races so far",
        "looks like an identifier",
    ):
        assert needed in text


def test_stages_so_far_counts_runs():
    events = [
        {"event": "begun", "key": "begun", "value": {}},
        {"event": "runs", "key": "r0/screen1/0", "value": {"outcomes": [{}, {}]}},
        {"event": "runs", "key": "r0/screen2/0", "value": {"outcomes": [{}]}},
        {"event": "runs", "key": "r1/rerun/0", "value": {"outcomes": [{}]}},
    ]
    assert tables.stages_so_far(events) == [("1", "screen", "3"), ("2", "rerun", "1")]


def test_each_optimizer_has_one_most_typical_setting(results: Results):
    order = tables.ranked(results)
    rows = tables.winners(order, ScoreFormat.of(results))
    for optimizer in order:
        marked = [row["split"] for row in rows if row["name"] == optimizer.name and row["typical"]]
        assert marked == [optimizer.typical + 1]


def test_a_tile_says_the_winners_mean_without_luck_where_that_differs(results: Results):
    best = tables.ranked(results)[0]
    labels = [label for label, _, _ in tables.facts(results, ScoreFormat.of(results))]
    assert "without luck" not in labels
    corrected = results.verdict.model_copy(update={"winner_mean": best.mean - 0.02})
    changed = results.model_copy(update={"verdict": corrected})
    tiles = {label: value for label, value, _ in tables.facts(changed, ScoreFormat.of(results))}
    assert tiles["without luck"] == ScoreFormat.of(results)(best.mean - 0.02)


def test_the_rate_is_that_of_the_setting_marked_as_typical(results: Results):
    first = results.optimizers[0]
    winners = [
        w.model_copy(
            update={"setting": w.setting.model_copy(update={"hyperparameters": {"lr": 10.0**-w.replicate}})}
        )
        for w in first.winners
    ]
    rates = []
    for typical in (0, 2):
        one = first.model_copy(update={"winners": winners, "typical": typical})
        rates.append(tables.leaderboard(results, [one], ScoreFormat.of(results))[0]["rate"])
    assert rates == ["1", "0.01"]


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ({"screen": 1.0, "rerun": 2.0}, "most of it set-up and measurements"),
        ({"screen": 3.0, "rerun": 6.0}, "most of it in the stage 'rerun'"),
        ({"screen": 3.0, "rerun": 4.0}, "the largest part in the stage 'rerun'"),
        ({}, "in all"),
    ],
)
def test_the_tile_of_time_names_what_took_most(results: Results, stages: dict[str, float], says: str):
    timing = results.timing.model_copy(update={"seconds": 10.0, "seconds_by_stage": stages})
    changed = results.model_copy(update={"timing": timing})
    tiles = {label: remark for label, _, remark in tables.facts(changed, ScoreFormat.of(results))}
    assert tiles["time"] == says
