"""Homotopies: one objective, or one kind of activation, that turns into another while a stage goes on.

Source: P7 (N, K): a series of objectives over the same parameters.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.interface import Interface, part_of
from thalweg.objectives import activations
from thalweg.run.targets import suited_loss
from thalweg.stages.freezing import check_patterns, plain_name
from thalweg.stages.progress import Changing, Ramp, by_progress, looked_at
from thalweg.stages.stage import Stage

__all__ = ["FromLinear", "HomotopyLoss", "from_linear", "homotopy"]

# of torch.nn those that act on each number alone, or on each channel
_ELEMENTWISE = (
    nn.CELU, nn.ELU, nn.GELU, nn.Hardshrink, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LeakyReLU,
    nn.LogSigmoid, nn.Mish, nn.PReLU, nn.ReLU, nn.ReLU6, nn.RReLU, nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus,
    nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink, nn.Threshold,
)  # fmt: skip
_UNTIL = 0.8


class HomotopyLoss:
    """A loss that turns into another: ``(1 - t) * J0 + t * J1``.

    It goes with a training (:class:`thalweg.stages.progress.Follower`), from which it knows the progress; in
    a loop of one's own call :meth:`follow` before each step.

    Args:
        first, second: J0 and J1: names, or functions of outputs and targets.
        t: a number within 0 and 1, or a function of the part of the stage that is done; by default it goes
            from 0 to 1 over the first 0.8.

    Raises:
        OptionError: an unknown loss, or t out of range.

    >>> import torch
    >>> loss = HomotopyLoss("mse", "mae", lambda progress: progress)
    >>> loss.follow(progress=0.25, step=1, seed=0)
    >>> loss(torch.tensor([[2.0]]), torch.zeros(1))  # 0.75 * 4 + 0.25 * 2
    tensor(3.5000)

    Source: P7 (N, K).
    """

    def __init__(self, first: Any, second: Any, t: Changing | None = None) -> None:
        self._losses = [suited_loss(each, {}) for each in (first, second)]
        self._named = [activations.family(each) is not None for each in (first, second)]
        self._t = _turning(t)
        self._progress = 0.0
        self.__name__ = f"from {self._losses[0].name} to {self._losses[1].name}"

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Go with a training: t is that of the progress."""
        self._progress = progress

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss, a scalar tensor; one that counts 0 isn't computed."""
        t = self._t(self._progress)
        values = [
            share * loss(part_of(outputs, None, f"the loss {loss.name!r}") if named else outputs, targets)
            for share, loss, named in zip((1 - t, t), self._losses, self._named, strict=True)
            if share
        ]
        total: Tensor = values[0] if len(values) == 1 else values[0] + values[1]
        return total


def homotopy(
    first: Any,
    second: Any,
    *,
    t: Changing | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    name: str = "homotopy",
    **settings: Any,
) -> list[Stage]:
    """Return a stage whose loss turns from one into another; validation is evaluated by the second.

    Args:
        first, second, t: as for :class:`HomotopyLoss`.
        epochs, steps: how long.
        name: of the stage.
        settings: other settings of a :class:`thalweg.stages.Stage`.

    Raises:
        OptionError: an unknown loss, or a value out of range.

    >>> [stage] = homotopy("mse", "mae", epochs=3)
    >>> stage.loss.__name__, stage.validation_loss
    ('from mse to mae', 'mae')

    Source: P7 (N, K).
    """
    made = HomotopyLoss(first, second, t)
    settings.setdefault("validation_loss", second)
    about = {"t": looked_at(_turning(t)), **settings.pop("about", {})}
    return [Stage(name=name, epochs=epochs, steps=steps, loss=made, about=about, **settings)]


class FromLinear(nn.Module):
    """A model that begins linear: each activation a becomes ``(1 - t) * x + t * a(x)``.

    In evaluation mode, and where t is 1, it is the plain model. :meth:`close` puts the model back as it was,
    apart from what was trained.

    Found are the parts that are activations of ``torch.nn``, such as ``nn.ReLU``, but for one at the very end
    of an ``nn.Sequential``, which makes the outputs what the loss takes. Functions called in a ``forward``,
    such as ``F.relu``, and those inside of ``nn.LSTM`` and its like, can't be found.

    It goes with a training (:class:`thalweg.stages.progress.Follower`), from which it knows the progress; in
    a loop of one's own call :meth:`follow` before each step.

    Args:
        model: any module; its parameters are those of this module.
        t: a number within 0 and 1, or a function of the part of the stage that is done; by default it goes
            from 0 to 1 over the first 0.8.
        parts: patterns over names of parts that are to begin linear; ``None``: see above.

    Raises:
        OptionError: t out of range, a pattern that matches nothing.
        ModelError: there is no activation to be found; when it is called: a part that changes the shape.

    >>> import torch
    >>> model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> linear, x = FromLinear(model), torch.tensor([[-2.0], [0.0], [2.0]])
    >>> linear.follow(progress=0.0, step=0, seed=0)
    >>> low, middle, high = linear(x).flatten().tolist()
    >>> abs((low + high) / 2 - middle) < 1e-5
    True
    >>> linear.close()

    Source: P7 (K): a continuation of activations.
    """

    def __init__(
        self, model: nn.Module, t: Changing | None = None, parts: Sequence[str] | None = None
    ) -> None:
        super().__init__()
        self._t = _turning(t)
        found = _activations(model, parts)
        self.model, self._progress, self._interface = model, 0.0, Interface()
        # what is overwritten can't be mixed with what comes out
        self._overwriting = [part for part in found if getattr(part, "inplace", False)]
        for part in self._overwriting:
            part.inplace = False  # type: ignore[assignment]
        for part in found:
            # a method, so that a copy of this module has hooks of its own
            part.register_forward_hook(self._mixed)
        self.training = model.training

    @property
    def t(self) -> float:
        """How far activations are what they will be, from 0 to 1."""
        return float(self._t(self._progress))

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Go with a training: t is that of the progress."""
        self._progress = progress

    def forward(self, inputs: Any, /) -> Any:
        """Return the outputs of the model as it is at present."""
        args, kwargs = self._interface.arguments(self.model, inputs)
        return self.model(*args, **kwargs)

    def close(self) -> None:
        """Take everything out of the model that was put into it."""
        for part in self.model.modules():
            hooks = part._forward_hooks
            for number in [
                number for number, hook in hooks.items() if getattr(hook, "__self__", None) is self
            ]:
                del hooks[number]
        for part in self._overwriting:
            part.inplace = True  # type: ignore[assignment]
        self._overwriting = []

    def _mixed(self, part: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        t = self.t
        if not self.training or t == 1:
            return None
        if len(args) != 1 or not isinstance(output, Tensor) or output.shape != args[0].shape:
            raise ModelError(
                f"a part {type(part).__name__} is to begin linear, but doesn't give what it takes in shape; "
                "name activations alone, as parts=[...]"
            )
        return args[0] if t == 0 else (1 - t) * args[0] + t * output


def from_linear(
    model: nn.Module,
    *,
    t: Changing | None = None,
    parts: Sequence[str] | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    name: str = "from linear",
    **settings: Any,
) -> list[Stage]:
    """Return a stage in which a model begins linear and becomes what it is.

    Args:
        model: that is to be trained.
        t, parts: as for :class:`FromLinear`.
        epochs, steps: how long.
        name: of the stage.
        settings: other settings of a :class:`thalweg.stages.Stage`.

    Raises:
        OptionError: a value out of range, a pattern that matches nothing.
        ModelError: there is no activation to be found.

    >>> [stage] = from_linear(nn.Sequential(nn.Linear(1, 1), nn.Tanh(), nn.Linear(1, 1)), epochs=3)
    >>> stage.name
    'from linear'

    Source: P7 (K).
    """
    turning = _turning(t)
    found = _activations(model, parts)
    names = [name for name, part in model.named_modules() if any(part is each for each in found)]
    about = {"t": looked_at(turning), "parts": names, **settings.pop("about", {})}
    build = functools.partial(FromLinear, t=turning, parts=parts)
    return [Stage(name=name, epochs=epochs, steps=steps, build=build, about=about, **settings)]


def _turning(t: Changing | None) -> Any:
    return by_progress("t", Ramp(start=0.0, end=1.0, until=_UNTIL) if t is None else t, least=0, most=1)


def _activations(model: nn.Module, patterns: Sequence[str] | None) -> list[nn.Module]:
    if not isinstance(model, nn.Module):
        raise OptionError(
            f"the model is of type {type(model).__name__}, not a torch.nn.Module; give a module"
        )
    if isinstance(patterns, str):
        raise OptionError(f"parts is {patterns!r}; give a list of patterns, [{patterns!r}]")
    if patterns is not None:
        check_patterns(model, patterns, "parts")
        named = [
            part
            for name, part in model.named_modules()
            if name and any(fnmatchcase(plain_name(name), plain_name(pattern)) for pattern in patterns)
        ]
        if not named:
            raise OptionError(f"parts matches parameters alone; name parts of the model, as {list(patterns)}")
        return named
    last: nn.Module = model
    while isinstance(last, nn.Sequential) and len(last):
        last = last[-1]
    parts: list[nn.Module] = list(model.modules())
    found = [part for part in parts if isinstance(part, _ELEMENTWISE) and part is not last]
    if not found:
        raise ModelError(
            f"the model {type(model).__name__} has no part that is an activation, such as nn.ReLU(), so that "
            "none can begin linear; make functions such as F.relu parts of it, or name parts, as "
            "parts=['act']"
        )
    return [*found]
