"""What a careful reader of a verdict has to know beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from thalweg.errors import option
from thalweg.racing import statistics
from thalweg.racing.contrasts import correction
from thalweg.racing.results import AxisVerdict, ReplicateWinner, Warning_
from thalweg.racing.verdict import Evidence
from thalweg.racing.wording import listed, spoken_difference, spoken_score

__all__ = ["warnings"]

_SPLITS_TO_JUDGE_BY = 3
# more are no advice
_MOST_SPLITS = 100
# typical distances from the median, beyond which a run is no usual one
_FAR = 20


def warnings(
    evidence: Evidence,
    verdict: AxisVerdict,
    *,
    winner_mean: float | None,
    metric: str,
    margin: float,
    trials: int,
    epochs: int,
    winners: Mapping[str, Sequence[ReplicateWinner]],
    test_looks: int,
    test_noise: bool = True,
    cuts: Sequence[str] = (),
    data: Sequence[str] = (),
    unmoved: Mapping[str, Sequence[bool]] | None = None,
) -> list[Warning_]:
    """Return what a careful reader has to know, the most particular first.

    Codes: ``data`` (what the data itself may mislead by), ``out-of-time`` (the clock cut the plan),
    ``edge`` (an optimizer's best setting lies at an end of its space in at least half the replicates),
    ``unmoved`` (runs in which no step moved any weight),
    ``adam-behind-momentum``, ``diverged``, ``collapsed`` (a run far below the others of its optimizer),
    ``one-example`` (optimizers agree more closely than one test example can show), ``test-noise`` (what the
    choice of test examples leaves to chance isn't counted),
    ``too-few-splits``, ``too-few-test-examples``, ``winner-mean`` (what being picked as the highest adds),
    ``rare-failures`` (what so few runs can't show), ``test-looks`` (this test data has been scored before),
    ``scope`` (always).

    Args:
        evidence: what ``verdict`` was made of.
        verdict: at equal work.
        winner_mean: of the verdict.
        metric: its name.
        margin: as for :func:`thalweg.racing.verdict.compare_all`.
        trials: settings an optimizer.
        epochs: passes a run.
        winners: optimizer to the winner of each replicate's pool.
        test_looks: how often this test data has been scored, this race included.
        test_noise: whether the verdict counts what the choice of test examples leaves to chance.
        cuts: what the clock took from the plan, a sentence each.
        data: what was found when the data was read.
        unmoved: of each optimizer's confirmation runs, whether no step moved any weight.
    """
    return [
        *(Warning_(code="data", text=text) for text in data),
        *(Warning_(code="out-of-time", text=cut) for cut in cuts),
        *_unmoved(unmoved or {}),
        *_edges(winners),
        *_adam(verdict),
        *_diverged(evidence),
        *_collapsed(evidence, metric),
        *_one_example(evidence),
        *_test_noise(evidence, test_noise),
        *_too_few(evidence, verdict, metric, margin),
        *_winner_mean(evidence, verdict, winner_mean, metric),
        *_rare_failures(evidence, verdict),
        *_looks(test_looks),
        Warning_(
            code="scope",
            text=f"a winner at this size and budget need not be one at another: each optimizer had {trials} "
            f"settings of {epochs} {'pass' if epochs == 1 else 'passes'} here",
        ),
    ]


def _edges(winners: Mapping[str, Sequence[ReplicateWinner]]) -> list[Warning_]:
    found = []
    for name, won in winners.items():
        counts: dict[tuple[str, str], int] = {}
        for winner in won:
            for end in winner.edges.items():
                counts[end] = counts.get(end, 0) + 1
        often = {end: count for end, count in counts.items() if 2 * count >= len(won)}
        if not often:
            continue
        where = listed(
            [
                f"{hyperparameter} at the {end} end of its space in {count} of {len(won)} splits"
                for (hyperparameter, end), count in often.items()
            ]
        )
        # a starting point's number goes by its own name
        keys = [number if "." in number else f"{name}.{number}" for number, _ in often]
        wider = option("spaces", dict.fromkeys(keys, ("LOW", "HIGH")))
        found.append(
            Warning_(
                code="edge",
                optimizer=name,
                text=f"{name} was best with {where}, so better settings may lie beyond: "
                f"widen {'it' if len(keys) == 1 else 'them'} with {wider}",
            )
        )
    return found


def _unmoved(runs: Mapping[str, Sequence[bool]]) -> list[Warning_]:
    found = []
    for name, still in runs.items():
        if not any(still):
            continue
        runs_of = (
            f"{sum(still)} of {len(still)} confirmation runs" if len(still) > 1 else "its confirmation run"
        )
        found.append(
            Warning_(
                code="unmoved",
                optimizer=name,
                text=f"{name} moved no weight in {runs_of}, so this is a model's score as it begins; see "
                "whether gradients reach the parameters and are finite, and whether learning rates are large "
                f"enough to change a number of this precision ({option('spaces')})",
            )
        )
    return found


def _adam(verdict: AxisVerdict) -> list[Warning_]:
    ahead = [
        rival
        for rival in ("momentum", "nesterov")
        for pair in verdict.pairs
        if (pair.a, pair.b, pair.verdict) in ((rival, "adam", "better"), ("adam", rival, "worse"))
    ]
    if not ahead:
        return []
    return [
        Warning_(
            code="adam-behind-momentum",
            optimizer="adam",
            text=f"adam lost to {listed(ahead)} at equal tuning, though it can imitate it: it may be "
            f"under-tuned, so try more {option('trials')} or a wider {option('spaces')} for adam before "
            "giving it up",
        )
    ]


def _diverged(evidence: Evidence) -> list[Warning_]:
    runs = np.isnan(evidence.scores)
    return [
        Warning_(
            code="diverged",
            optimizer=name,
            text=f"{name} diverged in {int(lost.sum())} of {lost.size} confirmation runs, so it has no mean "
            f"and is compared by rank, last wherever it diverged",
        )
        for name, lost in zip(evidence.names, runs, strict=True)
        if lost.any()
    ]


def _collapsed(evidence: Evidence, metric: str) -> list[Warning_]:
    """Runs that ended far below what is usual for their optimizer, without diverging."""
    usual = np.array(
        [np.median(runs[~np.isnan(runs)]) if (~np.isnan(runs)).any() else np.nan for runs in evidence.scores]
    )
    below = evidence.sign * (usual[:, None, None] - evidence.scores)
    typical = float(np.nanmedian(np.abs(below))) if not np.isnan(below).all() else 0.0
    if typical == 0:
        return []
    found = []
    for name, runs, middle, short in zip(evidence.names, evidence.scores, usual, below, strict=True):
        # about 13 standard deviations of a normal score
        lost = np.nan_to_num(short) > _FAR * typical
        if not 0 < 2 * lost.sum() < lost.size:
            continue
        worst = runs[lost][int(np.argmax(short[lost]))]
        found.append(
            Warning_(
                code="collapsed",
                optimizer=name,
                text=f"{name} ended far from its usual score in {int(lost.sum())} of {lost.size} "
                f"confirmation runs ({spoken_score(float(worst), metric)} at worst, usually "
                f"{spoken_score(float(middle), metric)}), and its mean depends on how often that happens",
            )
        )
    return found


def _one_example(evidence: Evidence) -> list[Warning_]:
    a, b = np.triu_indices(len(evidence.names), 1)
    count = int(evidence.contrasts.floored[a, b].sum())
    if not count:
        return []
    pairs = "the pair agrees" if len(a) == 1 else f"{count} of {len(a)} pairs agree"
    return [
        Warning_(
            code="one-example",
            text=f"{pairs} more closely than one of {evidence.n_test} test examples can show, so one "
            f"example's worth is taken for the spread; a larger test set would show more",
        )
    ]


def _test_noise(evidence: Evidence, counted: bool) -> list[Warning_]:
    if counted:
        return []
    return [
        Warning_(
            code="test-noise",
            text=f"all splits share {evidence.n_test} test examples, and this metric can't be recomputed "
            f"on a part of them: what another choice of them would change isn't in the intervals",
        )
    ]


def _winner_mean(
    evidence: Evidence, verdict: AxisVerdict, winner_mean: float | None, metric: str
) -> list[Warning_]:
    leader = verdict.could_be_best[0]
    mean = evidence.sign * float(evidence.contrasts.means[evidence.names.index(leader)])
    if winner_mean is None or math.isnan(mean):
        return []
    corrected = spoken_score(winner_mean, metric)
    if corrected == spoken_score(mean, metric):
        return []
    return [
        Warning_(
            code="winner-mean",
            optimizer=leader,
            text=f"{leader}'s mean of {spoken_score(mean, metric)} was picked as the best of several, and "
            f"part of that is luck: without it, expect about {corrected}",
        )
    ]


def _rare_failures(evidence: Evidence, verdict: AxisVerdict) -> list[Warning_]:
    """What n runs without a failure leave room for: a failure in ``1 - 0.05**(1/n)`` of all runs."""
    if len(verdict.could_be_best) == len(evidence.names):
        return []
    runs = evidence.scores[0].size
    share = 100 * (1 - 0.05 ** (1 / runs))
    return [
        Warning_(
            code="rare-failures",
            text=f"{runs} confirmation {'run' if runs == 1 else 'runs'} of an optimizer can miss a "
            f"failure that hits up to {share:.0f} % of its runs; one that fails that often is worse "
            f"than its mean here",
        )
    ]


def _too_few(evidence: Evidence, verdict: AxisVerdict, metric: str, margin: float) -> list[Warning_]:
    """How many splits, or test examples, would settle the undecided pairs if they were equal."""
    names = evidence.names
    undecided = [
        (names.index(p.a), names.index(p.b))
        for p in verdict.pairs
        if p.verdict == "undecided" and p.difference is not None
    ]
    replicates = evidence.replicates
    if not undecided or margin <= 0 or replicates < 2:
        return []
    contrasts = evidence.contrasts
    # as in the test of equivalence: at least the variance of two that differ by the margin
    least = margin * contrasts.example
    variance = max(least, float(np.median([contrasts.variances[pair] for pair in undecided])))
    if evidence.overlap is None:
        part = float(np.median([contrasts.replicate_variances[pair] for pair in undecided]))
        part = min(max(part, 1e-9 * variance), variance)
        sd, ratio = math.sqrt(part * replicates), (variance / part - 1) / replicates
    else:
        ratio = evidence.overlap / (1 - evidence.overlap)
        sd = math.sqrt(variance / correction(replicates, evidence.overlap))
    if variance == 0:
        return []
    count = f"{len(undecided)} of {len(verdict.pairs)} pairs are" if len(verdict.pairs) > 1 else "the pair is"
    start = f"{count} undecided at a margin of {spoken_difference(margin, metric)}"
    needed = statistics.replicates_needed(sd, margin, ratio=ratio, most=_MOST_SPLITS)
    if needed is None and replicates < _SPLITS_TO_JUDGE_BY:
        # one or two differences say next to nothing about their spread, nor then about what is needed
        return [
            Warning_(
                code="too-few-splits",
                text=f"{start}: {replicates} splits are too few to say how many would settle it; take at "
                f"least 5 ({option('splits')})",
            )
        ]
    if needed is not None:
        return [
            Warning_(
                code="too-few-splits",
                text=f"{start}: {replicates} splits are too few; about {max(needed, replicates + 1)} "
                f"({option('splits')}) would show that two equal optimizers are equal",
            )
        ]
    # with as many splits as one likes, what is left is the noise of the test examples
    allowed = (margin / (stats.norm.isf(0.05) + stats.norm.isf(0.1))) ** 2
    examples = math.ceil(evidence.n_test * ratio * sd**2 / allowed)
    alike = ", with more splits too," if evidence.fixed_test else ", with as much more to train on,"
    return [
        Warning_(
            code="too-few-test-examples",
            text=f"{start}, and more splits of the same data can't settle them: {evidence.n_test} test "
            f"examples are too few; about {_round_up(examples)}{alike} would, or a wider {option('margin')}",
        )
    ]


def _round_up(count: int) -> int:
    """Two digits are all that such an estimate is worth."""
    unit = int(10 ** max(0, len(str(count)) - 2))
    return -(-count // unit) * unit


def _looks(times: int) -> list[Warning_]:
    if times < 2:
        return []
    return [
        Warning_(
            code="test-looks",
            text=f"this test data has been scored in {times} races; what was chosen after looking at it "
            f"looks better on it than it is",
        )
    ]
