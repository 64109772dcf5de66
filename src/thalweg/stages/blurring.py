"""Objectives blurred by Gaussian noise on the parameters: ``J_sigma(theta) = E J(theta + sigma * eps)``.

The mean over a few draws stands for the expectation. Draws are common to everything that is computed in a
step, and in pairs ``eps`` and ``-eps``, antithetic, unless told otherwise. With v the variance of one
draw's value, that of the mean of a pair is ``(v / 2) * (1 + rho)``, rho the correlation of both: what the
noise changes to first order is gone (rho = -1 where J is linear), but where J is even around theta both are
the same (rho = 1), and two independent draws would have told twice as much.

Source: P7 (N 8.40, K).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.curvature.vectors import is_sharded
from thalweg.errors import ModelError, OptionError
from thalweg.layers.interface import Interface, part_of
from thalweg.layers.untouched import untouched
from thalweg.objectives import activations
from thalweg.objectives.dividing import divided
from thalweg.objectives.nests import mapped
from thalweg.randomness.generators import undisturbed
from thalweg.randomness.keyed import Keyed, RunDraws
from thalweg.run.targets import suited_loss
from thalweg.settings.tables import one_of, whole_number
from thalweg.stages.noisy import Noisy, computed_as_lanes, draw
from thalweg.stages.progress import Changing, by_progress

__all__ = ["Blurred", "BlurredLoss", "Samples", "blur"]


class Samples(NamedTuple):
    """What a model returns at several points: each tensor ``[B, ...]`` of it as ``[B, K, ...]``.

    Attributes:
        values: a tensor, or a nest of them; what has no axis of examples is ``[K]``.
        points: K.
    """

    values: Any
    points: int


def blur(
    function: Callable[..., Tensor],
    sigma: float,
    *,
    samples: int = 8,
    antithetic: bool = True,
    seed: int = 0,
    step: int = 0,
) -> Callable[..., Tensor]:
    """Return a function blurred: the mean of ``f(theta + sigma * eps_k)`` over K standard normal draws.

    The draws depend on the seed and the step alone, and are the same at every point, so that the blurred
    function is as smooth as the function and may be minimized by any method.

    Args:
        function: of tensors, to a tensor of any shape; it has to be computable under :func:`torch.vmap`.
        sigma: at least 0.
        samples: K, at least 1; even where antithetic.
        antithetic: half of the draws are the others with the sign turned around.
        seed, step: decide the draws.

    Returns:
        A function of the same tensors.

    Raises:
        OptionError: a value out of range.

    >>> square = blur(lambda theta: theta.square().sum(), 0.5, samples=10_000)
    >>> round(float(square(torch.ones(4, dtype=torch.float64))), 1)  # 4 + sigma^2 * 4
    5.0

    Source: P7 (N 8.40).
    """
    sigma = by_progress("sigma", sigma, least=0)(0.0)
    samples = _count(samples, antithetic)

    def blurred(*point: Tensor) -> Tensor:
        if not point or sigma == 0:
            return function(*point)
        drawn = draw(sum(at.numel() for at in point), samples, antithetic, (seed, step), point[0].device)
        lanes = [each.points() for each in Noisy.of(point, drawn, sigma, antithetic=antithetic)]
        found: Tensor = torch.vmap(function, randomness="same")(*lanes)
        return found.mean(0)

    return blurred


class Blurred(nn.Module):
    """A model whose training forward is taken at K points around its parameters, for :class:`BlurredLoss`.

    In training mode it returns :class:`Samples`: the outputs of K copies with parameters
    ``theta + sigma * eps_k``, computed at once as lanes, or one after another where the model can't be
    computed so. Trained parameters are blurred, frozen ones are not. In evaluation mode, and where sigma is
    0, it is the plain model.

    It goes with a training (:class:`thalweg.stages.progress.Follower`): the draws depend on the seed and the
    number of the step alone, so that all parts of a batch, all processes, and a training that is taken up
    again, have the same. In a loop of one's own call :meth:`follow` before each step; without, they are drawn
    by torch's generator at each forward pass.

    Running statistics become the mean of those of the K copies. Dropout drops the same in all of them
    where they are computed as lanes, which torch's recurrent layers and functions that look at numbers can't
    be. FSDP2 is possible where the whole model is gathered at once.

    Args:
        model: any module; it keeps its parameters, which are those of this module.
        sigma: standard deviation of the noise, at least 0: a number, or a function of the part of the stage
            that is done, such as :class:`thalweg.stages.Ramp`.
        samples: K, at least 1; even where antithetic.
        antithetic: half of the draws are the others with the sign turned around.
        draws: anew in each ``"step"``, or ``"fixed"``: the same in all steps.
        lanes: whether the copies are computed at once; ``None``: where it can be done.

    Raises:
        OptionError: a value out of range.
        ModelError: when it is called: no parameter is trained, or they are gathered layer by layer (FSDP2).

    >>> model = nn.Linear(3, 2)
    >>> blurred, loss = Blurred(model, sigma=0.1, samples=4), BlurredLoss("mse")
    >>> blurred.follow(progress=0.0, step=0, seed=0)
    >>> outputs = blurred(torch.ones(5, 3))
    >>> outputs.values.shape, loss(outputs, torch.zeros(5, 2)).ndim
    (torch.Size([5, 4, 2]), 0)
    >>> blurred.eval()(torch.ones(5, 3)).shape
    torch.Size([5, 2])

    Source: P7 (N 8.40, K).
    """

    def __init__(
        self,
        model: nn.Module,
        sigma: Changing,
        samples: int = 8,
        *,
        antithetic: bool = True,
        draws: str = "step",
        lanes: bool | None = None,
    ) -> None:
        super().__init__()
        one_of("draws", draws, ("step", "fixed"))
        self.model = model
        self.samples, self.antithetic, self.draws = _count(samples, antithetic), antithetic, draws
        self._sigma, self._lanes = by_progress("sigma", sigma, least=0), lanes
        self._progress, self._at = 0.0, None  # type: tuple[float, tuple[int, int] | None]
        self._drawn: tuple[Any, Tensor] | None = None
        self._interface = Interface()
        self.training = model.training

    @property
    def sigma(self) -> float:
        """The standard deviation of the noise at present."""
        return self._sigma(self._progress)

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Go with a training: sigma is that of the progress, the noise that of the step."""
        self._progress = progress
        self._at = seed, 0 if self.draws == "fixed" else step

    def forward(self, inputs: Any, /) -> Any:
        """Return the outputs of the plain model, or :class:`Samples`."""
        # what comes in as one argument goes on in the form that the model takes
        args, kwargs = self._interface.arguments(self.model, inputs)
        sigma = self.sigma
        if not self.training or sigma == 0:
            return self.model(*args, **kwargs)
        names, parameters = self._trained()
        each = Noisy.of(parameters, self._noise(parameters), sigma, antithetic=self.antithetic)
        noisy = {name.removeprefix("_orig_mod."): one for name, one in zip(names, each, strict=True)}
        if self._lanes is None:
            self._lanes = self._as_lanes(noisy, args, kwargs)
        return self._taken(noisy, args, kwargs, lanes=self._lanes)

    def _trained(self) -> tuple[list[str], list[Tensor]]:
        trained = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        if not trained:
            raise ModelError("the model has no parameter that is trained, so that there is nothing to blur")
        if is_sharded([p for _, p in trained]):
            raise ModelError(
                "the model's parameters are gathered layer by layer, so that no process can make copies of "
                "all with noise; train by DistributedDataParallel, or in one process"
            )
        return [name for name, _ in trained], [p for _, p in trained]

    def _noise(self, parameters: list[Tensor]) -> Tensor:
        # parts of a batch, and closures, ask several times in a step
        key = self._at, sum(p.numel() for p in parameters), parameters[0].device
        if self._at is None or self._drawn is None or self._drawn[0] != key:
            self._drawn = key, draw(key[1], self.samples, self.antithetic, self._at, key[2])
        return self._drawn[1]

    def _taken(self, noisy: dict[str, Noisy], args: Any, kwargs: Any, *, lanes: bool) -> Samples:
        """The outputs at all points; running statistics become the mean of theirs."""
        inner = getattr(self.model, "_orig_mod", self.model)  # of torch.compile
        held = {
            name: buffer.unsqueeze(0).expand(self.samples, *buffer.shape).clone()
            for name, buffer in inner.named_buffers()
        }
        if lanes:
            found = computed_as_lanes(inner, noisy, held, args, kwargs)
        else:
            each = []
            for k in range(self.samples):
                points = {name: one.at(k) for name, one in noisy.items()}
                points |= {name: buffer[k] for name, buffer in held.items()}
                each.append(functional_call(inner, points, args, kwargs))
            found = mapped(lambda *parts: torch.stack(parts), *each)
        with torch.no_grad():
            for name, buffer in inner.named_buffers():
                mean = held[name].mean(0) if buffer.is_floating_point() else held[name][0]
                buffer.copy_(mean)
        # examples first, by which a batch is cut and put together
        return Samples(
            mapped(lambda leaf: leaf.transpose(0, 1) if leaf.ndim > 1 else leaf, found), self.samples
        )

    def _as_lanes(self, noisy: dict[str, Noisy], args: Any, kwargs: Any) -> bool:
        """Try, without a trace, whether the copies can be computed at once."""
        device = next(iter(noisy.values())).parameter.device
        trial = untouched(self.model, parameters=False), undisturbed(), warnings.catch_warnings()
        with trial[0], trial[1], trial[2], torch.no_grad(), Keyed(RunDraws(0, device)):
            # some operations are computed one after another, which is said by a warning
            warnings.simplefilter("error")
            try:
                self._taken(noisy, args, kwargs, lanes=True)
            except Exception:
                return False
        return True


class BlurredLoss:
    """A loss of :class:`Samples`: the mean over the K points of the loss there; of plain outputs the loss.

    Args:
        loss: a name, or a function of outputs and targets.

    Raises:
        OptionError: an unknown loss.

    >>> outputs = Samples(torch.tensor([[[1.0], [3.0]]]), 2)
    >>> BlurredLoss("mse")(outputs, torch.zeros(1)), BlurredLoss("mse")(torch.ones(1, 1), torch.zeros(1))
    (tensor(5.), tensor(1.))

    Source: P7 (N 8.40).
    """

    def __init__(self, loss: Any) -> None:
        self._loss = suited_loss(loss, {})
        self._named = activations.family(loss) is not None
        self.__name__ = f"blurred {self._loss.name}"

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        """Return the loss, a scalar tensor."""
        if not isinstance(outputs, Samples):
            return self._loss(self._part(outputs), targets)
        values, count = self._part(outputs.values), outputs.points
        if self._named and isinstance(targets, Tensor) and values.ndim > 1:
            # one call over all examples at all points: it is known what that divides by
            rows = values.transpose(0, 1).flatten(0, 1)
            goals = targets.unsqueeze(0).expand(count, *targets.shape).flatten(0, 1)
            found = divided(self._loss.function, *self._loss.compare(rows, goals))
            value = self._loss.scalar(found.value)
            return value / count if found.kind == "sum" else value
        each = [
            self._loss(mapped(lambda leaf, k=k: leaf[:, k] if leaf.ndim > 1 else leaf[k], values), targets)
            for k in range(count)
        ]
        return torch.stack(each).mean()

    def _part(self, outputs: Any) -> Any:
        return part_of(outputs, None, f"the loss {self._loss.name!r}") if self._named else outputs


def _count(samples: Any, antithetic: bool) -> int:
    found = whole_number("samples", samples, most=10_000_000)
    if antithetic and found % 2:
        raise OptionError(
            f"samples is {found}, but antithetic draws come in pairs; give an even number, or "
            "antithetic=False"
        )
    return found
