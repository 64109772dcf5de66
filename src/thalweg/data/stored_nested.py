"""How new data with several inputs are read as a training's own were: plain values, kept beside a model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from thalweg.data.frames import frame_of
from thalweg.data.labelled import TARGETS, common
from thalweg.errors import DataError, shortened
from thalweg.objectives.nests import described

__all__ = ["NestedPreparation", "OneInput"]

_FORMS: dict[type, Literal["dict", "tuple", "list"]] = {dict: "dict", tuple: "tuple", list: "list"}
_WHOLE = ("uint8", "int8", "int16", "int32", "int64", "bool")
_FRACTIONS = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


class OneInput(BaseModel):
    """One of several inputs.

    Attributes:
        dtype: of its tensor, as torch names it.
        shape: of one example. Its lengths may be others in new data, as of sentences; the model says whether
            it takes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    shape: list[int]

    def made(self, given: Any, called: str) -> Tensor:
        """Return new values as a tensor of training's type.

        Raises:
            DataError: they are no numbers, have other axes, or aren't what the type holds.
        """
        found = _tensor(given, called)
        if found.ndim and math.prod(self.shape) == 1 and found.numel() == len(found):
            # one number an example, with or without an axis of its own
            found = found.reshape(len(found), *self.shape)
        if found.ndim != len(self.shape) + 1:
            raise DataError(
                f"{called} has the shape {list(found.shape)}, but training had examples of shape "
                f"{self.shape}: give {len(self.shape) + 1} axes, of which the first counts examples"
            )
        wanted = getattr(torch, self.dtype)
        if found.is_complex() and not wanted.is_complex:
            raise DataError(f"{called} holds complex numbers, but training had {self.dtype}; give real ones")
        if self.dtype in _WHOLE and found.numel():
            if found.is_floating_point() and not bool((found == found.round()).all()):
                raise DataError(
                    f"{called} holds fractions or missing values, but training had whole numbers; give these"
                )
            low, high = (0, 1) if wanted is torch.bool else (torch.iinfo(wanted).min, torch.iinfo(wanted).max)
            least, most = found.min().item(), found.max().item()
            if not low <= least <= most <= high:
                raise DataError(
                    f"{called} holds {least if least < low else most:g}, but training had {self.dtype}, "
                    f"which is from {low} to {high}; give such numbers"
                )
        return found.to(wanted)

    def check(self) -> None:
        """Refuse what can't have come from a training.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        if self.dtype not in (*_WHOLE, *_FRACTIONS):
            raise ValueError(f"inputs have the type {self.dtype!r}, which isn't known")
        if any(length < 0 for length in self.shape):
            raise ValueError(f"inputs have the shape {self.shape}, which nothing has")


class NestedPreparation(BaseModel):
    """How several inputs become tensors: each as it is given, in the type that training had.

    Attributes:
        form: in which the model is given them: by name, or in order.
        names: of the inputs; where they are in order, their positions.
        inputs: each, which may be several again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["nested"] = "nested"
    form: Literal["dict", "tuple", "list"]
    names: list[str | int]
    inputs: list[OneInput | NestedPreparation]

    @classmethod
    def of(cls, inputs: Any) -> NestedPreparation | None:
        """Return how inputs of training were given; ``None``: in a form that can't be written down."""
        form = _FORMS.get(type(inputs))
        entries = inputs if isinstance(inputs, dict) else dict(enumerate(inputs))
        if form is None or not all(isinstance(name, str | int) for name in entries):
            return None
        made = [
            OneInput(dtype=str(part.dtype).removeprefix("torch."), shape=list(part.shape[1:]))
            if isinstance(part, Tensor)
            else cls.of(part)
            for part in entries.values()
        ]
        known = [each for each in made if each is not None]
        return cls(form=form, names=list(entries), inputs=known) if len(known) == len(made) else None

    @property
    def features(self) -> tuple[int, ...]:
        """The shape of one example's inputs; empty where there are several."""
        each = [one for _, one in self._each()]
        return tuple(each[0].shape) if len(each) == 1 else ()

    @property
    def fitting(self) -> str:
        """The files that new data can be, for messages."""
        paths = [path for path, _ in self._each()]
        arrays = f"an array for each input, {_listed(paths)}" if self.form == "dict" else (
            f"{len(paths)} arrays, the inputs in order"
        )  # fmt: skip
        numbers = all(math.prod(one.shape) == 1 for _, one in self._each())
        table = ", or a table with such columns" + ("" if numbers else ", of lists (Parquet or JSON lines)")
        return f"an NPZ archive with {arrays}" + (table if self.form == "dict" else "")

    def apply(self, given: Any, called: str = "the data", said: Sequence[str] = ()) -> tuple[Any, list[str]]:
        """Make inputs of arrays that are nested as training's were; a data frame is its columns by name.

        Args:
            given: a mapping, or a tuple or list; the array itself where there is one input.
            called: what it is called in messages.
            said: notes of reading it.

        Returns:
            Tensors ``[N, ...]``, nested as in training, and what is worth saying.

        Raises:
            DataError: an input isn't there, or is of another kind; they differ in length.
        """
        frame, notes = frame_of(given), list(said)
        if frame is not None:
            given = dict(zip(frame.columns, frame, strict=True))
        paths, each = zip(*self._each(), strict=True)
        alone = len(paths) == 1 and not isinstance(given, Mapping | tuple | list)
        values = [given] if alone else list(self._values(given, called, "", notes))
        tensors = [
            one.made(value, f"the input {path!r} of {called}")
            for one, value, path in zip(each, values, paths, strict=True)
        ]
        for path, tensor in zip(paths, tensors, strict=True):
            if len(tensor) != len(tensors[0]):
                raise DataError(
                    f"the input {path!r} of {called} has {len(tensor)} examples, but {paths[0]!r} has "
                    f"{len(tensors[0])}; give all inputs of each example"
                )
            if (bad := int((~tensor.isfinite()).sum())) > 0:
                notes.append(f"the input {path!r} of {called} holds {bad} missing or infinite values")
        if not len(tensors[0]):
            raise DataError(f"{called} holds no examples; there is nothing to predict")
        return self._nest(iter(tensors)), notes

    def arranged(
        self, names: Sequence[str], read: Callable[[str], Any], called: str
    ) -> tuple[Any, list[str]]:
        """Return arrays that lie side by side, nested as training's were, and what is worth saying.

        Args:
            names: of the arrays; of an input within another both names with a dot between them, and of
                inputs in order their positions, those that ``np.savez`` gives them, or any in this order.
            read: from a name to its array.
            called: what they are called in messages.

        Raises:
            DataError: one isn't there.
        """
        paths = [path for path, _ in self._each()]
        inputs = [name for name in names if name not in TARGETS]
        taken = next(
            (tried for tried in (paths, [f"arr_{path}" for path in paths]) if set(tried) <= set(names)), None
        )
        if taken is None and len(inputs) == len(paths) and (len(paths) == 1 or self.form != "dict"):
            taken = inputs
        if taken is None:
            lacks = f"has no {_listed([path for path in paths if path not in names])}, which training used"
            if self.form != "dict":
                lacks = f"hasn't the {len(paths)} inputs in order that training had"
            raise DataError(f"{called} {lacks}; it holds {_listed(names)}: give {self.fitting}")
        found = iter([read(name) for name in taken])
        return self._nest(found), _left_out([name for name in names if name not in taken], called)

    def check(self) -> None:
        """Refuse what can't have come from a training.

        Raises:
            ValueError: in a few words, what is wrong.
        """
        if not self.inputs or len(self.names) != len(self.inputs) or len(set(self.names)) < len(self.names):
            raise ValueError("inputs.names aren't as many as the inputs, each once")
        if self.form != "dict" and self.names != list(range(len(self.names))):
            raise ValueError(f"inputs.names are {self.names}, but a {self.form} has positions from 0")
        for each in self.inputs:
            each.check()

    def _each(self) -> Iterator[tuple[str, OneInput]]:
        """Go through the inputs with their names, dots between those of one within another."""
        for name, part in zip(self.names, self.inputs, strict=True):
            if isinstance(part, OneInput):
                yield str(name), part
            else:
                yield from ((f"{name}.{path}", one) for path, one in part._each())

    def _nest(self, values: Iterator[Any]) -> Any:
        """Return a nest like training's, with these in the places of its inputs."""
        made = [next(values) if isinstance(one, OneInput) else one._nest(values) for one in self.inputs]
        if self.form == "dict":
            return dict(zip(self.names, made, strict=True))
        return tuple(made) if self.form == "tuple" else made

    def _values(self, given: Any, called: str, within: str, notes: list[str]) -> Iterator[Any]:
        """Go through what stands in the places of training's inputs."""
        what = f"{within.removesuffix('.')!r} of {called}" if within else called
        count = len(self.names)
        if not isinstance(given, Mapping if self.form == "dict" else tuple | list):
            had = f"inputs by name ({_listed(self.names)})" if self.form == "dict" else f"{count} in order"
            form = "a mapping of arrays" if self.form == "dict" else "a tuple of arrays"
            raise DataError(f"{what} is {described(given)}, but training had {had}; give {form}")
        entries = given if isinstance(given, Mapping) else dict(enumerate(given))
        if self.form != "dict" and len(entries) != count:
            raise DataError(f"{what} is {described(given)}, but training had {count} in order; give as many")
        if absent := [name for name in self.names if name not in entries]:
            raise DataError(
                f"{what} has no {_listed(absent)}, which training used; it holds {_listed(entries)}"
            )
        notes += _left_out([name for name in entries if name not in self.names], what)
        for name, one in zip(self.names, self.inputs, strict=True):
            if isinstance(one, OneInput):
                yield entries[name]
            else:
                yield from one._values(entries[name], called, f"{within}{name}.", notes)


def _tensor(given: Any, called: str) -> Tensor:
    if isinstance(given, Tensor):
        return common(given.detach().cpu())
    try:
        # lists in a column of a frame would be objects
        array = np.asarray(
            given.to_list() if isinstance(given, pl.Series) and given.dtype.is_nested() else given
        )
    except (ValueError, TypeError) as problem:
        raise DataError(
            f"{called} can't be made an array ({' '.join(str(problem).split())}); give rows of one length"
        ) from problem
    if array.dtype.kind not in "biufc":
        raise DataError(f"{called} holds {array.dtype} values, not numbers; give what training had")
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        # torch has the wide unsigned types in name alone
        array = array.astype(np.float64 if array.size and array.max() > np.iinfo(np.int64).max else np.int64)
    if array.dtype.itemsize > (16 if array.dtype.kind == "c" else 8):
        array = array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)
    return torch.tensor(np.ascontiguousarray(array, array.dtype.newbyteorder("=")).reshape(array.shape))


def _left_out(names: Sequence[Any], called: str) -> list[str]:
    unused = [name for name in names if name not in TARGETS]
    return [f"{called} has {_listed(unused)}, which training didn't use: left out"] if unused else []


def _listed(names: Any) -> str:
    return shortened(list(map(repr, names)))
