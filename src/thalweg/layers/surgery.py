"""Parts put into any model, as a recipe names them: batch norm, dropout, maxout, skips, stochastic depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import torch
from pydantic import Field, StrictInt
from torch import nn

from thalweg.errors import ModelError, UserError
from thalweg.layers.models import Factory
from thalweg.layers.norm import insert_batch_norm
from thalweg.layers.placing import insert_dropout, insert_maxout, insert_skips
from thalweg.layers.residual import set_stochastic_depth
from thalweg.settings.tables import Settings

__all__ = ["ModelParts", "insert_parts", "with_parts"]


Rate: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Pieces: TypeAlias = Annotated[StrictInt, Field(ge=1, le=1_000)]


class ModelParts(Settings):
    """Parts that any model can be given.

    Attributes:
        batch_norm: between each linear layer or convolution and its activation, as
            :func:`thalweg.layers.insert_batch_norm` puts it.
        dropout: rate for hidden units on their way into linear layers, in ``[0, 1)``, as
            :func:`thalweg.layers.insert_dropout` puts it: in an ``mlp`` behind each hidden activation, in a
            ``cnn`` before the last layer.
        maxout: linear pieces of each hidden unit, instead of its activation, as
            :func:`thalweg.layers.insert_maxout` puts it; 1 leaves the activation.
        skip: a connection around each block of layer, normalization and activation that gives as much as it
            takes, as :func:`thalweg.layers.insert_skips` puts it.
        stochastic_depth: chance, in ``[0, 1)``, that a training step leaves out the last residual block; it
            falls linearly towards the first, as :func:`thalweg.layers.set_stochastic_depth` has it. Blocks
            are those of ``skip``, and any ``Skip`` or ``StochasticDepth`` that the model has of itself.

    >>> str(ModelParts(batch_norm=True, dropout=0.3)), bool(ModelParts())
    ('batch_norm, dropout 0.3', False)
    """

    batch_norm: bool = False
    dropout: Rate = 0.0
    maxout: Pieces = 1
    skip: bool = False
    stochastic_depth: Rate = 0.0

    def given(self) -> dict[str, bool | int | float]:
        """Return what is on, by name."""
        return self.model_dump(exclude_defaults=True)

    def __bool__(self) -> bool:
        return bool(self.given())

    def __str__(self) -> str:
        return ", ".join(
            name if value is True else f"{name} {value:g}" for name, value in self.given().items()
        )


def insert_parts(
    model: nn.Module, parts: ModelParts, *, input_shape: tuple[int, ...] | None = None
) -> nn.Module:
    """Put parts into a model, in place.

    The order is maxout, batch normalization, skip connections with their stochastic depth, dropout: a block
    is ``x + activation(normalized(dropped(x) W))``. Make the optimizer, and initialize, afterwards.

    Args:
        model: any; maxout and skip connections need activations that stand in ``nn.Sequential`` containers.
        parts: what to put in.
        input_shape: of one example; where no ``nn.Sequential`` says what leads into what, the model is run on
            two such examples of zeros, once.

    Returns:
        The same model.

    Raises:
        ModelError: there is no place for a part.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> insert_parts(net, ModelParts(dropout=0.3))[2][0]
    Dropout(p=0.3, inplace=False)
    """
    part = ""
    try:
        if parts.maxout > 1:
            part = "maxout"
            insert_maxout(model, parts.maxout)
        if parts.batch_norm:
            part = "batch_norm"
            _normalize(model, input_shape)
        if parts.skip:
            part = "skip"
            insert_skips(model)
        if parts.stochastic_depth > 0:
            part = "stochastic_depth"
            set_stochastic_depth(model, parts.stochastic_depth)
        if parts.dropout > 0:
            part = "dropout"
            insert_dropout(model, parts.dropout)
    except ModelError as problem:
        raise ModelError(f"model.{part} can't be had: {problem}") from problem
    return model


def _normalize(model: nn.Module, input_shape: tuple[int, ...] | None) -> None:
    try:
        insert_batch_norm(model)
    except ModelError:
        if input_shape is None:
            raise
        example = torch.zeros(2, *input_shape)
        try:
            insert_batch_norm(model, example=example)
        except Exception as problem:
            # of a batch that nobody gave, the sentence about what was given would mislead
            cause = problem.__cause__ if isinstance(problem, UserError) else problem
            if cause is None:
                raise
            said = " ".join(f"{type(cause).__name__}: {cause}".split())[:200]
            raise ModelError(
                f"the model raises on a batch of zeros {list(example.shape)} ({said}); build batch "
                "normalization into it"
            ) from problem


@dataclass(frozen=True)
class _Equipped:
    """A factory that can be sent to another process where the one within can."""

    factory: Factory
    parts: ModelParts

    def __call__(self, input_shape: tuple[int, ...], outputs: int) -> nn.Module:
        model = self.factory(input_shape, outputs)
        return insert_parts(model, self.parts, input_shape=input_shape)


def with_parts(factory: Factory, parts: ModelParts) -> Factory:
    """Return a factory whose models have parts put into them.

    Args:
        factory: as of :func:`thalweg.layers.models.factory`.
        parts: what to put in.

    >>> from thalweg.layers import models
    >>> model = with_parts(models.factory("cnn:4"), ModelParts(batch_norm=True, dropout=0.2))((1, 8, 8), 10)
    >>> [type(layer).__name__ for layer in model.modules() if not isinstance(layer, nn.Sequential)]
    ['Conv2d', 'BatchNorm', 'ReLU', 'MaxPool2d', 'AdaptiveAvgPool2d', 'Flatten', 'Dropout', 'Linear']
    """
    return _Equipped(factory, parts) if parts else factory
