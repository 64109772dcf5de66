"""What a training looks like from inside, cheap enough to leave on; findings at its end.

As a strategy, ``thalweg.fit(..., strategies=[Monitor()])``; in a loop of one's own::

    with Monitor(model, optimizer) as watch:
        for inputs, targets in batches:
            optimizer.zero_grad()
            loss = loss_function(model(inputs), targets)
            loss.backward()
            optimizer.step()
            watch.step(loss)
    print(watch.report)

It only reads: hooks return nothing, and nothing is drawn, so that training ends with the same bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from thalweg.diagnosis.finding import Finding
from thalweg.diagnosis.monitor_report import CUT, FLAT, MonitorReport, conclusions
from thalweg.errors import OptionError
from thalweg.runtimes.dtensors import is_dtensor
from thalweg.strategies.base import Settings, Strategy, Trainer

__all__ = ["Monitor", "MonitorSettings"]

# Where an output is counted as sitting in the flat part of its function: a slope below a fiftieth of the top.
_NEAR = 0.99
# Values of a layer that are looked at.
_LOOKED_AT = 200_000
# Steps in which it is looked at whether gradients are set to zero.
_CHECKED = 20


class MonitorSettings(Settings):
    """``[strategies."thalweg.diagnosis.monitor:Monitor"]``."""

    layers_every: int = Field(default=10, ge=1)
    noise_every: int = Field(default=25, ge=1)
    share: float = Field(default=0.05, gt=0, le=1)


class Monitor(Strategy):
    """Watch a training: norms, activations, noise; name what went wrong at its end.

    Args:
        model, optimizer: of a loop of one's own; a strategy is given them by the training.
        layers_every: looks at activations every so many steps.
        noise_every: at the noise of the gradient, likewise.
        share: of the time of training that watching may take; it looks more rarely where it takes more.

    Attributes:
        report: what was seen.

    Raises:
        OptionError: a value out of range, or a model without its optimizer.

    Where several processes train together, each watches what it computes itself, the shard of parameters that
    it holds and its own batches, at moments of its own; nothing is sent for it.

    >>> model = nn.Linear(2, 1)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    >>> with Monitor(model, optimizer) as watch:
    ...     for _ in range(3):
    ...         optimizer.zero_grad()
    ...         loss = model(torch.ones(4, 2)).square().mean()
    ...         loss.backward()
    ...         optimizer.step()
    ...         watch.step(loss)
    >>> [finding.code for finding in watch.report.findings]
    ['learning-rate-high', 'nonfinite-loss']

    Source: INDEX X4, X5, X6, R7.
    """

    name: ClassVar[str] = "monitor"
    priority: ClassVar[int] = 90
    observes: ClassVar[bool] = True
    settings: MonitorSettings

    def __init__(
        self,
        model: nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        *,
        layers_every: int = 10,
        noise_every: int = 25,
        share: float = 0.05,
    ) -> None:
        super().__init__(layers_every=layers_every, noise_every=noise_every, share=share)
        if (model is None) != (optimizer is None):
            raise OptionError("monitor: give model and optimizer, or neither where a training gives them")
        self.report = MonitorReport()
        self._model, self._optimizer = model, optimizer
        self._step, self._due, self._spent, self._begun = 0, 0, 0.0, 0.0
        self._held: list[Tensor] = []
        self._before: list[Tensor] = []
        self._mean: list[Tensor] = []
        self._square, self._looks = 0.0, 0
        self._hooks: list[Any] = []
        self._pending: list[Tensor] = []
        self._window = (0.0, 0.0)
        self._stepped, self._carried, self._checked = False, 0, 0

    # A loop of one's own ---------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        if self._model is None or self._optimizer is None:
            raise OptionError("monitor: a loop of one's own has to give it model and optimizer")
        self._begin()
        self._hooks.append(self._optimizer.register_step_pre_hook(lambda *_: self._gradients()))
        self._look_at_accumulation()
        return self

    def __exit__(self, *problem: object) -> None:
        self._unhook()
        self.report.findings = self._concluded()

    def step(self, loss: Any) -> None:
        """Take note of a step that was taken; ``loss`` is its tensor or number."""
        self._after(loss)

    # A strategy ------------------------------------------------------------------------------------------

    def attach(self, trainer: Trainer) -> None:
        """Meet the training."""
        self._model, self._optimizer = trainer.model, trainer.optimizer
        self._begin()

    def after_backward(self, trainer: Trainer) -> None:
        """Look at the gradients."""
        self._gradients()

    def after_step(self, trainer: Trainer) -> None:
        """Look at what the step did."""
        self._after(trainer.loss)

    def finished(self, trainer: Trainer) -> None:
        """Say what was found."""
        self._unhook()
        self.report.findings = self._concluded()
        for finding in self.report.findings:
            trainer.note(f"{finding.title} [{finding.code}]")

    def state_dict(self) -> dict[str, Any]:
        """Return how far it is; what was seen before an interruption isn't kept."""
        return {"step": self._step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on counting."""
        self._step = int(state["step"])
        self._due = self._step

    def _look_at_accumulation(self) -> None:
        """Look, as a gradient arrives, at what is there already, for a few steps."""
        assert self._optimizer is not None
        every = [p for group in self._optimizer.param_groups for p in group["params"] if p.requires_grad]
        plain = [p for p in every if not is_dtensor(p) and p.is_leaf]
        if not plain:
            return
        parameter = min(plain, key=lambda p: p.numel())

        def arriving(_: Tensor) -> None:
            # of several backward passes of one step only the first finds what the step before has left
            if self._stepped and self._checked < _CHECKED:
                self._checked += 1
                there = parameter.grad
                self._carried += there is not None and not there.is_sparse and bool((there != 0).any())
            self._stepped = False

        self._hooks.append(parameter.register_hook(arriving))

    # What is seen ----------------------------------------------------------------------------------------

    def _unhook(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def _begin(self) -> None:
        self._unhook()
        self._begun = time.perf_counter()
        self._window = self._spent, 0.0
        assert self._model is not None
        for name, part in self._model.named_modules():
            if isinstance(part, (*FLAT, *CUT)):
                self._hooks.append(part.register_forward_hook(_LooksAtPart(self, name)))

    def _activations(self, name: str, part: nn.Module, output: Any) -> None:
        due = self._looking and self._step % (self.settings.layers_every * self.report.thinned) == 0
        if not due or not part.training or not isinstance(output, Tensor):
            return
        begun = time.perf_counter()
        values = _own(output)
        if values.numel() < 2:
            return
        with torch.no_grad():
            # of large maps a part of the examples tells as much
            values = values[: max(8, _LOOKED_AT * len(values) // values.numel())]
            # units are columns, or channels
            rows = values.movedim(1, -1).reshape(-1, values.shape[1]) if values.ndim > 1 else values[:, None]
            if isinstance(part, CUT):
                share = (rows.amax(0) <= 0).float().mean()
            elif isinstance(part, nn.Tanh | nn.Hardtanh):
                share = (rows.abs() > _NEAR).float().mean()
            else:
                share = ((rows - 0.5).abs() > 0.5 * _NEAR).float().mean()
            self.report.layers.setdefault(name, []).append((float(rows.float().std()), float(share)))
        self._spent += time.perf_counter() - begun

    @property
    def _looking(self) -> bool:
        return self._step >= self._due

    def _parameters(self) -> list[Tensor]:
        assert self._optimizer is not None
        groups = self._optimizer.param_groups
        return [p for group in groups for p in group["params"] if p.grad is not None]

    @torch.no_grad()
    def _gradients(self) -> None:
        if not self._looking:
            return
        begun = time.perf_counter()
        held = self._parameters()
        if held and not any(p.is_sparse or p.grad is None or p.grad.is_sparse for p in held):
            gradients = [_own(p.grad) for p in held if p.grad is not None]
            weights = [_own(p) for p in held]
            self._pending = [torch.stack(torch._foreach_norm(each)).double() for each in (gradients, weights)]
            self._held = held
            # a copy, since the step changes them in place
            self._before = [p.clone() for p in weights]
            if self._step % (self.settings.noise_every * self.report.thinned) == 0:
                self._noise(gradients)
        self._spent += time.perf_counter() - begun

    def _noise(self, gradients: Sequence[Tensor]) -> None:
        """Mean and mean square of the gradients that were looked at, by the change of weights in between."""
        if len(self._mean) != len(gradients):
            self._mean = [torch.zeros_like(gradient) for gradient in gradients]
            self._square, self._looks = 0.0, 0
        self._looks += 1
        for mean, gradient in zip(self._mean, gradients, strict=True):
            mean += (gradient - mean) / self._looks
        norm = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(gradients)))))
        self._square += (norm * norm - self._square) / self._looks
        if self._looks > 2:
            size = float(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._mean))))
            noise = (self._square - size * size) * self._looks / (self._looks - 1)
            # what is left of the mean's square without its own noise
            signal = size * size - noise / self._looks
            self.report.noise.append(noise / signal if signal > 0 else math.inf)

    @torch.no_grad()
    def _after(self, loss: Any) -> None:
        begun = time.perf_counter()
        self._stepped = True
        if self._looking:
            value = math.nan if loss is None else float(_own(loss) if isinstance(loss, Tensor) else loss)
            self.report.losses.append(value)
            # whoever has taken the gradients away since has still taken the step
            held = self._held
            if self._before:
                moved = torch._foreach_sub([_own(p) for p in held], self._before)
                norms = torch.stack(torch._foreach_norm(moved)).double()
                each, weights = self._pending
                three = torch.linalg.vector_norm(torch.stack([each, norms, weights]), dim=1).tolist()
                self.report.steps.append(self._step)
                self.report.gradients.append(three[0])
                self.report.updates.append(three[1])
                self.report.weights.append(three[2])
                self._of_layers(held, each)
            self._before, self._held = [], []
            self._due = self._step + 1
        self._spent += time.perf_counter() - begun
        self._step += 1
        self._thin()

    def _of_layers(self, held: Sequence[Tensor], norms: Tensor) -> None:
        if self._step % (self.settings.layers_every * self.report.thinned):
            return
        assert self._model is not None
        names = {id(p): name for name, p in self._model.named_parameters()}
        for p, norm in zip(held, norms.tolist(), strict=True):
            if p.ndim > 1:
                self.report.of_layers.setdefault(names.get(id(p), "?"), []).append(norm)

    def _thin(self) -> None:
        """Look more rarely where watching takes more than its share, and more often where it takes little."""
        passed = time.perf_counter() - self._begun
        self.report.share = min(1.0, self._spent / passed) if passed > 0 else 0.0
        # by what it took since it was judged last: what was too much before is past
        spent, since = self._spent - self._window[0], passed - self._window[1]
        if self._step % max(20, 2 * self.report.thinned) == 0 and since > 0:
            if spent > self.settings.share * since:
                self.report.thinned = min(1000, 2 * self.report.thinned)
            elif spent < 0.25 * self.settings.share * since:
                self.report.thinned = max(1, self.report.thinned // 2)
            self._window = self._spent, passed
        if self.report.thinned > 1:
            # counted from whole multiples, so that looks at layers and noise fall on steps that are looked at
            rest = -self._step % self.report.thinned
            self._due = self._step + rest

    def _concluded(self) -> list[Finding]:
        assert self._model is not None
        assert self._optimizer is not None
        return conclusions(self.report, self._model, self._optimizer, kept=(self._carried, self._checked))


def _own(tensor: Tensor) -> Tensor:
    """Return a tensor's values, of one that is spread over processes those that lie here.

    Nothing is asked of other processes: each looks when it has the time, and they would wait for each other.
    """
    return (tensor.to_local() if is_dtensor(tensor) else tensor).detach()


class _LooksAtPart:
    """A hook that looks at what a part gives. It stays out of copies of the model, in files too."""

    def __init__(self, monitor: Monitor, name: str) -> None:
        self.monitor, self.name = monitor, name

    def __call__(self, part: nn.Module, _: Any, output: Any) -> None:
        self.monitor._activations(self.name, part, output)

    def __deepcopy__(self, memo: Any) -> Any:
        return _nothing

    def __reduce__(self) -> Any:
        return _unwatched, ()


def _unwatched() -> Any:
    return _nothing


def _nothing(part: nn.Module, _: Any, output: Any) -> None:
    """Look at nothing."""
