"""The net that is transferred: a finished training's directory, or a file with weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.errors import OptionError, option
from thalweg.initial.saved import tensors_of
from thalweg.layers import models
from thalweg.layers.models import Factory
from thalweg.layers.surgery import ModelParts, with_parts
from thalweg.run.directory.directory import RunDirectory
from thalweg.settings import trust
from thalweg.stages.raw_input import with_raw_input
from thalweg.training.results import Stored
from thalweg.training.transfer_options import TransferOptions

__all__ = ["SourceNet", "source_of"]


@dataclass(frozen=True, kw_only=True)
class SourceNet:
    """What is known of the net that is transferred."""

    path: Path
    spec: str
    parts: ModelParts
    raw_input: bool
    output: str | None
    recipe: Mapping[str, Any]
    folder: Path | None
    code: Mapping[str, Mapping[str, str]]
    accepted: bool
    input_shape: list[int] | None

    @contextmanager
    def gate(self) -> Iterator[None]:
        """Within, code is what the source's directory names."""
        if self.folder is None:
            yield
            return
        with trust.Gate(directory=self.folder, recorded=self.code, accepted=self.accepted):
            yield

    def factory(self) -> Factory:
        """Return what makes such nets with random weights."""
        with self.gate():
            return with_raw_input(with_parts(models.factory(self.spec), self.parts), self.raw_input)

    @property
    def table(self) -> dict[str, Any]:
        """The model as a recipe has it."""
        raw = {"raw_input": True} if self.raw_input else {}
        return {"spec": self.spec, **self.parts.given(), **raw}


def source_of(options: TransferOptions) -> SourceNet:
    """Read what is known of the source.

    Raises:
        UserError: there is none, or it doesn't say what it is.
    """
    if not isinstance(options.source, str | Path):
        raise OptionError(
            f"there is no source to transfer from: {options.source!r}; give the directory of a finished "
            "training, or a .safetensors file"
            if options.source is None
            else f"the source is of type {type(options.source).__name__}; give the directory of a finished "
            "training, or a file with its weights, since the recipe names it"
        )
    path = Path(options.source)
    if not path.is_dir():
        tensors_of(path)
        if options.model is None:
            raise OptionError(
                f"{path} holds weights, but doesn't say of what model; give "
                f"{option('model', 'mlp:128,64')}, or {option('model', 'file.py:factory')}"
            )
        return SourceNet(
            path=path, spec=options.model, parts=ModelParts(), raw_input=False, output=None, recipe={},
            folder=None, code={}, accepted=options.trust_code, input_shape=None,
        )  # fmt: skip
    if options.model is not None:
        raise OptionError(
            f"{path} says itself what model it holds; leave {option('model', options.model)} out"
        )
    stored = Stored.read(path / "model.json")
    tensors_of(path)
    run = RunDirectory.read(path)
    told = run.config().get("recipe")
    return SourceNet(
        path=path, spec=stored.spec, parts=ModelParts(**stored.parts),  # type: ignore[arg-type]
        raw_input=stored.raw_input, output=stored.output,
        recipe=told if isinstance(told, Mapping) else {}, folder=path,
        code={**run.code(), **({stored.spec: stored.code} if stored.code else {})},
        accepted=options.trust_code, input_shape=list(stored.input_shape),
    )  # fmt: skip
