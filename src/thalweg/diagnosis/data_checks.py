"""Whether the data can be learnt from as they are given: values, scales, labels, order, and the other part.

Source: INDEX D-notes on scaling (C s54-80: axes of different scale are an ill-conditioned problem), K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from thalweg.diagnosis import changes
from thalweg.diagnosis.facts import Facts, numbers_of
from thalweg.diagnosis.finding import Finding, Remedy
from thalweg.diagnosis.neighbours import Learnable
from thalweg.diagnosis.setup import Setup
from thalweg.diagnosis.suspicion import Suspicion
from thalweg.objectives.nests import count_of

__all__ = ["advice", "suspect_data"]

_DISTANT = 0.3


def suspect_data(facts: Facts, known: Learnable | None) -> Iterator[Suspicion]:
    """Go through what may be wrong with the data."""
    yield from _values(facts)
    yield from _all_alike(facts)
    yield from _standing_in(facts)
    yield from _input_scale(facts)
    yield from _target_scale(facts)
    yield from _order(facts)
    yield from _split(facts, known)
    yield from _labels(facts, known)


# Values and scales ------------------------------------------------------------------------------------------


def _values(facts: Facts) -> Iterator[Suspicion]:
    for numbers, what, value in (
        (facts.inputs, "inputs", facts.setup.inputs),
        (facts.targets, "targets", facts.setup.targets),
    ):
        if numbers is None or numbers.finite == 1 or not isinstance(value, Tensor):
            continue
        bad = ~torch.isfinite(value.reshape(len(value), -1).double()).all(1)
        first = int(torch.nonzero(bad)[0])
        yield Suspicion(
            code="input-values" if what == "inputs" else "labels",
            weight=1,
            certain=True,
            title=f"{what} aren't all finite numbers",
            evidence=(
                f"{int(bad.sum())} of {len(bad)} examples hold NaN or infinity, the first is row {first}",
            ),
            remedy=Remedy(text=f"leave these rows out, or fill their gaps: {what} have to be finite"),
        )


def _all_alike(facts: Facts) -> Iterator[Suspicion]:
    targets = facts.setup.targets
    if not isinstance(targets, Tensor) or len(targets) < 2:
        return
    if facts.judge.kind == "other" and targets.dtype.is_floating_point:
        # a loss of one's own may need none
        return
    if bool((targets == targets[:1]).all()):
        yield Suspicion(
            code="labels",
            weight=1,
            certain=True,
            title="all targets are the same",
            evidence=(f"{len(targets)} examples, one target",),
            cause="there is nothing to tell apart",
            remedy=Remedy(text="look at how targets are read"),
        )


def _first_norm(facts: Facts) -> bool:
    """Whether inputs go through a norm before any weights, or are looked up."""
    if facts.traced is None:
        return False
    for op in facts.traced.model:
        if op.kind in ("weights", "recurrent", "attention"):
            return False
        if op.kind in ("norm", "embedding"):
            return True
    return True


def _input_scale(facts: Facts) -> Iterator[Suspicion]:
    numbers = facts.inputs
    inputs = facts.setup.inputs
    if numbers is None or not isinstance(inputs, Tensor) or not inputs.dtype.is_floating_point:
        return
    if _first_norm(facts) or numbers.finite < 1:
        return
    sizes = (numbers.means**2 + numbers.spreads**2).sqrt()
    moving = numbers.spreads > 1e-9 * sizes.clamp(min=1e-30)
    if not bool(moving.any()):
        yield Suspicion(
            code="labels",
            weight=1,
            certain=True,
            title="all examples are the same",
            evidence=("no input differs from example to example",),
        )
        return
    spreads = numbers.spreads[moving]
    high, low = float(sizes.max()), float(spreads.min())
    # a feature that hardly moves is harmless beside many others: pixels at the edge of a picture
    ratio = float(spreads.max() / (spreads.min() if len(spreads) <= 30 else spreads.median()))
    offset = float((numbers.means[moving].abs() / spreads).median())
    weight = 0.0
    for found, levels in (
        (high, ((30, 0.95), (8, 0.8), (4, 0.4))),
        (ratio, ((1000, 0.95), (100, 0.85), (20, 0.5))),
        (offset, ((20, 0.9), (8, 0.7))),
        (1 / max(high, 1e-30), ((100, 0.9), (25, 0.7), (10, 0.4))),
    ):
        weight = max([weight, *(w for least, w in levels if found >= least)])
    if not weight:
        return
    said = f"values go from {numbers.low:.3g} to {numbers.high:.3g}, spread {numbers.spread:.3g}"
    if len(spreads) > 1:
        said += f"; spreads of features from {low:.3g} to {float(spreads.max()):.3g}"
    yield Suspicion(
        code="input-scale",
        weight=weight,
        severity="risk" if weight < 0.8 else "error",
        title="inputs are far from mean 0 and spread 1",
        evidence=(said,),
        cause="first weights and usual learning rates are made for inputs of about 1; features of different "
        "scale make the loss steep along one and flat along another",
        remedy=Remedy(
            text="standardize each feature, by mean and spread of the training data",
            change=changes.standardized_inputs,
            code="x = (x - mean) / spread   # of the training data",
        ),
    )


_STANDING_IN = (-99.0, -999.0, -9999.0, -99999.0, 999.0, 9999.0, 99999.0)


def _standing_in(facts: Facts) -> Iterator[Suspicion]:
    """Numbers that stand for gaps: -9999 among values around 1."""
    inputs = facts.setup.inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 2 or not inputs.dtype.is_floating_point:
        return
    for column in range(inputs.shape[1]):
        values = inputs[:, column].double()
        for gap in _STANDING_IN:
            there = values == gap
            rest = values[~there]
            if not 1 < int(there.sum()) < len(values) - 3 or float(rest.std()) == 0:
                continue
            if abs(gap - float(rest.median())) > 15 * float(rest.std()):
                yield Suspicion(
                    code="input-scale",
                    weight=1,
                    certain=True,
                    title=f"{gap:g} stands for missing values, and is taken for a number",
                    evidence=(
                        f"column {column} holds it {int(there.sum())} times, among values from "
                        f"{float(rest.min()):.3g} to {float(rest.max()):.3g}",
                    ),
                    remedy=Remedy(
                        text="fill gaps by the column's median, and standardize",
                        change=changes.gaps_filled(gap),
                        code=f"x[x == {gap:g}] = median",
                    ),
                )
                return


def _target_scale(facts: Facts) -> Iterator[Suspicion]:
    numbers, targets = facts.targets, facts.setup.targets
    if numbers is None or facts.judge.kind != "numbers" or not isinstance(targets, Tensor):
        return
    if facts.judge.logarithms:
        # counts have to stay counts
        return
    if not targets.dtype.is_floating_point:
        return
    size = math.sqrt(numbers.mean**2 + numbers.spread**2)
    ratio = (
        float(numbers.spreads.max() / numbers.spreads[numbers.spreads > 0].min())
        if bool((numbers.spreads > 0).any())
        else 1.0
    )
    weight = 0.0
    for found, levels in (
        (size, ((50, 0.95), (10, 0.75), (4, 0.4))),
        (1 / max(numbers.spread, 1e-30), ((100, 0.8), (20, 0.5))),
        (ratio, ((100, 0.8), (20, 0.5))),
    ):
        weight = max([weight, *(w for least, w in levels if found >= least)])
    if weight:
        yield Suspicion(
            code="target-scale",
            weight=weight,
            severity="risk" if weight < 0.75 else "error",
            title="targets are far from mean 0 and spread 1",
            evidence=(
                f"mean {numbers.mean:.3g}, spread {numbers.spread:.3g}, from {numbers.low:.3g} to "
                f"{numbers.high:.3g}",
            ),
            cause="outputs begin near 0, so that first errors and gradients are of the size of the targets",
            remedy=Remedy(
                text="standardize the targets, and bring predictions back",
                change=changes.standardized_targets,
                code="y = (y - mean) / spread   # and predictions * spread + mean",
            ),
        )


# Order ------------------------------------------------------------------------------------------------------


def _order(facts: Facts) -> Iterator[Suspicion]:
    setup = facts.setup
    if setup.shuffled or not isinstance(setup.targets, Tensor):
        return
    size = setup.batch_size
    number = facts.judge.numbers(setup.targets)
    if number is not None and len(number) == len(setup.targets):
        values = torch.nn.functional.one_hot(number, facts.judge.classes).double()
    elif facts.judge.kind == "numbers":
        values = setup.targets.reshape(len(setup.targets), -1).double()
    else:
        return
    # thinned examples keep their order, so that a batch is a run of as many of them
    share = max(2, round(size * len(values) / setup.examples))
    blocks = [block.mean(0) for block in torch.split(values, share) if len(block) == share]
    if len(blocks) < 3:
        return
    between = float(torch.stack(blocks).var(0).sum())
    chance = float(values.var(0).sum()) / share
    ratio = between / max(chance, 1e-30)
    if ratio > 3:
        yield Suspicion(
            code="order",
            weight=0.95 if ratio > 0.3 * share else 0.8,
            certain=ratio > 0.5 * share,
            title="examples come sorted by their targets, and aren't shuffled",
            evidence=(f"the mean target of a batch varies {ratio:.0f} times as much as by chance",),
            cause="each batch shows one kind of examples, and undoes what the one before has taught",
            remedy=Remedy(
                text="shuffle the training data",
                code="DataLoader(..., shuffle=True)",
                change=lambda given: given.with_(shuffled=True),
            ),
        )


# What can be learnt -----------------------------------------------------------------------------------------


def _labels(facts: Facts, known: Learnable | None) -> Iterator[Suspicion]:
    if known is None:
        return
    if known.shifted:
        places = known.shifted

        def moved(setup: Setup) -> Setup:
            return setup.with_(targets=setup.targets.roll(places, 0))

        yield Suspicion(
            code="labels",
            weight=1,
            certain=True,
            title=f"targets are shifted against their inputs by {abs(places)} "
            f"{'row' if abs(places) == 1 else 'rows'}",
            evidence=(
                f"{known.by} tell nothing of the targets as they are (skill {known.training:.2f}), "
                f"and {known.shifted_skill:.2f} after moving them by {places}",
            ),
            remedy=Remedy(
                text="bring targets back to their rows", code=f"targets.roll({places}, 0)", change=moved
            ),
        )
    elif known.validation > 0.5 and 0.25 * known.validation <= known.training < known.validation - max(
        0.12, 3 * known.error
    ):
        yield Suspicion(
            code="labels",
            weight=0.9,
            title="many targets of the training data don't go with their inputs",
            evidence=(
                f"{known.by} tell the targets of the validation data (skill "
                f"{known.validation:.2f}) much better than those of the training data "
                f"({known.training:.2f})",
            ),
            cause="labels of the training data are damaged",
            remedy=Remedy(text="look at training examples whose neighbours all have another label"),
        )
    elif known.validation > _DISTANT and known.training < min(0.1, 0.25 * known.validation):
        yield Suspicion(
            code="labels",
            weight=1,
            certain=known.training < 2.5 * known.error,
            title="targets of the training data don't go with their inputs",
            evidence=(
                f"{known.by} tell the targets of the validation data (skill "
                f"{known.validation:.2f}), and nothing of the training data's ({known.training:.2f})",
            ),
            cause="inputs or targets were shuffled or sorted apart from each other",
            remedy=Remedy(text="shuffle inputs and targets by one order, and look at a few pairs by eye"),
        )


def _split(facts: Facts, known: Learnable | None) -> Iterator[Suspicion]:
    if not facts.held.own or facts.setup.validation is None:
        return
    yield from _shifted_inputs(facts)
    if known is None or math.isnan(known.across):
        return
    within = min(known.training, known.validation)
    if known.moved and known.moved_skill > known.across + max(0.05, known.error):
        yield _moved(known)
        return
    if known.training < known.validation - max(0.12, 3 * known.error):
        # damaged labels of the training data, which are told as such
        return
    if within > _DISTANT and known.recoded > known.across + 0.3 and known.recoded > 0.6 * within:
        yield Suspicion(
            code="split-mismatch",
            weight=1,
            certain=True,
            title="classes are numbered otherwise in the validation data",
            evidence=(
                f"nearest neighbours in the training data tell {known.across:.2f} of the validation classes "
                f"as they are numbered, and {known.recoded:.2f} with other numbers",
            ),
            remedy=Remedy(text="number the classes of both parts by one list"),
        )
    elif within > _DISTANT and known.across < min(0.75 * within, within - 4 * known.error):
        yield Suspicion(
            code="split-mismatch",
            weight=0.95,
            certain=known.across < 0.3 * within,
            title="validation data are not like training data",
            evidence=(
                f"{known.by} tell targets within training data (skill {known.training:.2f}) and "
                f"within validation data ({known.validation:.2f}), and not across ({known.across:.2f})",
            ),
            cause="the two parts were prepared otherwise",
            remedy=Remedy(text="prepare both parts by one function, with the training data's numbers"),
        )


def _moved(known: Learnable) -> Suspicion:
    back = list(known.moved)

    def ordered(setup: Setup) -> Setup:
        assert setup.validation is not None
        inputs, targets = setup.validation
        return setup.with_(validation=(inputs[:, back], targets))

    count = sum(place != column for column, place in enumerate(back))
    return Suspicion(
        code="split-mismatch",
        weight=1,
        certain=True,
        title="columns of the validation inputs come in another order than those of the training inputs",
        evidence=(
            f"{count} of {len(back)} columns go together with the others as another one does in the training "
            "data",
            f"nearest neighbours in the training data tell {known.across:.2f} of the validation targets as "
            f"they are, and {known.moved_skill:.2f} with the columns in order",
        ),
        cause="the two parts were read from tables whose columns are ordered otherwise",
        remedy=Remedy(
            text="choose the columns of both parts by name, in one order",
            code=f"validation_inputs[:, {back}]"
            if len(back) <= 20
            else "validation = validation[training.columns]",
            change=ordered,
        ),
    )


def _shifted_inputs(facts: Facts) -> Iterator[Suspicion]:
    mine, theirs = facts.inputs, numbers_of(facts.setup.validation[0] if facts.setup.validation else None)
    if mine is None or theirs is None or len(mine.means) != len(theirs.means) or _first_lookup(facts):
        return
    count = count_of(facts.setup.validation[1]) if facts.setup.validation else 0
    if theirs.finite < 1:
        yield Suspicion(
            code="split-mismatch",
            weight=1,
            certain=True,
            title="validation inputs aren't all finite numbers",
            evidence=(f"{100 * (1 - theirs.finite):.2g} % of their numbers are NaN or infinite",),
        )
        return
    moving = mine.spreads > 1e-9 * mine.means.abs().clamp(min=1e-30)
    if not bool(moving.any()) or count < 10:
        return
    spread = mine.spreads[moving]
    shift = ((theirs.means[moving] - mine.means[moving]).abs() / spread).median()
    ratio = float((theirs.spreads[moving] / spread).log().median())
    if float(shift) > max(1.0, 6 / math.sqrt(count)) or abs(ratio) > math.log(2.5):
        yield Suspicion(
            code="split-mismatch",
            weight=1,
            certain=float(shift) > 2 or abs(ratio) > math.log(4),
            title="validation inputs have another scale than training inputs",
            evidence=(
                f"training: mean {mine.mean:.3g}, spread {mine.spread:.3g}; validation: mean "
                f"{theirs.mean:.3g}, spread {theirs.spread:.3g}",
            ),
            remedy=Remedy(text="prepare both parts by one function, with the training data's numbers"),
        )


def _first_lookup(facts: Facts) -> bool:
    first = next(iter(facts.traced.model), None) if facts.traced is not None else None
    return first is not None and first.kind == "embedding"


# Worth knowing ----------------------------------------------------------------------------------------------


def advice(facts: Facts) -> Iterator[Finding]:
    """Say what is no illness and still worth knowing."""
    number = facts.judge.numbers(facts.setup.targets) if isinstance(facts.setup.targets, Tensor) else None
    if number is not None and facts.judge.kind == "classes":
        counts = torch.bincount(number, minlength=facts.judge.classes).double()
        there = counts[counts > 0]
        if len(there) > 1 and float(there.max() / there.min()) >= 10:
            yield Finding(
                code="imbalance",
                severity="advice",
                title="some classes are much rarer than others",
                evidence=(f"from {int(there.min())} to {int(there.max())} examples",),
                cause="accuracy says little of the rare ones",
                remedy=Remedy(
                    text="judge by balanced accuracy or AUC; weigh classes if the rare ones matter"
                ),
            )
