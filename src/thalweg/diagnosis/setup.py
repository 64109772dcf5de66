"""A training as a diagnosis sees it: model, data, loss, optimizer, how long; and changes of it.

Nothing of a person's is ever trained: :meth:`Setup.start` gives a copy of model and optimizer each time. A
change of a set-up is a function around its start, its loss or its data, so that changes can be put together.
"""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, default_collate

from thalweg import catalogue
from thalweg.data.examples import DatasetExamples, Examples, pair
from thalweg.errors import DataError, ModelError, OptionError, UserError, nearest
from thalweg.layers.interface import Interface
from thalweg.layers.modes import modes_of, set_evaluation, set_modes
from thalweg.layers.passing import outputs_of
from thalweg.objectives import loss as loss_called
from thalweg.objectives.given import Task, usable
from thalweg.objectives.given import names as metric_names
from thalweg.objectives.nests import count_of, joined, leaves, mapped
from thalweg.randomness.generators import own_generators, undisturbed
from thalweg.settings.tables import whole_number
from thalweg.training.loader import examples_of

__all__ = ["Setup", "Start", "rebound", "rows_of"]

Start: TypeAlias = Callable[[int], tuple[nn.Module, torch.optim.Optimizer]]
"""From a seed to a model at its beginning, and an optimizer over its parameters."""

# Examples that are looked at, of each part of the data: enough for any finding, and a bound on memory.
_MOST_EXAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A training that can be begun again and again.

    Attributes:
        start: gives model and optimizer at their beginning, as copies.
        loss: of outputs and targets, as the person's loop calls it.
        inputs, targets: of training, a tensor or a nest of them: all examples, or so many evenly chosen.
        validation: likewise, where there are such data.
        batch_size: examples in a batch.
        epochs: passes over the data.
        examples: how many there are in all.
        shuffled: whether the order of examples is drawn anew in each epoch; else they come as they lie.
        drop_last: whether an epoch's ragged rest is left out.
        metric: what the person calls good, where it was said.
        decode: from outputs to predictions in the units of the person's own targets.
        encode: from the person's own targets to those that the loss is given.
        clip: the largest norm that a gradient may have.
        falling: whether learning rates fall to 0 along half a cosine, over all steps of a training.
        named_loss: the name of a loss that was given by name.
        takes_part: whether the loss is given the part of the outputs that is compared, or all of them;
            ``None``: not known yet.
    """

    start: Start
    loss: Callable[[Any, Any], Any]
    inputs: Any
    targets: Any
    validation: tuple[Any, Any] | None
    batch_size: int
    epochs: int
    examples: int
    shuffled: bool = True
    drop_last: bool = False
    metric: Any = None
    decode: Callable[[Any], Any] = field(default=lambda outputs: outputs)
    encode: Callable[[Any], Any] = field(default=lambda targets: targets)
    clip: float | None = None
    falling: bool = False
    named_loss: str | None = None
    takes_part: bool | None = None

    @classmethod
    def of(
        cls,
        model: nn.Module | Callable[[], nn.Module],
        data: Any,
        loss: str | Callable[[Any, Any], Any],
        optimizer: torch.optim.Optimizer | str | Callable[..., torch.optim.Optimizer],
        *,
        batch_size: int | None = None,
        epochs: int = 10,
        metric: Any = None,
        validation: Any = None,
        shuffled: bool | None = None,
        drop_last: bool | None = None,
    ) -> Setup:
        """Take what a person has; arguments as for :func:`thalweg.diagnose`.

        Raises:
            UserError: something given can't be used, in one sentence.
        """
        if not isinstance(model, nn.Module) and not callable(model):
            raise OptionError(
                f"the model is of type {type(model).__name__}; give a torch.nn.Module, or a function without "
                "arguments that makes one"
            )
        epochs = whole_number("epochs", epochs)
        with undisturbed(data, validation):
            drawn = _example_model(model)
            device = _device_of(drawn)
            if device.type == "meta":
                raise ModelError("the model lies on the device 'meta', without memory; give one with weights")
            _check_metric(metric)
            read = _Read.of(data, "training", device, batch_size)
            held = None if validation is None else _Read.of(validation, "validation", device, 1)
            read = read.in_precision_of(drawn)
            held = None if held is None else held.in_precision_of(drawn)
        size = whole_number("batch_size", 32 if read.batch_size is None else read.batch_size)
        found = _loss(loss)
        start = _start(model, optimizer)
        if any(is_lazy(p) for p in (*drawn.parameters(), *drawn.buffers())):
            start = _materialized(start, rows_of(read.inputs, torch.arange(min(2, read.count))))
        return cls(
            start=start,
            loss=found,
            inputs=read.inputs,
            targets=read.targets,
            validation=None if held is None else (held.inputs, held.targets),
            batch_size=min(size, read.count),
            epochs=epochs,
            examples=read.count,
            shuffled=read.shuffled if shuffled is None else shuffled,
            drop_last=read.drop_last if drop_last is None else drop_last,
            metric=metric,
            named_loss=loss if isinstance(loss, str) else None,
        )

    # What it is -----------------------------------------------------------------------------------------

    @property
    def steps(self) -> int:
        """How many steps the whole training takes."""
        whole = self.examples // self.batch_size
        ragged = 0 if self.drop_last and whole else int(self.examples % self.batch_size > 0)
        return (whole + ragged) * self.epochs

    def model(self, seed: int = 0) -> nn.Module:
        """Return a fresh copy of the model at its beginning."""
        return self.start(seed)[0]

    def batch(self, indices: Tensor) -> tuple[Any, Any]:
        """Return training examples, as the model and the loss are given them."""
        return rows_of(self.inputs, indices), self.encode(rows_of(self.targets, indices))

    @property
    def device(self) -> torch.device:
        """Where it trains."""
        return next((leaf.device for leaf in leaves(self.inputs)), torch.device("cpu"))

    # Changes --------------------------------------------------------------------------------------------

    def with_(self, **changes: Any) -> Setup:
        """Return it with other values."""
        return dataclasses.replace(self, **changes)

    def with_model(self, change: Callable[[nn.Module], nn.Module]) -> Setup:
        """Return it with a model that is changed after its making; the optimizer goes with it."""
        start = self.start

        def begin(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
            model, optimizer = start(seed)
            with own_generators(seed, "diagnosis", "change"):
                before = {id(parameter) for parameter in model.parameters()}
                made = change(model)
            return made, rebound(optimizer, made, before)

        return self.with_(start=begin)

    def with_optimizer(self, change: Callable[[nn.Module, Any], torch.optim.Optimizer]) -> Setup:
        """Return it with another optimizer, made of the model and of the optimizer that there was."""
        start = self.start

        def begin(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
            model, optimizer = start(seed)
            return model, change(model, optimizer)

        return self.with_(start=begin)

    def only_by_hand(self, text: str) -> OptionError:
        """Return the error of a remedy that code can't carry out."""
        return OptionError(f"this remedy can't be applied by itself, since only you can make it: {text}")


def rows_of(value: Any, indices: Tensor) -> Any:
    """Return examples of a nest by their numbers."""
    return mapped(lambda leaf: leaf[indices.to(leaf.device)], value)


def rebound(optimizer: torch.optim.Optimizer, model: nn.Module, before: set[int]) -> torch.optim.Optimizer:
    """Make an optimizer go with a changed model: it trains what it trained and is there, and what is new."""
    there = {id(parameter): parameter for parameter in model.parameters()}
    if there.keys() == before:
        return optimizer
    new = [parameter for key, parameter in there.items() if key not in before and parameter.requires_grad]
    groups = []
    for group in optimizer.param_groups:
        kept = [p for p in group["params"] if id(p) in there or id(p) not in before]
        groups.append({**{k: v for k, v in group.items() if k != "params"}, "params": kept})
    groups[0]["params"] = [*groups[0]["params"], *new]
    groups = [group for group in groups if group["params"]]
    if not groups:
        raise ModelError("the change leaves nothing to be trained")
    made: torch.optim.Optimizer = type(optimizer)(groups, **_defaults(optimizer))
    return made


def _defaults(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return what an optimizer's class has to be given again, of what it keeps as its defaults."""
    taken = inspect.signature(type(optimizer).__init__).parameters
    return {
        name: value
        for name, value in optimizer.defaults.items()
        if name in taken and name not in ("params", "differentiable")
    }


# Reading ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class _Read:
    """Data in memory."""

    inputs: Any
    targets: Any
    count: int
    batch_size: int | None
    shuffled: bool = True
    drop_last: bool = False

    @classmethod
    def of(cls, data: Any, called: str, device: torch.device, batch_size: int | None) -> _Read:
        if isinstance(data, DataLoader):
            return cls._of_loader(data, called, device)
        examples = examples_of(data, device, called=f"{called} data")
        if examples is None:
            return cls._of_batches(data, called, device)
        inputs, targets, count = _in_memory(examples, called)
        return cls(inputs=inputs, targets=targets, count=count, batch_size=batch_size)

    def in_precision_of(self, model: nn.Module) -> _Read:
        """Return fractions in the type of the model's, as a training takes them."""
        kinds = {p.dtype for p in model.parameters() if p.dtype.is_floating_point}
        if len(kinds) != 1:
            return self
        (kind,) = kinds

        def fitting(leaf: Tensor) -> Tensor:
            return leaf.to(kind) if leaf.dtype.is_floating_point else leaf

        inputs, targets = mapped(fitting, self.inputs), mapped(fitting, self.targets)
        return dataclasses.replace(self, inputs=inputs, targets=targets)

    @classmethod
    def _of_loader(cls, loader: DataLoader[Any], called: str, device: torch.device) -> _Read:
        dataset, sampler = loader.dataset, loader.sampler
        known = isinstance(sampler, (SequentialSampler, RandomSampler))
        if not known or type(loader.batch_sampler) is not BatchSampler or not hasattr(dataset, "__getitem__"):
            return cls._of_batches(loader, called, device)
        examples = examples_of(dataset, device, loader.collate_fn, called=f"{called} data")
        assert examples is not None
        inputs, targets, count = _in_memory(examples, called)
        return cls(
            inputs=inputs,
            targets=targets,
            count=count,
            batch_size=loader.batch_size,
            shuffled=isinstance(sampler, RandomSampler),
            drop_last=loader.drop_last,
        )

    @classmethod
    def _of_examples(cls, found: list[tuple[Any, Any]], called: str) -> _Read:
        """Put examples together that came one by one."""
        try:
            inputs, targets = (default_collate([each[part] for each in found]) for part in (0, 1))
        except (RuntimeError, TypeError) as problem:
            raise _unbatched(called) from problem
        return cls(inputs=inputs, targets=targets, count=len(found), batch_size=None)

    @classmethod
    def _of_batches(cls, batches: Iterable[Any], called: str, device: torch.device) -> _Read:
        found: list[tuple[Any, Any]] = []
        count = 0
        for made in batches:
            inputs, targets = pair(made, device)
            found.append((inputs, targets))
            count += count_of(targets)
            if count >= _MOST_EXAMPLES:
                break
        if not found:
            raise DataError(f"the {called} data hold no batches; give at least one")
        if isinstance(found[0][1], Tensor) and found[0][1].ndim == 0:
            return cls._of_examples(found, called)
        size = count_of(found[0][1])
        try:
            inputs, targets = (joined([each[part] for each in found]) for part in (0, 1))
        except RuntimeError as problem:
            raise DataError(
                f"batches of the {called} data differ in the shape of an example, so that a diagnosis can't "
                "put them together; give examples of one shape, padded where they are shorter"
            ) from problem
        try:
            known = len(batches)  # type: ignore[arg-type]
        except TypeError:
            known = len(found)
        return cls(
            inputs=inputs, targets=targets, count=max(count, known * size), batch_size=size, shuffled=True
        )


def _unbatched(called: str) -> DataError:
    return DataError(
        f"the {called} data give examples one by one, of different shape, so that they make no batch; give a "
        "Dataset with a collate function, or batches"
    )


def _in_memory(examples: Examples, called: str) -> tuple[Any, Any, int]:
    """Return inputs and targets of examples, evenly chosen where there are very many."""
    count = len(examples)
    if not count:
        raise DataError(f"the {called} data hold no example; give at least one")
    chosen = torch.linspace(0, count - 1, min(count, _MOST_EXAMPLES)).round().long().unique()  # type: ignore[no-untyped-call]
    if isinstance(examples, DatasetExamples):
        parts = [examples.batch(part) for part in torch.split(chosen, 256)]
        return joined([part[0] for part in parts]), joined([part[1] for part in parts]), count
    inputs, targets = examples.batch(chosen)
    return inputs, targets, count


def _device_of(model: nn.Module) -> torch.device:
    parameters = [*model.parameters(), *model.buffers()]
    return parameters[0].device if parameters else torch.device("cpu")


# Starting -----------------------------------------------------------------------------------------------


def _check_metric(metric: Any) -> None:
    if metric is None or callable(metric):
        return
    if not isinstance(metric, str):
        raise OptionError(f"the metric is of type {type(metric).__name__}; give a name or a function")
    if ":" not in metric and metric not in metric_names("metric"):
        raise OptionError(f"there is no metric {metric!r}; {nearest(metric, metric_names('metric'))}")


def _materialized(start: Start, inputs: Any) -> Start:
    """Let lazy layers become what the first batch makes of them, before anything is looked at."""

    def begin(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model, optimizer = start(seed)
        modes = modes_of(model)
        set_evaluation(model)
        with torch.no_grad(), own_generators(seed, "diagnosis", "lazy"), Interface().attached(model):
            outputs_of(model, inputs)
        set_modes(modes)
        return model, optimizer

    return begin


def _example_model(model: nn.Module | Callable[[], nn.Module]) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    try:
        made = model()
    except UserError:
        raise
    except Exception as problem:
        raise ModelError(
            f"the function that makes the model raises {type(problem).__name__}: "
            f"{' '.join(str(problem).split())[:200]}; give one that can be called without arguments"
        ) from problem
    if not isinstance(made, nn.Module):
        raise ModelError(f"the function that makes the model returns a {type(made).__name__}, not a module")
    return made


def _start(model: Any, optimizer: Any) -> Start:
    if isinstance(optimizer, torch.optim.Optimizer):
        if not isinstance(model, nn.Module):
            raise OptionError(
                "the optimizer is made over parameters of one model, and the model is a function that makes "
                "others; give the optimizer as a function of parameters too"
            )

        return lambda seed: _copied_pair(model, optimizer)
    make = _maker(optimizer)

    def begin(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        if isinstance(model, nn.Module):
            made = _copied(model)
        else:
            with own_generators(seed, "diagnosis", "model"):
                torch.manual_seed(seed)
                made = _example_model(model)
        return made, make(made)

    return begin


def _copied_pair(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """Copy both at once, so that the optimizer's parameters are the model's."""
    # torch's copies of optimizers leave out what a class keeps beside its groups, as LBFGS its parameters
    lost = vars(optimizer).keys() - vars(copy.copy(optimizer)).keys()
    own = {name: vars(optimizer)[name] for name in lost}
    found, copied, kept = _copied((model, optimizer, own))
    vars(copied).update(kept)
    return found, copied


def _copied(value: Any) -> Any:
    try:
        return copy.deepcopy(value)
    except (RuntimeError, TypeError, AttributeError) as problem:
        raise ModelError(
            f"the model can't be copied ({' '.join(str(problem).split())[:120]}), and a diagnosis trains "
            "copies alone; give a function that makes it"
        ) from problem


def _maker(optimizer: Any) -> Callable[[nn.Module], torch.optim.Optimizer]:
    if isinstance(optimizer, str):
        entry = catalogue.get(optimizer)

        def named(model: nn.Module) -> torch.optim.Optimizer:
            trained = [p for p in model.parameters() if p.requires_grad]
            if not trained:
                raise ModelError("the model has no parameter that could be trained; give one that has")
            return entry.make(trained)

        return named
    if not callable(optimizer):
        raise OptionError(
            f"the optimizer is of type {type(optimizer).__name__}; give a torch optimizer, a function of "
            "parameters that makes one, or a name"
        )

    def made(model: nn.Module) -> torch.optim.Optimizer:
        if next(model.parameters(), None) is None:
            raise ModelError("the model has no parameter that could be trained; give one that has")
        try:
            found = optimizer(model.parameters())
        except UserError:
            raise
        except Exception as problem:
            raise OptionError(
                f"the function that makes the optimizer raises {type(problem).__name__}: "
                f"{' '.join(str(problem).split())[:200]}; give one that takes the model's parameters"
            ) from problem
        if not isinstance(found, torch.optim.Optimizer):
            raise OptionError(
                f"the function that makes the optimizer returns a {type(found).__name__}, not a torch "
                "optimizer"
            )
        return found

    return made


def _loss(loss: Any) -> Callable[[Any, Any], Any]:
    if isinstance(loss, str):
        two = Task(kind="classification", classes=("0", "1"))
        return loss_called(loss, two if loss == "bce" else Task(kind="custom"))
    return usable(loss, "loss")
