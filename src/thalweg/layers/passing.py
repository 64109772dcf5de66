"""A model's forward pass over a person's data, and the sentence where the two don't go together.

Which failures get the sentence: what torch says of the inputs it was given, wherever in the model (a shape, a
type, an index, an argument that is missing), and what Python says where a line of the person's own code takes
a shape apart. What a person raises or asserts in code of theirs, exceptions of classes of their own, and
mistakes that no data can mend (a name, an attribute, a key that isn't there) stay what they are: somebody
may wait for them, and a sentence about inputs would mislead. So do memory that runs out, failures of a device
and of other processes, and Ctrl-C.
"""

from __future__ import annotations

import dis
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.utils import _pytree as trees

from thalweg.errors import DataError, ModelError, ThalwegError, UserError
from thalweg.settings.free_memory import out_of_memory

__all__ = ["SingleEntryError", "misfit", "no_fault_of_the_model", "outputs_of", "raised_in", "said_of"]

_FITTING = (RuntimeError, ValueError, TypeError, IndexError, AssertionError, AttributeError)
# of these the machine, other processes or Python itself tell, not the model
_NO_MODELS = tuple(
    kind
    for kind in (
        MemoryError, RecursionError, torch.OutOfMemoryError, getattr(torch, "AcceleratorError", None),
        getattr(torch.distributed, "DistError", None),
    )
    if kind is not None
)  # fmt: skip
_DEVICES = ("CUDA error", "cuDNN error", "CUBLAS_STATUS", "NCCL")
_AXES = {1: "length", 2: "height, width", 3: "depth, height, width"}
_RAISES = dis.opmap["RAISE_VARARGS"]


class SingleEntryError(ModelError):
    """A batch norm in training was given a single entry a feature, which has no spread."""


def outputs_of(model: nn.Module, *inputs: Any, called: Callable[..., Any] | None = None) -> Any:
    """Return a model's outputs.

    Args:
        model: any.
        inputs: its arguments.
        called: what to call in its place: what an engine has made of it.

    Raises:
        UserError: the model doesn't take the inputs, in one sentence; torch's error is its cause.

    >>> outputs_of(nn.Linear(4, 2), torch.ones(3, 5))
    Traceback (most recent call last):
    thalweg.errors.ModelError: the model Linear can't take inputs of shape [3, 5] and type torch.float32: it \
takes 4 numbers along the last axis, not 5 (mat1 and mat2 shapes cannot be multiplied (3x5 and 4x2)); make \
the layer for 5, or give inputs with 4
    """
    try:
        return (model if called is None else called)(*inputs)
    except _FITTING as problem:
        if (said := misfit(problem, model, inputs)) is None:
            raise
        raise said from problem


def no_fault_of_the_model(problem: BaseException) -> bool:
    """Say whether an error tells of the machine or of other processes, whatever the model and the data."""
    said = str(problem)
    if isinstance(problem, _NO_MODELS) or out_of_memory(problem) or any(each in said for each in _DEVICES):
        return True
    return raised_in(problem, "torch.distributed", "torch.nn.parallel")


def raised_in(problem: BaseException, *packages: str) -> bool:
    """Say whether the code that an error comes from belongs to one of these packages of torch."""
    place = _module(_calls(problem)[-1]) if problem.__traceback__ is not None else ""
    return any(place == package or place.startswith(f"{package}.") for package in packages)


def misfit(problem: BaseException, model: nn.Module, inputs: Sequence[Any]) -> UserError | None:
    """Return a sentence for an error of a forward pass, if model and inputs don't go together.

    Args:
        problem: as it was caught.
        model: that was called.
        inputs: its arguments.
    """
    if not isinstance(problem, _FITTING) or isinstance(problem, ThalwegError):
        return None
    if no_fault_of_the_model(problem) or _is_theirs(problem):
        return None
    layer, given = _failing(problem)
    if _is_alone(problem, layer, given):
        return SingleEntryError("batch norm can't normalize one example by itself; take larger batches")
    rule = _rule(layer, given, given is not None and any(given is each for each in _tensors(inputs)))
    if rule is None and (odd := _wrong_type(problem, model, inputs, layer, given)) is not None:
        return odd
    said = " ".join(str(problem).split())[:300] or type(problem).__name__
    where = _line(problem)
    said = f"{where.removeprefix(' ')}: {said}" if where else said
    what = f"the model {type(model).__name__} can't take {_described(inputs)}"
    if rule is None:
        return ModelError(
            f"{what} ({said}); give inputs of the shape and type that it is made for, or change the model"
        )
    name = next((name for name, part in model.named_modules() if part is layer), "")
    which = f"its layer {name!r}, {layer}," if name else "it"
    return ModelError(f"{what}: {which} {rule[0]} ({said}); {rule[1]}")


def said_of(problem: BaseException) -> str:
    """Say an error, and its line in the person's own code: the deepest one outside of torch and thalweg."""
    if isinstance(problem, UserError):
        return str(problem)
    message = " ".join(str(problem).split())
    return f"{type(problem).__name__}{_line(problem)}" + (f": {message}" if message else "")


# Where an error comes from ------------------------------------------------------------------------------


def _calls(problem: BaseException) -> list[TracebackType]:
    found, trace = [], problem.__traceback__
    while trace is not None:
        found.append(trace)
        trace = trace.tb_next
    return found


def _module(call: TracebackType) -> str:
    return str(call.tb_frame.f_globals.get("__name__", ""))


def _package(call: TracebackType) -> str:
    return _module(call).partition(".")[0]


def _line(problem: BaseException) -> str:
    where = ""
    for call in _calls(problem):
        if _package(call) not in ("torch", "thalweg"):
            file = call.tb_frame.f_code.co_filename.rpartition("/")[2]
            where = f" in line {call.tb_lineno} of {file}"
    return where


def _is_theirs(problem: BaseException) -> bool:
    """Whether a person's own code has raised it, or no data could mend it."""
    if type(problem).__module__.partition(".")[0] not in ("builtins", "torch"):
        return True
    last = _calls(problem)[-1]
    code = last.tb_frame.f_code
    if _package(last) == "torch":
        # a name that a module doesn't have is looked for there too
        return isinstance(problem, AttributeError) and code.co_name == "__getattr__"
    return isinstance(problem, AttributeError) or code.co_code[last.tb_lasti] == _RAISES


def _failing(problem: BaseException) -> tuple[nn.Module | None, Tensor | None]:
    """The innermost layer that was called, and the first tensor that it was given."""
    for call in reversed(_calls(problem)):
        names = call.tb_frame.f_locals
        if call.tb_frame.f_code.co_name == "_call_impl" and isinstance(names.get("self"), nn.Module):
            given = [*names.get("args", ()), *names.get("kwargs", {}).values()]
            return names["self"], next((each for each in given if isinstance(each, Tensor)), None)
    return None, None


def _tensors(inputs: Any) -> list[Tensor]:
    return [leaf for leaf in trees.tree_leaves(inputs) if isinstance(leaf, Tensor)]


def _described(inputs: Sequence[Any]) -> str:
    if len(inputs) == 1 and isinstance(inputs[0], Tensor):
        return f"inputs of shape {list(inputs[0].shape)} and type {inputs[0].dtype}"
    return "inputs " + ", ".join(map(_form, inputs))


def _form(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{list(value.shape)} {value.dtype}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_form(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (tuple, list)):
        return f"({', '.join(map(_form, value))})"
    return type(value).__name__


# What a layer asks for ----------------------------------------------------------------------------------


def _is_alone(problem: BaseException, layer: nn.Module | None, given: Tensor | None) -> bool:
    """Whether a batch norm was given a single entry a feature."""
    if not isinstance(problem, ValueError):
        return False
    if isinstance(layer, _NormBase) and given is not None and given.ndim > 1:
        return given.numel() == given.shape[1] == layer.num_features
    # torch's function, called in code of one's own
    return "more than 1 value per channel" in str(problem)


def _rule(layer: nn.Module | None, given: Tensor | None, first: bool) -> tuple[str, str] | None:
    """What a layer takes and wasn't given, and what to do; ``None`` where that isn't known."""
    if layer is None or given is None:
        return None
    if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):
        return _of_numbers(layer.num_embeddings, given)
    if isinstance(layer, _ConvNd):
        return _of_images(layer, given, first)
    if isinstance(layer, _NormBase):
        axis = getattr(layer, "axis", 1)  # of ours it is an option
        return _of_length(layer.num_features, given, axis, f"features along axis {axis}", first)
    if isinstance(layer, nn.Linear):
        return _of_length(layer.in_features, given, -1, "numbers along the last axis", first)
    if isinstance(layer, (nn.RNNBase, nn.RNNCellBase)):
        return _of_length(layer.input_size, given, -1, "numbers along the last axis", first)
    return None


def _of_length(wanted: int, given: Tensor, axis: int, what: str, first: bool) -> tuple[str, str] | None:
    if not -given.ndim <= axis < given.ndim or given.shape[axis] == wanted:
        return None
    there = given.shape[axis]
    what = what if wanted > 1 else what.replace("numbers", "number").replace("features", "feature")
    remedy = _either(wanted, there, first)
    if axis == -1 and given.ndim > 2 and given[0].numel() == wanted:
        remedy = "put nn.Flatten() before it"
    return f"takes {wanted} {what}, not {there}", remedy


def _either(wanted: int, there: int, first: bool) -> str:
    give = f"give inputs with {wanted}" if first else f"let what comes before it give {wanted}"
    return f"make the layer for {there}, or {give}"


def _of_numbers(count: int, given: Tensor) -> tuple[str, str] | None:
    if given.is_floating_point() or given.is_complex():
        return f"takes whole numbers, not {given.dtype}", "give inputs.long()"
    if not given.numel():
        return None
    low, high = int(given.min()), int(given.max())
    if low < 0 or high >= count:
        remedy = "number them from 0 on" if low < 0 else f"make the layer for {high + 1}, or renumber them"
        return f"takes numbers from 0 to {count - 1}, not {low if low < 0 else high}", remedy
    return None


def _of_images(layer: _ConvNd, given: Tensor, first: bool) -> tuple[str, str] | None:
    axes, channels = len(layer.kernel_size), layer.in_channels
    rule = f"takes [batch, {channels}, {_AXES[axes]}], not {list(given.shape)}"
    shape, whose = list(given.shape), "inputs" if first else "what comes before it"
    if given.ndim == axes + 2:
        if shape[1] == channels:
            return None
        if shape[-1] == channels and first:
            return rule, f"give {whose}.movedim(-1, 1)"
        return rule, _either(channels, shape[1], first)
    if given.ndim == axes + 1 and shape[0] == channels:
        return None
    if given.ndim == axes + 1 and channels == 1 and first:
        return rule, f"give {whose}.unsqueeze(1)"
    return rule, f"bring {whose} to that shape, or take a layer for {given.ndim - 1} axes an example"


# how torch's complaints spell a type
_SPELLED = {
    torch.float64: "double", torch.float32: "float", torch.float16: "half", torch.bfloat16: "bfloat16",
    torch.complex64: "complexfloat", torch.complex128: "complexdouble", torch.uint8: "byte|unsigned char",
    torch.int8: "char", torch.int16: "short", torch.int32: "int", torch.int64: "long", torch.bool: "bool",
}  # fmt: skip
_TYPES = ("same dtype", "should be the same", "expected scalar type")


def _wrong_type(
    problem: BaseException, model: nn.Module, inputs: Any, layer: nn.Module | None, given: Tensor | None
) -> UserError | None:
    """A sentence for inputs of another type than the weights."""
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    mine = next((p.dtype for p in layer.parameters() if p.is_floating_point()), None) if layer else None
    there = [leaf.dtype for leaf in _tensors(inputs)]
    odd = None
    if layer is not None and layer is not model and mine is not None and not any(layer.children()):
        # the layer itself shows it, whatever torch's words are
        odd = None if given is None or given.dtype == mine else given.dtype
        weights = mine
    elif isinstance(layer, (nn.Linear, _ConvNd, nn.RNNBase)) and given is not None:
        odd = None if given.dtype == mine else given.dtype
    elif isinstance(problem, RuntimeError) and any(text in str(problem) for text in _TYPES):
        # in code of one's own another type may be right, unless torch has named it
        said = str(problem).lower()
        named = [t for t in there if t in _SPELLED and re.search(rf"\b({_SPELLED[t]})\b", said)]
        odd = next((dtype for dtype in named if dtype != weights), None)
    if weights is None or odd is None or odd not in there:
        return None
    remedy = "make fractions of them, of pixels by inputs.float() / 255"
    if odd.is_complex:
        remedy = "give torch.view_as_real(inputs)"
    elif odd.is_floating_point:
        remedy = f"give inputs.to({weights}), or train model.to({odd})"
    return DataError(f"the inputs are {odd}, but the model's weights are {weights}; {remedy}")
