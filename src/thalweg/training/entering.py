"""A stage at its beginning: the module that it trains, made and frozen; and every stage tried beforehand."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from thalweg.errors import ModelError, OptionError, UserError
from thalweg.layers.untouched import untouched
from thalweg.randomness.generators import own_generators, seed_torch
from thalweg.randomness.streams import seed32
from thalweg.stages.freezing import frozen
from thalweg.stages.names import differing_name, shapes_of
from thalweg.stages.stage import Stage
from thalweg.strategies.table import from_tables
from thalweg.training.fit_spec import FitSpec, place_of, readied
from thalweg.training.loader import DataLoaderAdapter

__all__ = ["entered", "rehearse"]


@contextmanager
def entered(stage: Stage, model: nn.Module, seed: int) -> Iterator[tuple[nn.Module, list[str]]]:
    """Begin a stage: the module that is trained, frozen as it is to be, and the names of what is trained."""
    with own_generators(seed, "stage"):
        seed_torch(seed32(seed, "stage"))
        before = shapes_of(model)
        if stage.begin is not None:
            stage.begin(model)
            _check_structure(before, model, "begin")
        module = model
        if stage.build is not None:
            module = stage.build(model)
            _check_structure(before, model, "build")
    if not isinstance(module, nn.Module):
        raise OptionError(f"build gives {type(module).__name__}, not a torch.nn.Module; let it return one")
    try:
        module.to(place_of(model))
        with frozen(module, trains=stage.trains, of=model) as names:
            yield module, names
    finally:
        close = getattr(module, "close", None)
        if module is not model and callable(close):
            close()


def _check_structure(before: Mapping[str, Any], model: nn.Module, what: str) -> None:
    """Refuse what makes another model of the model: what is saved of it fits what ``fit`` was given."""
    if odd := differing_name(before, shapes_of(model)):
        raise ModelError(
            f"{what} changes what the model consists of ({odd!r}), so that weights which were saved before "
            "wouldn't fit; let it change values alone, and give fit the model as it is to be"
        )


def rehearse(model: nn.Module, stages: Sequence[Stage], specs: Sequence[FitSpec]) -> None:
    """Try every stage: make what it needs, and compute its loss on a batch. Nothing stays changed."""
    place = place_of(model)
    with untouched(model):
        for stage, spec in zip(stages, specs, strict=True):
            try:
                with entered(stage, model, spec.seed) as (module, _):
                    strategies = copy.deepcopy(from_tables(spec.strategies))
                    tried = replace(spec, model=module, strategies=strategies, device=place, backend=None)
                    with readied(tried) as ready:
                        ready.run_of(None, 60.0, None)
                        ready.try_scores()
                        training = ready.training
                        if isinstance(training.loader, DataLoaderAdapter):
                            continue
                        with training.aside(training=True) as loss, torch.no_grad():
                            for inputs, targets in training.batches(1):
                                loss(inputs, targets)
            except UserError as problem:
                raise type(problem)(f"in the stage {stage.name!r}: {problem}") from problem
            except Exception as problem:
                # which a person's own function raises
                problem.add_note(f"in the stage {stage.name!r}")
                raise
