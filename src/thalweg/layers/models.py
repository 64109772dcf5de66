"""Models by name: ``linear``, ``mlp:128,64``, ``cnn:16,32``, or a person's own.

Built models are an ``nn.Sequential`` of plain torch layers with torch's own initial weights, drawn from
torch's global generator.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as trees

from thalweg.errors import ModelError, OptionError, nearest
from thalweg.layers.interface import part_of
from thalweg.layers.modes import begin_training, evaluating
from thalweg.layers.passing import misfit, no_fault_of_the_model, said_of
from thalweg.objectives import Loss, Metric, activations
from thalweg.objectives.nests import leaves
from thalweg.randomness.generators import undisturbed
from thalweg.settings.plugins import is_file_spec, load_object

if TYPE_CHECKING:
    from thalweg.data.source import Prepared

__all__ = [
    "Factory",
    "Spec",
    "build",
    "check",
    "default",
    "describe",
    "describe_spec",
    "factory",
    "names",
    "script",
]

Factory = Callable[[tuple[int, ...], int], nn.Module]
Spec = str | nn.Module | type[nn.Module] | Callable[..., nn.Module]

_DESCRIPTIONS = {
    "linear": "one linear layer; with cross-entropy, logistic regression",
    "mlp:128,64": "linear layers of these widths with ReLU between them, and a linear layer on top",
    "cnn:16,32": "for each number a 3x3 convolution to that many channels, ReLU and 2x2 max pooling; "
    "then the mean over the image and a linear layer",
    "file.py:factory": "your own: a function of (input_shape, outputs), a module class, or a module; "
    "package.module:factory likewise",
}


def names() -> tuple[str, ...]:
    """Return the forms a model can be asked for.

    >>> names()
    ('linear', 'mlp:128,64', 'cnn:16,32', 'file.py:factory')
    """
    return tuple(_DESCRIPTIONS)


def describe() -> dict[str, str]:
    """Return a line about each of :func:`names`."""
    return dict(_DESCRIPTIONS)


def build(spec: Spec, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Make a model; initial weights come from torch's global generator.

    Args:
        spec: as for :func:`factory`.
        input_shape: of one example, such as ``(64,)`` or ``(1, 28, 28)``.
        outputs: numbers the model gives for an example.

    Raises:
        ModelError: the spec is unknown, doesn't fit the shape, or its code raises.

    >>> build("mlp:32", (1, 8, 8), 10)
    Sequential(
      (0): Flatten(start_dim=1, end_dim=-1)
      (1): Linear(in_features=64, out_features=32, bias=True)
      (2): ReLU()
      (3): Linear(in_features=32, out_features=10, bias=True)
    )
    """
    return factory(spec)(input_shape, outputs)


def factory(spec: Spec) -> Factory:
    """Turn what a person wrote into a function of ``(input_shape, outputs)`` that makes a new model.

    Args:
        spec: ``linear``, ``mlp:WIDTHS``, ``cnn:CHANNELS``, ``file.py:name``, ``package.module:name``, or
            the object itself. An object that is a function or a module class is called with
            ``(input_shape, outputs)``, by name where its parameters have these names, or with no arguments
            where it needs none. A module is copied deeply, and every part of it that has
            ``reset_parameters`` draws new initial weights; parameters outside such parts keep the values
            they came with, in every run.

    Raises:
        ModelError: an unknown name or a wrong width, here; the person's code raises or gives no module,
            when the factory is called.

    >>> factory("linear")((4,), 3)
    Sequential(
      (0): Linear(in_features=4, out_features=3, bias=True)
    )
    """
    return _Sendable(spec, _find(spec))


@dataclass(frozen=True)
class _Sendable:
    """A factory that can be sent to another process, which finds again what the spec names."""

    spec: Spec
    make: Factory

    def __call__(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        try:
            return self.make(input_shape, outputs)
        except (MemoryError, RuntimeError) as problem:
            raise ModelError(
                f"the model {describe_spec(self.spec)!r} can't be built: {said_of(problem)[:200]}"
            ) from problem

    def __reduce__(self) -> tuple[Any, ...]:
        return factory, (self.spec,)


def _find(spec: Spec) -> Factory:
    if not isinstance(spec, str):
        return _own(spec, getattr(spec, "__name__", type(spec).__name__))
    family, _, rest = spec.partition(":")
    if family in ("linear", "mlp", "cnn") and not is_file_spec(spec):
        _layers(spec, None, 1)
        return lambda input_shape, outputs: _assemble(spec, input_shape, outputs)
    # widths after an unknown word, as in 'mpl:64', can't be the name of an object
    if rest and not rest[0].isdigit():
        return _own(load_object(spec, "model", ModelError), spec)
    near = nearest(family, ("linear", "mlp:128,64", "cnn:16,32"))
    raise ModelError(f"there is no model {spec!r}; {near} (your own: 'file.py:factory')")


def default(input_shape: tuple[int, ...]) -> str:
    """Return the model to take where none is named: ``mlp:64`` up to 256 inputs, ``mlp:128,64`` beyond.

    Raises:
        ModelError: examples have no common shape.

    >>> default((1, 8, 8)), default((1, 28, 28))
    ('mlp:64', 'mlp:128,64')
    """
    if not input_shape:
        raise ModelError("the batches come from a collate function, so no model can be chosen; give your own")
    return "mlp:64" if math.prod(input_shape) <= 256 else "mlp:128,64"


def describe_spec(spec: Spec) -> str:
    """Return what a model was asked for, as text: the spec, or ``python:Name`` for an object.

    >>> describe_spec("mlp:64"), describe_spec(nn.Linear(2, 1))
    ('mlp:64', 'python:Linear')
    """
    return spec if isinstance(spec, str) else f"python:{getattr(spec, '__name__', type(spec).__name__)}"


def script(spec: Spec, input_shape: tuple[int, ...], outputs: int) -> str | None:
    """Return a Python expression, over ``nn``, ``runpy`` and ``importlib``, that makes the same model.

    Returns:
        ``None`` where the model was given as a Python object, which has no spelling.

    >>> print(script("mlp:32", (64,), 10))
    nn.Sequential(
        nn.Linear(64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )
    """
    if not isinstance(spec, str):
        return None
    family, _, _ = spec.partition(":")
    if family in ("linear", "mlp", "cnn") and not is_file_spec(spec):
        lines = [
            f"    nn.{name}({', '.join(words)})," for name, words, _ in _layers(spec, input_shape, outputs)
        ]
        return "\n".join(["nn.Sequential(", *lines, ")"])
    place, _, name = spec.rpartition(":")
    first, *attributes = name.split(".")
    found = (
        f"runpy.run_path({place!r})[{first!r}]"
        if is_file_spec(spec)
        else f"importlib.import_module({place!r})"
    )
    found = ".".join([found, *(attributes if is_file_spec(spec) else [first, *attributes])])
    thing = load_object(spec, "model", ModelError)
    if isinstance(thing, nn.Module):
        return found
    given = _arguments(thing, spec, input_shape, outputs)
    words = [repr(value) for value in given[0]] + [f"{key}={value!r}" for key, value in given[1].items()]
    return f"{found}({', '.join(words)})"


def check(
    model: nn.Module,
    prepared: Prepared,
    loss: Loss,
    metric: Metric | None = None,
    *,
    judged: Loss | None = None,
    examples: int = 8,
    read: Callable[[Any], Tensor] = part_of,
) -> int | None:
    """Run a copy of a model forward and backward on a few training examples.

    Args:
        model: left as it is, as are torch's, NumPy's and Python's generators.
        prepared: the data.
        loss: the loss.
        metric: the metric; a person's own is tried too.
        judged: the loss of validation, where that is another.
        examples: how many.
        read: from what the model returns to the part that a metric by name compares.

    Returns:
        How many numbers the model gives for an example; ``None`` where that isn't one row of them.

    Raises:
        ModelError: it has nothing to train, raises, or what it gives fits neither the task nor the loss.

    >>> from thalweg import data, objectives
    >>> prepared = data.prepare(data.load("wine"), seed=0, replicate=0)
    >>> check(build("linear", (13,), 5), prepared, objectives.loss(None, prepared.task))
    Traceback (most recent call last):
    thalweg.errors.ModelError: the model gives shape (8, 5) for 8 examples, but 3 classes need (8, 3)
    """
    count = min(examples, len(prepared.train))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError("the model has no trainable parameters; an optimizer would have nothing to do")
    with undisturbed():
        inputs, targets = prepared.train.batch(torch.arange(count))
        # A copy, since a batch changes running statistics too.
        trial = copy.deepcopy(model).to(next(leaves(targets)).device)
        begin_training(trial)
        try:
            outputs = trial(inputs)
        except Exception as problem:
            if no_fault_of_the_model(problem):
                raise
            if (found := misfit(problem, trial, (inputs,))) is not None:
                raise found from problem
            # a mistake in code that a recipe or a command names: nobody waits for its exception
            shape = f" of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else ""
            raise ModelError(f"the model raises on a batch{shape}: {said_of(problem)}") from problem
        shown = _check_outputs(outputs, count, prepared, [loss, judged or loss], metric, read)
        _check_loss(outputs, targets, loss)
        if judged is not None and judged is not loss:
            # whose targets may mean something else
            inputs, targets = prepared.validation.batch(torch.arange(min(count, len(prepared.validation))))
            with evaluating(trial):
                outputs = trial(inputs)
        given = trees.tree_map(lambda leaf: leaf.detach() if isinstance(leaf, Tensor) else leaf, outputs)
        if judged is not None and judged is not loss:
            _value_of(given, targets, judged)
        if metric is not None and not metric.per_example:
            try:
                metric.score(metric.reduce(given, targets), targets)
            except OptionError:
                raise
            except Exception as problem:
                raise OptionError(f"the metric {metric.name!r} raises: {said_of(problem)}") from problem
    return None if shown is None else {1: 1, 2: shown.shape[-1]}.get(shown.ndim)


def _value_of(outputs: Any, targets: Any, loss: Loss) -> Tensor:
    try:
        return loss(outputs, targets)
    except OptionError as problem:
        raise ModelError(str(problem)) from problem
    except Exception as problem:
        raise ModelError(
            f"the loss {loss.name!r} raises on outputs of shape {_shape(outputs)} and targets of shape "
            f"{_shape(targets)}: {said_of(problem)}"
        ) from problem


def _check_loss(outputs: Any, targets: Any, loss: Loss) -> None:
    value = _value_of(outputs, targets, loss)
    if not value.requires_grad:
        raise ModelError("the loss doesn't depend on the model's parameters, so there is no gradient")
    try:
        value.backward()  # type: ignore[no-untyped-call]
    except Exception as problem:
        raise ModelError(f"the model raises on the way backward: {said_of(problem)}") from problem


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, Tensor) else type(value).__name__


def _check_outputs(
    outputs: Any,
    count: int,
    prepared: Prepared,
    losses: Sequence[Loss],
    metric: Metric | None,
    read: Callable[[Any], Tensor],
) -> Tensor | None:
    families = [activations.family(loss) for loss in losses]
    if not isinstance(outputs, Tensor):
        if families[0] is None and (metric is None or not metric.per_example):
            # a person's own loss and metric take what their own model gives
            return None
        outputs = read(outputs)
    found: Tensor = outputs
    task = prepared.task
    if task.kind == "custom":
        return found
    widths = set[int]()
    for loss, family in zip(losses, families, strict=True):
        by_name = loss.name == "bce"
        widths |= {1} if family == "two classes" and not by_name else {prepared.outputs}
        widths |= {1, 2} if by_name else set()
    shape = tuple(outputs.shape) if outputs.ndim != 1 else (*outputs.shape, 1)
    if len(shape) != 2 or shape[0] != count or shape[1] not in widths:
        need = " or ".join(f"({count}, {width})" for width in sorted(widths))
        what = f"{len(task.classes)} classes need" if task.classes else "a number for each example needs"
        hint = ""
        if shape == (count, 1) and len(task.classes) == 2:
            hint = "; for one logit choose the loss 'bce'"
        raise ModelError(
            f"the model gives shape {tuple(outputs.shape)} for {count} examples, but {what} {need}{hint}"
        )
    return found


# What is built -----------------------------------------------------------------------------------------

_Layer = tuple[str, tuple[str, ...], Callable[[], nn.Module]]


def _layer(kind: type[nn.Module], *arguments: int, **options: int) -> _Layer:
    words = (*map(str, arguments), *(f"{key}={value}" for key, value in options.items()))
    return kind.__name__, words, lambda: kind(*arguments, **options)


def _assemble(spec: str, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    return nn.Sequential(*(make() for _, _, make in _layers(spec, input_shape, outputs)))


def _layers(spec: str, input_shape: tuple[int, ...] | None, outputs: int) -> list[_Layer]:
    """The layers of a built model, or only the check of its spelling where there is no shape yet."""
    family, colon, rest = spec.partition(":")
    if family == "linear":
        if colon:
            raise ModelError(f"the model {spec!r} takes no widths; write 'linear', or 'mlp:{rest or '128'}'")
        widths = []
    else:
        widths = _widths(spec, family, rest)
    if input_shape is None:
        return []
    if not input_shape:
        raise ModelError(
            f"the model {spec!r} needs examples of one shape, and these come from a collate function; "
            "give your own model"
        )
    return (
        _convolutional(spec, widths, input_shape, outputs)
        if family == "cnn"
        else _dense(widths, input_shape, outputs)
    )


def _widths(spec: str, family: str, rest: str) -> list[int]:
    example = "mlp:128,64" if family == "mlp" else "cnn:16,32"
    try:
        widths = [int(width) for width in rest.split(",")]
    except ValueError:
        widths = []
    if not widths or min(widths) < 1 or max(widths) > 1_000_000:
        raise ModelError(
            f"the model {spec!r} needs whole numbers from 1 on, divided by commas, as in {example!r}"
        )
    return widths


def _dense(widths: list[int], input_shape: tuple[int, ...], outputs: int) -> list[_Layer]:
    layers = [_layer(nn.Flatten)] if len(input_shape) > 1 else []
    width = math.prod(input_shape)
    for after in widths:
        layers += [_layer(nn.Linear, width, after), _layer(nn.ReLU)]
        width = after
    return [*layers, _layer(nn.Linear, width, outputs)]


def _convolutional(spec: str, widths: list[int], input_shape: tuple[int, ...], outputs: int) -> list[_Layer]:
    if len(input_shape) != 3:
        raise ModelError(
            f"the model {spec!r} needs images, [channels, height, width], not {list(input_shape)}"
        )
    channels, *size = input_shape
    if min(size) >> len(widths) == 0:
        raise ModelError(
            f"the model {spec!r} halves its images {len(widths)} times, more often than {size[0]} x "
            f"{size[1]} pixels allow; give at most {int(math.log2(min(size)))} numbers"
        )
    layers: list[_Layer] = []
    for after in widths:
        layers += [_layer(nn.Conv2d, channels, after, 3, padding=1), _layer(nn.ReLU), _layer(nn.MaxPool2d, 2)]
        channels = after
    return [
        *layers,
        _layer(nn.AdaptiveAvgPool2d, 1),
        _layer(nn.Flatten),
        _layer(nn.Linear, channels, outputs),
    ]


# A person's own ----------------------------------------------------------------------------------------


def _own(thing: object, spec: str) -> Factory:
    if isinstance(thing, nn.Module):
        return lambda input_shape, outputs: _renewed(thing)
    if not callable(thing):
        raise ModelError(
            f"the model {spec!r} is {type(thing).__name__}, not a module, a module class or a "
            "function that makes one"
        )

    def make(input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        positional, named = _arguments(thing, spec, input_shape, outputs)
        try:
            made = thing(*positional, **named)
        except Exception as problem:
            raise ModelError(f"the model {spec!r} can't be built: {said_of(problem)}") from problem
        if not isinstance(made, nn.Module):
            raise ModelError(f"the model {spec!r} gives {type(made).__name__}, not a torch.nn.Module")
        return made

    return make


def _renewed(module: nn.Module) -> nn.Module:
    fresh = copy.deepcopy(module)
    for part in fresh.modules():
        reset = getattr(part, "reset_parameters", None)
        if callable(reset):
            reset()
    return fresh


def _arguments(
    thing: object, spec: str, input_shape: tuple[int, ...], outputs: int
) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    assert callable(thing)
    try:
        parameters = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):
        return (), {}
    by_name = {"input_shape": input_shape, "outputs": outputs}
    named = {
        p.name: by_name[p.name] for p in parameters if p.name in by_name and p.kind is not p.POSITIONAL_ONLY
    }
    required = [
        p for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if all(p.name in named for p in required):
        return (), named
    if len(required) == 2 and all(p.kind is not p.KEYWORD_ONLY for p in required):
        return (input_shape, outputs), {}
    raise ModelError(
        f"the model {spec!r} needs the arguments {', '.join(p.name for p in required)}; "
        "let it take (input_shape, outputs), or none"
    )
