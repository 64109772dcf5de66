"""Whole races through the verb: what stands in the run directory is what an expert can check."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import runpy
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import races
from thalweg import catalogue, data, recipe
from thalweg.commands import verbs
from thalweg.errors import ModelError, OptionError, RunDirectoryError
from thalweg.execution import Execution
from thalweg.execution.execution import Request
from thalweg.racing import build_results
from thalweg.racing import race_setup as setup
from thalweg.racing.results import OptimizerResult, Results, schema
from thalweg.racing.watch import LeaderboardRow, RaceProgress, RaceWatcher
from thalweg.run.directory import RunDirectory
from thalweg.run.spec import Run

OWN = '''
import torch
from torch import nn


def mine(p, g, velocity, *, lr=0.1, momentum=0.9):
    """Heavy ball of my own."""
    velocity = momentum * velocity + g
    return p - lr * velocity, velocity


def climb(p, g, *, lr=1000.0):
    return p + lr * g


def smooth(outputs, targets):
    return nn.functional.smooth_l1_loss(outputs[:, 0], targets)


def worst(outputs, targets):
    return (outputs[:, 0] - targets).abs().max()


worst.higher_is_better = False
worst.margin = 1.0
'''


class Witness(RaceWatcher):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.rows: list[list[LeaderboardRow]] = []
        self.shares: list[float] = []
        self.told: list[str] = []

    def understood(self, *_: Any) -> None:
        self.told.append("understood")

    def engine(self, *_: Any) -> None:
        self.told.append("engine")

    def progress(self, progress: RaceProgress) -> None:
        assert 0 <= progress.done <= progress.total
        assert progress.seconds_left is not None
        assert progress.seconds_left >= 0
        self.shares.append(progress.done / progress.total)

    def leaderboard(self, rows: Any) -> None:
        self.rows.append(list(rows))

    def finished(self, results: Results, report: Path) -> None:
        assert report.is_file()
        self.told.append("finished")


@dataclass
class Finished:
    results: Results
    out: Path
    runs: dict[str, Run]
    witness: Witness
    climb: str

    def __getitem__(self, name: str) -> OptimizerResult:
        return next(each for each in self.results.optimizers if each.name == name)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Finished]:
    """One race in lanes, with a rule that always diverges, read by most tests here."""
    folder = tmp_path_factory.mktemp("race")
    (folder / "own.py").write_text(OWN)
    runs: dict[str, Run] = {}
    original = Execution.run

    def spy(self: Execution, requests: Sequence[Request]) -> Any:
        runs.update({run.identity: run for asked in requests for run in asked.runs})
        return original(self, requests)

    witness, climb = Witness(), f"{folder / 'own.py'}:climb"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("THALWEG_STATE_DIR", str(folder / "state"))
        patch.setattr(Execution, "run", spy)
        results = verbs.race(
            "linear", "wine", optimizers=["momentum", "adam", f"{folder / 'own.py'}:mine", climb],
            trials=4, splits=2, epochs=2, batch_size=16, out=folder / "out", watcher=witness,
            engine="lanes",
        )  # fmt: skip
    return Finished(results, folder / "out", runs, witness, climb)  # type: ignore[return-value]


def strict(text: str) -> Any:
    """Read JSON that holds neither NaN nor infinity."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_directory_holds_what_the_docs_list(finished: Finished) -> None:
    names = {path.name for path in finished.out.iterdir() if not path.name.startswith(".")}
    assert names == {
        "checkpoints", "config.toml", "environment.json", "events.jsonl", "results.json", "winner.toml",
        "winner.py", "report.html",
    }  # fmt: skip
    assert [path.name for path in (finished.out / "checkpoints").iterdir()] == ["run_id"]


def test_results_are_valid_and_hold_no_nan(finished: Finished) -> None:
    text = (finished.out / "results.json").read_text()
    values = strict(text)
    assert Results.read(finished.out / "results.json") == finished.results
    assert values == finished.results.model_dump(mode="json")
    check(values, schema(), schema()["$defs"])


def check(value: Any, rule: Mapping[str, Any], defs: Mapping[str, Any], at: str = "") -> None:
    """Hold a value against the part of JSON Schema that our schema uses."""
    if "$ref" in rule:
        rule = defs[rule["$ref"].rpartition("/")[2]]
    if "anyOf" in rule:
        failures = []
        for choice in rule["anyOf"]:
            try:
                return check(value, choice, defs, at)
            except AssertionError as failure:
                failures.append(str(failure))
        raise AssertionError(f"{at}: {failures}")
    kinds = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float), "boolean": bool,
        "null": type(None),
    }  # fmt: skip
    kind = rule.get("type")
    if kind:
        assert isinstance(value, kinds[kind]), f"{at} is {value!r}, not {kind}"
        assert kind == "boolean" or not isinstance(value, bool), at
    assert value in rule.get("enum", [value]), at
    assert value == rule.get("const", value), at
    if isinstance(value, dict):
        known = rule.get("properties", {})
        assert set(rule.get("required", ())) <= set(value), at
        for name, each in value.items():
            further = rule.get("additionalProperties", {})
            assert name in known or further is not False, f"{at}.{name}"
            check(each, known.get(name, further), defs, f"{at}.{name}")
    if isinstance(value, list):
        for number, each in enumerate(value):
            items = rule.get("prefixItems", [])
            check(
                each, items[number] if number < len(items) else rule.get("items", {}), defs, f"{at}[{number}]"
            )
    return None


def test_pools_are_equal_and_begin_with_the_library_defaults(finished: Finished) -> None:
    for optimizer in finished.results.optimizers:
        assert optimizer.total_settings == len(optimizer.trials) == 4 * 2
        for replicate in range(2):
            pool = [trial for trial in optimizer.trials if trial.replicate == replicate]
            assert [trial.wave for trial in pool] == [0, 1, 1, 2]
            entry = catalogue.resolve(optimizer.name)
            assert pool[0].setting.hyperparameters == {
                h.name: h.default for h in entry.hyperparameters if h.name in pool[0].setting.hyperparameters
            }
            assert pool[0].setting.schedule == "constant"


def test_optimizers_share_the_seeds_of_a_replicate_and_confirm_on_fresh_ones(finished: Finished) -> None:
    used: dict[tuple[int, str], dict[str, list[int]]] = {}
    for identity, run in finished.runs.items():
        replicate = int(identity[1])
        stage = next((word for word in ("rerun", "confirm") if word in identity), "screen")
        used.setdefault((replicate, stage), {}).setdefault(run.setting.optimizer, []).append(run.seed)
    assert len(used) == 6
    for by_optimizer in used.values():
        assert len({tuple(sorted(seeds)) for seeds in by_optimizer.values()}) == 1
    distinct = [set(next(iter(by_optimizer.values()))) for by_optimizer in used.values()]
    assert sorted(len(seeds) for seeds in distinct) == [1, 1, 2, 2, 3, 3]
    assert len(set.union(*distinct)) == 12
    for optimizer in finished.results.optimizers:
        assert [run.seed for run in optimizer.runs] == [
            finished.runs[f"r{r}/{optimizer.name}/confirm{j}"].seed for r in (0, 1) for j in (0, 1)
        ]


def test_scores_are_those_of_the_test_split_after_the_last_step(finished: Finished) -> None:
    """winner.py trains in plain torch, without thalweg."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runpy.run_path(str(finished.out / "winner.py"), run_name="__main__")
    lines = [line.split() for line in said.getvalue().splitlines()]
    won = recipe.read(finished.out / "winner.toml")
    optimizer = finished[won.optimizer.name]
    assert optimizer.name == finished.results.verdict.winner
    run = next(run for run in optimizer.runs if run.seed == won.training.seed)
    curve = next(curve for curve in optimizer.curves if curve.identity == run.identity)
    assert run.replicate == won.data.replicate
    assert [float(line[3]) for line in lines[:-1]] == pytest.approx(curve.validation, abs=1e-6)
    assert [int(line[1]) for line in lines[:-1]] == curve.steps
    assert curve.steps[-1] == finished.results.plan.steps
    assert lines[-1][0] == "test"
    assert float(lines[-1][1]) == pytest.approx(run.score, abs=1e-6)
    winner = next(w for w in optimizer.winners if w.replicate == run.replicate)
    assert won.optimizer.hyperparameters == winner.setting.hyperparameters
    assert optimizer.typical == winner.replicate


def test_every_confirmation_run_is_that_of_plain_torch(finished: Finished) -> None:
    """Data order, initial weights and split from the documented recipe; optimizer and loop by hand."""
    prepared = data.prepare(data.load("wine"), seed=0, replicate=1)
    x, y = prepared.train.inputs, prepared.train.targets
    assert x is not None
    assert y is not None
    momentum = finished["momentum"]
    winner = next(w for w in momentum.winners if w.replicate == 1)
    from thalweg import schedules
    from thalweg.randomness.streams import order, seed32

    for run in (run for run in momentum.runs if run.replicate == 1):
        torch.manual_seed(seed32(run.seed, "initial"))
        model = nn.Sequential(nn.Linear(13, 3))
        hyper = winner.setting.hyperparameters
        steps = finished.results.plan.steps
        factor = schedules.build(winner.setting.schedule, total=steps)
        velocity = [torch.zeros_like(p) for p in model.parameters()]
        for step in range(steps):
            epoch, at = divmod(step, len(x) // 16)
            batch = torch.from_numpy(order(len(x), seed=run.seed, epoch=epoch))[at * 16 : (at + 1) * 16]
            loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
            grads = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for p, g, v in zip(model.parameters(), grads, velocity, strict=True):
                    v.mul_(hyper["momentum"]).add_(g)
                    p.sub_(hyper["lr"] * float(factor(step)) * v)
        assert prepared.test.inputs is not None
        right = model(prepared.test.inputs).argmax(1) == prepared.test.targets
        assert run.score == pytest.approx(float(right.double().mean()), abs=1e-6)


def test_winners_have_the_best_mean_of_their_reruns(finished: Finished) -> None:
    directory = RunDirectory.read(finished.out)
    final = {
        outcome["identity"]: outcome["validation"][-1]
        for event in directory.events() if event["event"] == "runs"
        for outcome in event["value"]["outcomes"]
    }  # fmt: skip
    for optimizer in finished.results.optimizers:
        if optimizer.name == finished.climb:
            continue
        for winner in optimizer.winners:
            means = {
                trial.identity: statistics.fmean(final[f"{trial.identity}/rerun{j}"] for j in range(3))
                for trial in optimizer.trials
                if f"{trial.identity}/rerun0" in final and trial.replicate == winner.replicate
            }
            assert len(means) == 3
            assert means[winner.identity] == max(means.values())
            assert winner.rerun_validation == [final[f"{winner.identity}/rerun{j}"] for j in range(3)]
            screened = sorted(
                (final[t.identity] or 0 for t in optimizer.trials if t.replicate == winner.replicate),
                reverse=True,
            )
            assert {final[identity] for identity in means} <= set(screened[:3])


def test_what_diverges_has_no_mean(finished: Finished) -> None:
    climb = finished[finished.climb]
    assert [climb.mean, climb.low, climb.high] == [None] * 3
    assert climb.diverged_settings == 8
    assert [run.score for run in climb.runs] == [None] * 4
    assert all(run.diverged_at for run in climb.runs)
    assert climb.name not in finished.results.verdict.work.could_be_best
    assert any(w.code == "diverged" and w.optimizer == climb.name for w in finished.results.warnings)
    for optimizer in finished.results.optimizers:
        if optimizer is not climb:
            scores = [run.score for run in optimizer.runs]
            assert optimizer.mean == pytest.approx(statistics.fmean(s for s in scores if s is not None))


def test_the_goal_is_what_the_best_defaults_reach(finished: Finished) -> None:
    results = finished.results
    medians = [
        statistics.median(values)
        for optimizer in results.optimizers
        if None not in (values := optimizer.default_validation)
    ]
    assert results.plan.goal == max(medians)
    assert "default" in results.plan.goal_source
    reached = 0
    for optimizer in results.optimizers:
        for run, curve in zip(optimizer.runs, optimizer.curves, strict=True):
            seen = zip(curve.steps, curve.validation, strict=True)
            first = next((s for s, v in seen if v is not None and v >= max(medians)), None)
            assert run.goal.steps == first
            if first is None:
                assert run.goal.passes is run.goal.work is None
                continue
            reached += 1
            # an epoch is what whole batches cover
            assert run.goal.passes == pytest.approx(first / (results.data.split_sizes["train"] // 16))
            assert run.goal.work == 3 * first
        seconds = results.timing.seconds_to_goal[optimizer.name]
        assert [s is None for s in seconds] == [run.goal.steps is None for run in optimizer.runs]
    assert reached


def test_compute_is_all_that_was_done(finished: Finished) -> None:
    whole = 3 * finished.results.plan.steps
    spent = finished["adam"].compute
    assert (spent.screen, spent.rerun, spent.confirm) == (8 * whole, 18 * whole, 4 * whole)
    assert spent.eliminated == spent.audit == 0
    climbed = finished[finished.climb].compute
    assert 0 < climbed.screen < 8 * whole


def test_the_watcher_sees_the_race_from_end_to_end(finished: Finished) -> None:
    witness = finished.witness
    assert witness.told == ["understood", "engine", "finished"]
    assert witness.shares == sorted(witness.shares)
    assert witness.shares[-1] == pytest.approx(1.0, abs=0.3)
    assert {row.optimizer for row in witness.rows[-1]} == {o.name for o in finished.results.optimizers}
    assert witness.rows[-1][-1].optimizer == finished.climb
    assert witness.rows[-1][-1].confirmed_score is None


def test_looks_at_the_test_split_are_counted(finished: Finished) -> None:
    assert finished.results.test_looks == 1


def test_the_configuration_says_what_was_asked_for(finished: Finished) -> None:
    config = RunDirectory.read(finished.out).config()
    assert config["data"] == "wine"
    assert config["trials"] == 4
    assert "seed" not in config


# Elimination, really trained ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def eliminated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Results, Path]]:
    found = {}
    for kind in ("lanes", "loop"):
        out = tmp_path_factory.mktemp(kind) / "out"
        with races.engine(kind):
            found[kind] = races.run(out, data="wine", trials=8, eliminate=True, confirm=1), out
    return found


def test_lanes_and_loop_stop_the_same_settings(eliminated: dict[str, tuple[Results, Path]]) -> None:
    lanes, loop = eliminated["lanes"][0], eliminated["loop"][0]
    assert lanes.elimination.eliminated == loop.elimination.eliminated
    assert [a.identity for a in lanes.elimination.audits] == [a.identity for a in loop.elimination.audits]
    scores = [[run.score for o in results.optimizers for run in o.runs] for results in (lanes, loop)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)


def test_several_processes_stop_the_same_settings(
    eliminated: dict[str, tuple[Results, Path]], tmp_path: Path
) -> None:
    with races.engine("loop", processes=2):
        found = races.run(tmp_path / "out", data="wine", trials=8, eliminate=True, confirm=1)
    alone, several = (races.comparable(each) for each in (eliminated["loop"][0], found))
    # the second race on this data looks at its test split once more, and says so
    for part in ("engine", "test_looks", "warnings"):
        del alone[part], several[part]
    assert several == alone


@pytest.mark.parametrize("kind", ["lanes", "loop"])
def test_decisions_are_written_before_they_are_acted_on(
    kind: str, eliminated: dict[str, tuple[Results, Path]]
) -> None:
    results, out = eliminated[kind]
    decided: dict[str, int] = {}
    outcomes: dict[str, Any] = {}
    for event in RunDirectory.read(out).events():
        if event["event"] == "eliminated":
            step = int(event["key"].rpartition("/")[2])
            pools = {tuple(identity.split("/")[:2]) for identity in event["value"]}
            assert len(pools) <= 1, "a decision never crosses pools"
            assert not set(event["value"]) & set(outcomes), "decided after the run was over"
            decided |= dict.fromkeys(event["value"], step)
        if event["event"] == "runs":
            outcomes |= {outcome["identity"]: outcome for outcome in event["value"]["outcomes"]}
    assert decided
    assert sorted(decided) == sorted(results.elimination.eliminated)
    trials = {trial.identity: trial for optimizer in results.optimizers for trial in optimizer.trials}
    for identity, step in decided.items():
        assert trials[identity].eliminated_at == step
        assert trials[identity].validation is None
        outcome = outcomes[identity]
        seen = zip(outcome["steps"], outcome["validation"], strict=True)
        after = [value for at, value in seen if at > step]
        assert after
        assert set(after) == {None}
    assert all(trial.eliminated_at is None for trial in trials.values() if trial.wave == 0)
    assert results.plan.goal is not None
    for audit in results.elimination.audits:
        assert audit.identity in decided
        rerun = outcomes[f"{audit.identity}/audit"]
        assert audit.validation == rerun["validation"][-1]
        # the very run that was stopped: the same up to where it was
        values = zip(rerun["steps"], rerun["validation"], strict=True)
        before = [value for at, value in values if at <= decided[audit.identity]]
        seen = [value for value in outcomes[audit.identity]["validation"] if value is not None]
        assert seen == pytest.approx(before, abs=1e-6)


# What else people race ---------------------------------------------------------------------------------


def with_fixed_test() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(160, 3, generator=generator)
    y = (x[:, 0] + 0.3 * torch.randn(160, generator=generator) > 0).long()
    return x[:120], y[:120], x[120:], y[120:]


def test_a_fixed_test_set_is_resampled(tmp_path: Path) -> None:
    with races.engine():
        found = races.run(tmp_path / "out", data=with_fixed_test)
    assert found.data.fixed_test
    assert found.data.split_sizes["test"] == 40
    assert "bootstrap" in found.verdict.work.method


def test_resampling_every_example_once_gives_the_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for a regression, whose splits each standardise the target anew."""
    generator = np.random.default_rng(3)
    x = generator.normal(size=(160, 3))
    y = 40 + 7 * (x @ [1.0, 2.0, 3.0] + generator.normal(size=160))
    np.savez(tmp_path / "r.npz", x_train=x[:120], y_train=y[:120], x_test=x[120:], y_test=y[120:])
    kept: list[Any] = []
    original = build_results.build_results

    def spy(given: Any, plan: Any, info: Any, records: Any, **named: Any) -> Results:
        kept.extend([build_results._resample(given, plan, records), records])
        return original(given, plan, info, records, **named)

    monkeypatch.setattr(build_results, "build_results", spy)
    for options in ({"data": with_fixed_test}, {"data": str(tmp_path / "r.npz")}):
        kept.clear()
        with races.engine():
            found = races.run(tmp_path / str(len(str(options))), **options)
        scores = [run.score for optimizer in found.optimizers for run in optimizer.runs]
        ones = np.ones(40, dtype=np.int64)
        assert kept[0](ones).tolist() == pytest.approx(scores, rel=1e-5)


class Words(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Sequences of different lengths; the class is whether they rise."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.items = []
        for number in range(60):
            length = int(torch.randint(2, 6, (1,), generator=generator))
            rising = number % 2
            steps = torch.rand(length, generator=generator).cumsum(0) * (1 if rising else -1)
            self.items.append((steps, rising))

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        return self.items[position]


def padded(items: list[tuple[Tensor, int]]) -> tuple[Tensor, Tensor]:
    sequences = [sequence for sequence, _ in items]
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True), torch.tensor([y for _, y in items])


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.RNN(1, 4, batch_first=True)
        self.head = nn.Linear(4, 2)

    def forward(self, sequences: Tensor) -> Tensor:
        states, _ = self.body(sequences.unsqueeze(-1))
        return self.head(states[:, -1])  # type: ignore[no-any-return]


def reader(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return Reader()


def test_sequences_with_a_collate_function(tmp_path: Path) -> None:
    """Through the verb and its own choice of an engine, which can only be the loop."""
    found = verbs.race(
        # a lambda can't be sent to other processes, whose start would take longer than all the rest
        reader, Words(), collate=lambda items: padded(items), optimizers=["adam", "torch.optim:RAdam"],
        trials=1, splits=2, confirm=1, epochs=2, batch_size=8, out=tmp_path / "out",
    )  # fmt: skip
    assert found.engine.kind == "loop"
    assert "collate" in found.engine.reason
    assert [optimizer.name for optimizer in found.optimizers] == ["adam", "torch.optim:RAdam"]
    assert all(run.score is not None for optimizer in found.optimizers for run in optimizer.runs)
    assert not (tmp_path / "out" / "winner.toml").exists()
    assert (tmp_path / "out" / "report.html").is_file()


def test_a_regression_with_loss_and_metric_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    own = str(tmp_path / "own.py")
    with races.engine():
        found = verbs.race(
            "mlp:4", "diabetes", loss=f"{own}:smooth", metric=f"{own}:worst",
            optimizers=[f"{own}:mine", "torch.optim:RAdam"], trials=2, splits=2, confirm=1, epochs=1,
            batch_size=64, out=tmp_path / "out",
        )  # fmt: skip
    assert not found.plan.higher_is_better
    assert found.plan.margin == 1.0
    best, worst = (
        found.verdict.winner,
        *(o.name for o in found.optimizers if o.name != found.verdict.winner),
    )
    means = {o.name: o.mean for o in found.optimizers}
    assert means[best] < means[worst]  # type: ignore[index, operator]
    # in the target's own units: the largest error of a barely trained model on disease progression
    assert all(50 < mean < 400 for mean in means.values() if mean is not None)
    won = recipe.read(tmp_path / "out" / "winner.toml")
    assert (won.objective.loss, won.objective.metric) == (f"{own}:smooth", f"{own}:worst")


def test_a_regression_by_its_own_metric(tmp_path: Path) -> None:
    with races.engine():
        found = races.run(tmp_path / "out", data="diabetes", batch_size=64)
    assert (found.plan.metric, found.plan.higher_is_better) == ("rmse", False)
    for optimizer in found.optimizers:
        runs = [run.score for run in optimizer.runs]
        assert all(30 < score < 300 for score in runs if score is not None)
    assert found.plan.goal == min(
        statistics.median(v for v in o.default_validation if v is not None) for o in found.optimizers
    )


def test_two_classes_by_the_area_under_the_curve(tmp_path: Path) -> None:
    with races.engine():
        found = races.run(tmp_path / "out", data="breast-cancer", metric="auc", batch_size=64, goal=0.9)
    assert found.plan.metric == "auc"
    assert (found.plan.goal, found.plan.goal_source) == (0.9, "given")
    assert all(0.5 < run.score <= 1 for o in found.optimizers for run in o.runs if run.score is not None)


def test_tuples_of_tensors_and_functions_of_ones_own(tmp_path: Path) -> None:
    x, y, _, _ = with_fixed_test()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets, label_smoothing=0.1)

    def errors(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) != targets).double().mean()

    errors.higher_is_better = False  # type: ignore[attr-defined]
    with races.engine():
        found = races.run(tmp_path / "out", data=(x, y), loss=loss, metric=errors)
    assert not found.plan.higher_is_better
    assert not (tmp_path / "out" / "winner.toml").exists()
    assert all(math.isfinite(o.mean) for o in found.optimizers if o.mean is not None)


def test_an_edge_is_flagged_where_it_wins(tmp_path: Path) -> None:
    """A space of rates that are all too low: the best draw lies near its high end, or beyond it."""
    with races.engine():
        found = races.run(
            tmp_path / "out", optimizers=["sgd"], trials=48, splits=2, confirm=1,
            spaces={"sgd.lr": (1e-5, 3e-3)}, schedules=["linear"], metric="log-loss",
        )  # fmt: skip
    (sgd,) = found.optimizers
    for replicate in range(2):
        pool = [trial for trial in sgd.trials if trial.replicate == replicate]
        assert len(pool) == 48
        winner = sgd.winners[replicate]
        rates = [float(t.setting.hyperparameters["lr"]) for t in pool if t.wave == 2]
        assert len(rates) == 12
        best = min((t for t in pool if t.wave < 2), key=lambda t: t.validation or math.inf)
        assert winner.extended is (best.wave == 1 and best.edges == {"lr": "high"})
        assert all(rate > 3e-3 for rate in rates) is winner.extended


# What shows only when it is tried ----------------------------------------------------------------------


def stubborn(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(input_shape[0], outputs)

        def forward(self, x: Tensor) -> Tensor:
            scale = 2.0 if float(x.sum()) > 0 else 1.0
            return self.head(x) * scale  # type: ignore[no-any-return]

    return Counting()


@pytest.mark.parametrize("existed", [False, True])
def test_lanes_that_can_not_be_leave_nothing_behind(tmp_path: Path, existed: bool) -> None:
    out = tmp_path / "deep" / "out"
    if existed:
        out.mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ModelError, match="use the loop engine"):
        races.run(out, model=stubborn, engine="lanes")
    assert sorted(tmp_path.rglob("*")) == before


def test_runs_without_a_name_go_under_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OptionError, match="lanes need"):
        races.race.run_race(races.options(optimizers=["torch.optim:RAdam"], engine="lanes"))
    assert os.listdir(tmp_path) == []
    with races.engine():
        _, path = races.race.run_race(races.options(command="thalweg race --data iris"))
    assert path.parent == Path("runs")
    assert path.name.startswith("race-iris-")
    assert Results.read(path / "results.json").command == "thalweg race --data iris"


def test_the_model_is_chosen_by_the_data() -> None:
    assert setup.understand(races.options(model=None)).model_info.spec == "mlp:64"
    wide: Callable[[], Any] = lambda: (torch.randn(40, 300), torch.arange(40) % 2)  # noqa: E731
    found = setup.understand(races.options(model=None, data=wide))
    assert found.model_info.spec == "mlp:128,64"


@pytest.mark.parametrize("name", ["margin", "minutes"])
@pytest.mark.parametrize("value", [math.inf, math.nan, 0.0, -1.0])
def test_numbers_that_no_file_could_hold_are_refused(name: str, value: float) -> None:
    with pytest.raises(OptionError, match=f"^{name} is"):
        setup.understand(races.options(**{name: value}))


@pytest.mark.parametrize("kind", ["lanes", "loop"])
def test_starting_points_are_raced_and_the_winners_recipe_begins_the_same(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THALWEG_STATE_DIR", str(tmp_path / "state"))
    with races.engine(kind):
        results = verbs.race(
            "mlp:6", "iris", optimizers=["momentum"], trials=12, splits=2, epochs=3, batch_size=16,
            initializations=["sparse", "normalized"], spaces={"sparse.k": (1, 3)}, out=tmp_path / "out",
        )  # fmt: skip
    assert results.plan.initializations == {
        "sparse": {"k": (1.0, 3.0), "scale": (0.03, 3.0)},
        "normalized": {"gain": (0.1, 3.0)},
    }
    begins = [trial.setting.initialization for trial in results.optimizers[0].trials]
    assert {each["scheme"] for each in begins} == {"sparse", "normalized"}
    # what differs in nothing but its start ends elsewhere
    assert len({trial.validation for trial in results.optimizers[0].trials}) > 2
    won = recipe.read(tmp_path / "out" / "winner.toml")
    assert won.strategies.initialization is not None
    winner = results.optimizers[0].winners[won.data.replicate]
    chosen = won.strategies.initialization.model_dump(exclude_defaults=True)
    assert chosen == winner.setting.initialization
    trained = verbs.train(tmp_path / "out" / "winner.toml", out=tmp_path / "trained")
    confirmed = next(run for run in results.optimizers[0].runs if run.seed == won.training.seed)
    assert trained.result["test"] == pytest.approx(confirmed.score, abs=1e-6)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Where training begins" in page
    assert "k of sparse weights" in page


def test_starting_points_that_cannot_be_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    for model, more, says in (
        ("linear", {"initializations": ["spars"]}, "did you mean 'sparse'"),
        ("linear", {"spaces": {"sparse.k": (1, 3)}}, r"write initializations=\['default', 'sparse'\]"),
        ("linear", {"initializations": []}, "initializations is empty"),
    ):
        with pytest.raises(OptionError, match=says):
            verbs.race(model, "iris", out=tmp_path / "out", **more)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["lanes", "loop"])
def test_a_directory_that_goes_while_runs_are_under_way_ends_the_race(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def gone(directory: RunDirectory, **_: bool) -> None:
        raise RunDirectoryError(f"{directory.path.name} is gone")

    monkeypatch.setattr(RunDirectory, "check", gone)
    with races.engine(kind), pytest.raises(RunDirectoryError, match="race is gone"):
        races.run(tmp_path / "race")
