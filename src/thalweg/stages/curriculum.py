"""Curricula: easy examples first, by sampling or by weight; and the controls that they are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from thalweg.errors import OptionError
from thalweg.randomness import streams
from thalweg.run.sampler import OrderOf
from thalweg.settings.tables import Settings, one_of, whole_number
from thalweg.stages.difficulty import as_difficulty, fingerprint, relative_ranks
from thalweg.stages.orders import (
    ByFrequency,
    EasiestFirst,
    Emphasis,
    Mix,
    Ordinary,
    emphasis_of,
    emphasis_on_easy,
)
from thalweg.stages.progress import Changing, Ramp, by_progress, looked_at
from thalweg.stages.stage import GIVEN, Stage
from thalweg.stages.weighting import WeightedLoss, WeightedTargets
from thalweg.strategies.base import Keys, Strategy, Trainer

__all__ = [
    "CONTROLS",
    "Control",
    "CurriculumKind",
    "ExampleWeights",
    "ExampleWeightsSettings",
    "curriculum",
    "curriculum_controls",
]

CurriculumKind: TypeAlias = Literal["stochastic", "deterministic", "frequency", "weight"]

_KINDS = ("stochastic", "deterministic", "frequency", "weight")
Control: TypeAlias = Literal["reverse", "random", "plain"]

CONTROLS: Mapping[str, str] = {
    "reverse": "the hardest examples first",
    "random": "the same pace over an order that has nothing to do with difficulty",
    "plain": "all examples from the beginning, shuffled",
}
"""What a curriculum is compared with, and the order of examples in each."""


class ExampleWeightsSettings(Settings):
    """What tells weights of examples apart on resume."""

    difficulty: str
    emphasis: tuple[float, ...]


class ExampleWeights(Strategy):
    """Let examples count differently in the loss, by how difficult they are and how much is done.

    Example i counts ``w_i = N * e_i / sum_j e_j`` with ``e_i = emphasis(r_i, s)``, r_i its rank from 0 for
    the easiest to 1, and s the part of the training that is done: 1 on average over all N examples, so that
    the loss of a batch has the size that it has without weights. The weights go beside the targets, as
    :class:`~thalweg.stages.weighting.WeightedTargets`, and the training's loss has to be a
    :class:`~thalweg.stages.weighting.WeightedLoss`.

    Examples are known by their place in the data, which a DataLoader doesn't tell: give ``fit`` the Dataset.

    Args:
        difficulty: a number for each training example, see
            :func:`thalweg.stages.difficulty.as_difficulty`.
        emphasis: from ranks, float64 ``[N]``, and progress to numbers of at least 0, ``[N]``.

    Raises:
        DataError: a difficulty that isn't one; at the beginning of a training that it is of other data.
        OptionError: an emphasis below 0, not finite, or 0 for all.

    >>> weights = ExampleWeights([0.0, 1.0], lambda ranks, progress: 3 - 2 * ranks)
    >>> weights.at(torch.tensor([1, 0]), progress=0.0)
    tensor([0.5000, 1.5000], dtype=torch.float64)

    Source: P8 (N): "assigning their contributions to the cost function larger coefficients".
    """

    name: ClassVar[str] = "example-weights"
    # after whatever changes inputs and targets
    priority: ClassVar[int] = 90
    settings: ExampleWeightsSettings

    def __init__(self, difficulty: Any, emphasis: Emphasis | None = None) -> None:
        found = as_difficulty(difficulty)
        self._difficulty, self._ranks = found, relative_ranks(found)
        self._emphasis = emphasis_on_easy() if emphasis is None else emphasis
        middle = [emphasis_of(self._emphasis, self._ranks, at)[[0, -1]] for at in (0.0, 0.5, 1.0)]
        self.settings = ExampleWeightsSettings(
            difficulty=fingerprint(found), emphasis=tuple(map(float, torch.cat(middle)))
        )
        self._made: tuple[float, Tensor] | None = None

    def at(self, indices: Tensor, progress: float) -> Tensor:
        """Return the weights ``[B]`` of the examples at ``indices`` where ``progress`` is done, float64."""
        if self._made is None or self._made[0] != progress:
            found = emphasis_of(self._emphasis, self._ranks, progress)
            self._made = progress, found / found.mean()
        return self._made[1][indices.cpu()]

    def before_training(self, trainer: Trainer) -> None:
        """Refuse difficulties of other data."""
        if (targets := trainer.targets()) is not None:
            as_difficulty(self._difficulty, examples=len(targets))

    def batch(self, trainer: Trainer, inputs: Any, targets: Tensor, keys: Keys) -> tuple[Any, Tensor]:
        """Put the weights beside the targets."""
        weights = self.at(keys.indices, trainer.progress).to(targets.device, torch.float32)
        return inputs, WeightedTargets(targets, weights)  # type: ignore[return-value]


def curriculum(
    difficulty: Any,
    kind: CurriculumKind = "stochastic",
    *,
    pace: Changing | None = None,
    hard: float = 0.5,
    sharpness: float = 5.0,
    emphasis: Emphasis | None = None,
    loss: Any = GIVEN,
    control: Control | None = None,
    control_seed: int = 0,
    epochs: int | None = None,
    steps: int | None = None,
    name: str = "curriculum",
    **settings: Any,
) -> list[Stage]:
    """Return a stage that shows easy examples first, or lets them count more.

    - ``"stochastic"``: always a random mix of easy and hard examples, of which ``pace`` says the share of
      hard ones (:class:`thalweg.stages.orders.Mix`); by default from a tenth of their share in the data to
      all of it.
    - ``"deterministic"``: the easiest share so far, which ``pace`` says
      (:class:`thalweg.stages.orders.EasiestFirst`); by default from 0.2 to 1.
    - ``"frequency"``: easy ones are drawn more often (:class:`thalweg.stages.orders.ByFrequency`), with the
      emphasis ``exp(-sharpness * (1 - pace) * rank)``, at which all are alike where ``pace`` is 1; by default
      it goes from 0 to 1.
    - ``"weight"``: easy ones have larger weights in the loss by the same emphasis
      (:class:`ExampleWeights`), in the usual order.

    The paces by default reach their end where 0.8 of the stage is done, so that the rest is a training like
    any other.

    Args:
        difficulty: a number for each training example, the larger the more difficult: given, or of
            :func:`thalweg.stages.difficulty.difficulty_by` or
            :func:`~thalweg.stages.difficulty.difficulty_of`.
        kind: see above.
        pace: a number, or a function of the part of the stage that is done, within 0 and 1, such as
            :class:`thalweg.stages.Ramp`.
        hard: for ``"stochastic"``: which part of the examples is hard.
        sharpness, emphasis: for ``"frequency"`` and ``"weight"``: see above, or another emphasis in its
            place, a function of ranks and progress.
        loss: for ``"weight"``: the loss, a name or a function that is a mean or a sum over examples.
        control: what it is to be compared with in its place, as of :func:`curriculum_controls`.
        control_seed: of the random order.
        epochs, steps: how long.
        name: of the stage.
        settings: other settings of a :class:`thalweg.stages.Stage`.

    Raises:
        DataError: a difficulty that isn't finite, or the same for all; when the stage begins, of another
            number of examples, or data that come in batches.
        OptionError: a value out of range, or one that goes with another kind.

    >>> [stage] = curriculum([3, 1, 2, 9], "deterministic", epochs=10)
    >>> stage.name, sorted(stage.order(4, 0, 1).take(0.0).tolist())
    ('curriculum', [1])

    Source: P8 (N, K): by weight or by sampling frequency; deterministic, and stochastic, where N reports of
    one experiment on sequences that only the stochastic one helped. Bengio et al. 2009; Zaremba and Sutskever
    2014.
    """
    one_of("kind", kind, _KINDS)
    found = as_difficulty(difficulty)
    about: dict[str, Any]
    if control is not None:
        one_of("control", control, tuple(CONTROLS))
    if control == "reverse":
        found = -found
    elif control == "random":
        drawn = streams.order(len(found), seed=whole_number("control_seed", control_seed, least=0), epoch=0)
        found = found[torch.from_numpy(drawn)]
    elif control == "plain":
        about = {"curriculum": "plain", **settings.pop("about", {})}
        return [
            Stage(
                name=name, epochs=epochs, steps=steps, loss=loss, order=Ordinary(found), about=about,
                **settings,
            )
        ]  # fmt: skip
    if emphasis is not None and kind not in ("frequency", "weight"):
        raise OptionError(
            f"an emphasis is given, but a {kind} curriculum goes by its pace; take kind='frequency' or "
            "'weight', or leave it out"
        )
    if emphasis is not None and pace is not None:
        raise OptionError("emphasis and pace are both given; an emphasis is a function of progress by itself")
    if kind == "weight" and loss is GIVEN:
        raise OptionError(
            "a curriculum by weight needs to know the loss, in which examples count differently; give it "
            "here too, as loss='cross-entropy'"
        )
    about = {"curriculum": kind, "difficulty": fingerprint(found)}
    if pace is None:
        starts = {"stochastic": (hard / 10, hard), "deterministic": (0.2, 1.0)}
        start, end = starts.get(kind, (0.0, 1.0))
        pace = Ramp(start=start, end=end, until=0.8)
    paced = by_progress("pace", pace, least=0, most=1)
    if emphasis is None:
        about["pace"] = looked_at(paced)
    order: OrderOf
    if kind == "deterministic":
        order = EasiestFirst(found, paced)
    elif kind == "stochastic":
        order, about["hard"] = Mix(found, paced, hard), hard
    else:
        counts = emphasis_on_easy(sharpness, paced) if emphasis is None else emphasis
        about["emphasis"] = _seen(counts)
        order = ByFrequency(found, counts) if kind == "frequency" else Ordinary(found)
        if kind == "weight":
            settings["adds"] = [*settings.get("adds", ()), ExampleWeights(found, counts)]
            settings.setdefault("validation_loss", loss)
            loss = WeightedLoss(loss)
    about |= settings.pop("about", {})
    return [Stage(name=name, epochs=epochs, steps=steps, loss=loss, order=order, about=about, **settings)]


def curriculum_controls(
    difficulty: Any,
    kind: CurriculumKind = "stochastic",
    *,
    seed: int = 0,
    name: str = "curriculum",
    **settings: Any,
) -> dict[str, list[Stage]]:
    """Return what a curriculum is to be compared with: as long, and otherwise alike.

    - ``"reverse"``: the hardest first.
    - ``"random"``: the same pace over an order of the examples that has nothing to do with difficulty: what
      is left of a gain with it comes from the pace alone.
    - ``"plain"``: the usual shuffled order of all examples from the beginning.

    Args:
        difficulty, kind, name, settings: as for :func:`curriculum`; names of stages end with that of the
            control.
        seed: of the random order.

    >>> controls = curriculum_controls([3, 1, 2, 9], "deterministic", epochs=10)
    >>> list(controls), controls["reverse"][0].name, controls["reverse"][0].order(4, 0, 1).take(0.0).tolist()
    (['reverse', 'random', 'plain'], 'curriculum reverse', [3])

    Source: P8; Wu, Dyer and Neyshabur, When do curricula work?, 2021, compare with the random and the reverse
    order.
    """
    found, own = as_difficulty(difficulty), {**settings, "control_seed": seed}
    return {
        control: curriculum(found, kind, control=control, name=f"{name} {control}", **own)
        for control in get_args(Control)
    }


def _seen(emphasis: Emphasis) -> list[float]:
    """An emphasis as plain values, at a few ranks and places of a training."""
    ranks = torch.linspace(0, 1, 5, dtype=torch.float64)
    return [float(value) for at in (0.0, 0.25, 0.5, 0.75, 1.0) for value in emphasis(ranks, at)]
