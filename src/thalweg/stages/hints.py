"""Hints from a teacher: a student's middle learns the teacher's, its outputs the labels and the teacher's."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from thalweg.errors import DataError, ModelError, OptionError, option
from thalweg.layers.interface import Interface, part_of
from thalweg.layers.modes import begin_training, evaluating, set_evaluation
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.run.targets import suited_loss
from thalweg.settings.tables import is_number, one_of
from thalweg.stages.prefixed import Prefixed
from thalweg.stages.progress import Changing, by_progress, said_of
from thalweg.stages.stage import Stage
from thalweg.stages.taps import Closing, Tapped, inner_module

__all__ = ["Regressor", "Taught", "TaughtLoss", "hint_loss", "hints", "regressor_for", "softened_loss"]

Regressor = Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]
"""From the shapes of one example's guided and hint features to what regresses the one from the other."""


def hint_loss(outputs: dict[str, Tensor], targets: Any = None) -> Tensor:
    """Return half the mean squared error of the student's regressed features against the teacher's.

    ``L = mean (r(v(x)) - u(x))^2 / 2``, with u the hint of the teacher, v the guided layer of the student
    and r the regressor.

    Args:
        outputs: with ``"regressed"`` and ``"hint"``, of one shape.
        targets: aren't looked at.

    Source: P6 (N, U); Romero et al., FitNets, 2015, eq. 3. Deviation: the mean over features, where theirs is
    the sum, so that a good rate doesn't depend on how many there are.
    """
    return (outputs["regressed"] - outputs["hint"]).square().mean() / 2


def softened_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Return the cross-entropy of softened outputs, scaled so that gradients don't fade with temperature.

    ``L = -T^2 * mean_i sum_c softmax(t_i / T)_c * log softmax(s_i / T)_c``

    Args:
        student, teacher: logits ``[B, classes]``.
        temperature: T, above 0.

    >>> softened_loss(torch.zeros(1, 2), torch.zeros(1, 2), 1.0)
    tensor(0.6931)

    Source: P6 (N, U); Romero et al. 2015, eq. 2; Hinton et al., Distilling the knowledge, 2015, with its T^2.
    """
    wanted = (teacher / temperature).softmax(-1)
    found = (student / temperature).log_softmax(-1)
    return -(wanted * found).sum(-1).mean() * temperature**2


class Taught(Closing):
    """A student beside what its teacher says.

    ``forward(inputs, hint, teacher)`` gives all that losses compare.

    Args:
        student: is trained.
        guided: the name of its module that regresses the hint; ``None``: no hint.
        regressor: from the guided features to those of the hint.
        stops: run the student up to the guided layer alone, so that there are no ``"logits"``.
    """

    def __init__(
        self, student: nn.Module, guided: str | None, regressor: nn.Module | None, *, stops: bool = False
    ) -> None:
        super().__init__()
        self.student = student if guided is None else Tapped(student, {"guided": guided}, stops=stops)
        self.regressor, self.guided = regressor, guided
        # the student is called as it would be alone
        self._interface = Interface(None, ("student",))

    def forward(
        self, inputs: Any, hint: Tensor | None = None, teacher: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return ``"logits"``, and as far as there are such ``"regressed"``, ``"hint"`` and ``"teacher"``."""
        args, kwargs = self._interface.arguments(self.student, inputs)
        said = self.student(*args, **kwargs)
        if self.guided is None:
            found = {"logits": part_of(said)}
        else:
            found = dict(said)
            assert self.regressor is not None
            found["regressed"] = self.regressor(found.pop("guided"))
        given = {"hint": hint, "teacher": teacher}
        return found | {name: value for name, value in given.items() if value is not None}


class _Teacher(Closing):
    """A frozen copy of the teacher, and what it says of a batch; its layers after the hint where it must."""

    def __init__(self, teacher: nn.Module, hint: str | None, *, outputs: bool, stops: bool = False) -> None:
        super().__init__()
        held = set_evaluation(copy.deepcopy(teacher).requires_grad_(False))
        self.teacher = held if hint is None else Tapped(held, {"hint": hint}, stops=stops and not outputs)
        self.hint, self.outputs = hint, outputs

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.teacher

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the inputs, and what the teacher says of them."""
        said = self.teacher(*args, **kwargs)
        found: dict[str, Any] = {"inputs": kwargs or (args[0] if len(args) == 1 else args)}
        if self.hint is not None:
            found["hint"] = said["hint"]
        if self.outputs:
            found["teacher"] = part_of(said)
        return found


class TaughtLoss:
    """The student's loss on labels, with what the teacher says beside it.

    ``L = loss(s, y) + softened * softened_loss(s, t, T) + hint * hint_loss``, each weight a number or a
    function of the part of the stage that is done.

    Args:
        loss: on labels, a name or a function of outputs and targets.
        softened: weight of the teacher's outputs, at least 0.
        temperature: of them.
        hint: weight of the hint, at least 0.
    """

    def __init__(self, loss: Any, softened: Changing, temperature: float, hint: Changing) -> None:
        self._loss = suited_loss(loss, {})
        self._softened = by_progress("softened", softened, least=0)
        self._hint = by_progress("hint_weight", hint, least=0)
        self._temperature, self._progress = temperature, 0.0
        self.__name__ = f"taught {self._loss.name}"

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Take the weights of this part of the stage."""
        self._progress = progress

    def __call__(self, outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        total = self._loss(outputs["logits"], targets)
        if "teacher" in outputs and (weight := self._softened(self._progress)):
            total = total + weight * softened_loss(outputs["logits"], outputs["teacher"], self._temperature)
        if "regressed" in outputs and (weight := self._hint(self._progress)):
            total = total + weight * hint_loss(outputs)
        return total


def regressor_for(guided: Sequence[int], hint: Sequence[int], like: nn.Module | None = None) -> nn.Module:
    """Return a regressor from features of one shape to another, as small as it can be.

    Features ``[D]`` by a linear layer; ``[T, D]``, of one length T, likewise, token by token; images
    ``[C, H, W]`` by a convolution that has no padding, of the kernel that makes the one size of the
    other, ``H - H' + 1``, which has fewer parameters than a linear map.

    Args:
        guided, hint: shapes of one example's features in the student and in the teacher.
        like: on whose device, and of whose type, it is to be.

    Raises:
        ModelError: no regressor joins the shapes.

    >>> regressor_for((8, 6, 6), (16, 4, 4))
    Conv2d(8, 16, kernel_size=(3, 3), stride=(1, 1))
    >>> regressor_for((8,), (16, 4, 4))
    Traceback (most recent call last):
    thalweg.errors.ModelError: no regressor joins guided features of shape [8] with a hint of shape \
[16, 4, 4]; name layers whose features have as many axes, the student's at least as large, or give regressor=

    Source: P6 (N, U); Romero et al. 2015: convolutional regressors.
    """
    guided, hint = tuple(guided), tuple(hint)
    place = next((p for p in like.parameters() if p.is_floating_point()), None) if like is not None else None
    made: dict[str, Any] = {} if place is None else {"device": place.device, "dtype": place.dtype}
    if len(guided) == len(hint):
        if len(hint) == 1 or (len(hint) == 2 and guided[0] == hint[0]):
            return nn.Linear(guided[-1], hint[-1], **made)
        kernel = tuple(mine - theirs + 1 for mine, theirs in zip(guided[1:], hint[1:], strict=True))
        if len(hint) in (3, 4) and all(size >= 1 for size in kernel):
            kind = nn.Conv2d if len(hint) == 3 else nn.Conv3d
            return kind(guided[0], hint[0], kernel, **made)  # type: ignore[arg-type]
    raise ModelError(
        f"no regressor joins guided features of shape {list(guided)} with a hint of shape {list(hint)}; name "
        "layers whose features have as many axes, the student's at least as large, or give "
        f"{option('regressor')}="
    )


def hints(
    student: nn.Module,
    teacher: nn.Module,
    example: Any,
    *,
    hint: str | None = None,
    guided: str | None = None,
    loss: Any,
    softened: Changing | None = None,
    temperature: float = 4.0,
    how: Literal["first", "together"] = "first",
    hint_weight: Changing = 1.0,
    regressor: Regressor | None = None,
    hint_epochs: int | None = None,
    epochs: int | None = None,
    name: str = "hints",
    **settings: Any,
) -> list[Stage]:
    """Write the stages in which a teacher helps a student that is hard to train, as a deep thin one is.

    First the layers of the student up to the guided one, with a temporary regressor, learn the teacher's
    hint (:func:`hint_loss`); what comes after them stays as it is. Then the whole student learns the labels,
    and the teacher's softened outputs where ``softened`` says so (:class:`TaughtLoss`). Or ``"together"``:
    both at once, the hint with a weight. Validation is scored by the loss on labels alone.

    Args:
        student: is trained, and is the result.
        teacher: trained already; a copy of it is asked, in evaluation mode, and stays as it is.
        example: a batch of inputs, of two examples or more.
        hint, guided: names of a module of the teacher and of the student; both ``None``: no hint.
        loss: on labels: a name, or a function of outputs and targets.
        softened: weight of the teacher's softened outputs in the loss, at least 0, or a function of the
            part of the stage that is done; ``None``: labels alone. FitNets let it fall:
            ``Ramp(start=4, end=1)``.
        temperature: of softened outputs, above 0.
        how: ``"first"`` the hint, then labels, or ``"together"``.
        hint_weight: of the hint where both are learnt together, as ``softened``.
        regressor: from the shapes of one example's guided and hint features to a module; ``None``:
            :func:`regressor_for`.
        hint_epochs, epochs: of the first stage, and of the one with labels; ``None``: as given to ``fit``.
        name: what the names of stages begin with.
        settings: other settings of both stages.

    Raises:
        OptionError: a name that matches nothing, with the nearest; a value out of range.
        ModelError: shapes that no regressor joins.
        DataError: a teacher of another task: it gives other outputs than the student.

    >>> big = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 3))
    >>> thin = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> stages = hints(thin, big, torch.ones(2, 4), hint="1", guided="3", loss="cross-entropy", softened=1.0)
    >>> [(stage.name, stage.trains) for stage in stages]
    [('hints 1', ['0.weight', '0.bias', '2.weight', '2.bias']), ('hints 2', None)]

    Source: P6 (N, U); Romero et al., FitNets: hints for thin deep nets, 2015.
    """
    one_of("how", how, ("first", "together"))
    if not is_number(temperature) or not 0 < temperature < float("inf"):
        raise OptionError(f"temperature is {temperature!r}, but must be a finite number above 0")
    if (hint is None) != (guided is None):
        raise OptionError("hint and guided name a pair of layers; give both, or neither")
    if hint is None and softened is None:
        raise OptionError(
            "the teacher says nothing: give hint and guided, or softened, or train by fit alone"
        )
    if hint is None and how == "together":
        raise OptionError("how is 'together', but there is no hint; name hint and guided, or leave it out")
    for one in (softened, hint_weight):
        by_progress("softened" if one is softened else "hint_weight", 0.0 if one is None else one, least=0)
    shapes, below, once = _looked_at(student, teacher, example, hint, guided, outputs=softened is not None)
    if hint is not None and regressor is None:
        regressor_for(*shapes)

    def regressor_of(model: nn.Module) -> nn.Module | None:
        if hint is None:
            return None
        if regressor is None:
            return regressor_for(*shapes, like=model)
        return regressor(*shapes)

    about: dict[str, Any] = {"hint": hint, "guided": guided, "temperature": temperature, "how": how}
    about |= {
        "softened": None if softened is None else said_of(softened),
        "hint_weight": said_of(hint_weight),
    }
    about = {key: value for key, value in about.items() if value is not None} | settings.pop("about", {})
    made = []
    if how == "first" and hint is not None:

        def first(model: nn.Module) -> nn.Module:
            taught = Taught(model, guided, regressor_of(model), stops=once[1])
            return Prefixed(_Teacher(teacher, hint, outputs=False, stops=once[0]), _Regressing(taught))

        unjudged: dict[str, Any] = {"metric": None, "validation_loss": None, **settings}
        made.append(
            Stage(
                name=f"{name} 1", epochs=hint_epochs, build=first, trains=below, loss=hint_loss, about=about,
                **unjudged,
            )
        )  # fmt: skip
    name = f"{name} 2" if made else name
    if softened is None and made:
        return [*made, Stage(name=name, epochs=epochs, loss=loss, about=about, **settings)]
    taps = how == "together"
    whole_loss = TaughtLoss(loss, 0.0 if softened is None else softened, temperature, hint_weight)

    def second(model: nn.Module) -> nn.Module:
        asked = _Teacher(teacher, hint if taps else None, outputs=softened is not None, stops=once[0])
        if taps:
            return Prefixed(asked, Taught(model, guided, regressor_of(model)))
        return Prefixed(asked, Taught(model, None, None))

    settings.setdefault("validation_loss", loss)
    last = Stage(name=name, epochs=epochs, build=second, loss=whole_loss, about=about, **settings)
    return [*made, last]


class _Regressing(Closing):
    """The regressed features and the hint alone, so that nobody takes the student's outputs for a result."""

    def __init__(self, taught: Taught) -> None:
        super().__init__()
        self.taught = taught

    def forward(self, inputs: Any, hint: Tensor) -> dict[str, Tensor]:
        found = self.taught(inputs, hint)
        return {"regressed": found["regressed"], "hint": found["hint"]}


def _looked_at(
    student: nn.Module,
    teacher: nn.Module,
    example: Any,
    hint: str | None,
    guided: str | None,
    *,
    outputs: bool,
) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], list[str] | None, tuple[bool, bool]]:
    """What there is to know of the hint and the guided layer.

    Shapes of the guided and the hint features; what of the student lies below the guided ones; and whether
    the teacher calls the hint once, and the student the guided layer, so that a pass may end there.
    """
    for model, layer, what in ((teacher, hint, "hint"), (student, guided, "guided")):
        if layer is not None:
            inner_module(model, layer, what)
    with untouched(teacher, parameters=False), evaluating(teacher), torch.no_grad():
        asked = _Teacher(teacher, hint, outputs=True)
        args, kwargs = Interface().arguments(teacher, example)
        said = asked(**kwargs) if kwargs else outputs_of(asked, *args)
        once = [isinstance(asked.teacher, Tapped) and asked.teacher.called_once]
    with untouched(student, parameters=False), evaluating(student):
        student.zero_grad(set_to_none=True)
        taught = Taught(student, guided, None if guided is None else nn.Identity())
        try:
            found = outputs_of(taught, example)
            below = None
            if guided is not None:
                _floating(found["regressed"], "guided", guided)
                _floating(said["hint"], "hint", str(hint))
                found["regressed"].sum().backward()
                below = [name for name, p in student.named_parameters() if p.grad is not None]
                once.append(_is_called_once(student, taught, example))
        finally:
            taught.close()
    mine, theirs = list(found["logits"].shape[1:]), list(said["teacher"].shape[1:])
    if outputs and mine != theirs:
        raise DataError(
            f"the teacher gives {theirs} for an example and the student {mine}: it was made for another "
            "task; leave softened out, or give a teacher of this one"
        )
    if guided is None:
        return ((), ()), None, (False, False)
    if not below:
        raise OptionError(
            f"the guided layer {guided!r} has no parameter before it that could learn the hint; name a later "
            "one"
        )
    shapes = tuple(found["regressed"].shape[1:]), tuple(said["hint"].shape[1:])
    return shapes, below, (once[0], once[1])


def _is_called_once(student: nn.Module, taught: Taught, example: Any) -> bool:
    """Whether the guided layer is called once, in the pass in evaluation before this and in training too."""
    assert isinstance(taught.student, Tapped)
    if not taught.student.called_once:
        return False
    begin_training(student)
    try:
        with torch.no_grad():
            outputs_of(taught, example)
    except Exception:
        # such as a batch norm that was given one example alone
        return False
    return taught.student.called_once


def _floating(value: Any, what: str, name: str) -> None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
        raise ModelError(
            f"the {what} layer {name!r} gives no features: a tensor of fractions with a row for each "
            "example; name another"
        )
