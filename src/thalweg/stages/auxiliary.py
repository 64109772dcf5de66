"""Auxiliary heads: copies of the output on inner layers, which training has and the result hasn't."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.layers.modes import evaluating
from thalweg.layers.passing import outputs_of
from thalweg.layers.untouched import untouched
from thalweg.run.targets import suited_loss
from thalweg.stages.prefixed import HeadOf, head_for
from thalweg.stages.progress import Changing, by_progress, said_of
from thalweg.stages.stage import Stage
from thalweg.stages.taps import Closing, Tapped, inner_module

__all__ = ["AuxiliaryLoss", "WithHeads", "auxiliary_heads"]


class WithHeads(Closing):
    """A model with heads on inner modules; in evaluation mode the heads aren't computed.

    ``forward`` gives ``{"logits": what the model returns, NAME: output of a head, ...}`` in training.

    Args:
        model: any.
        heads: name of a module of it, to a head on its output.
    """

    def __init__(self, model: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.names = {f"head {number}": name for number, name in enumerate(heads)}
        self.tapped = Tapped(model, self.names)
        self.heads = nn.ModuleList(heads.values())

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.tapped

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the outputs of the model and of the heads."""
        found = self.tapped(*args, **kwargs)
        for key, head in zip(self.names, self.heads, strict=True):
            features = found.pop(key)
            if self.training:
                found[key] = head(features)
        return dict(found)


class AuxiliaryLoss:
    """``L = loss(logits, y) + sum_k w_k * loss(head_k, y)``, each weight a number or a function of progress.

    Args:
        loss: a name, or a function of outputs and targets.
        weights: of the heads, in their order; at least 0.
    """

    def __init__(self, loss: Any, weights: Sequence[Changing]) -> None:
        self._loss = suited_loss(loss, {})
        self._weights = [by_progress("the weight of an auxiliary head", each, least=0) for each in weights]
        self._progress = 0.0
        self.__name__ = f"{self._loss.name} with auxiliary heads"

    def follow(self, *, progress: float, step: int, seed: int) -> None:
        """Take the weights of this part of the stage."""
        self._progress = progress

    def __call__(self, outputs: Any, targets: Tensor) -> Tensor:
        """Return the loss of a batch."""
        total = self._loss(outputs["logits"], targets)
        for number, weight in enumerate(self._weights):
            if f"head {number}" in outputs and (factor := weight(self._progress)):
                total = total + factor * self._loss(outputs[f"head {number}"], targets)
        return total


def auxiliary_heads(
    model: nn.Module,
    example: Any,
    layers: Sequence[str] | Mapping[str, Changing],
    *,
    loss: Any,
    weight: Changing = 0.3,
    make_head: HeadOf | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    name: str = "auxiliary heads",
    **settings: Any,
) -> list[Stage]:
    """Write a stage in which inner layers have heads of their own, trained for the same task.

    So lower layers get a large gradient: :class:`AuxiliaryLoss`. The heads are dropped at the end: what is
    saved, and scored on validation, is the plain model by the plain loss.

    Args:
        model: any.
        example: a batch of inputs, of two examples or more.
        layers: names of the modules whose outputs get a head; or a weight of each by name.
        loss: the task's: a name, or a function of outputs and targets.
        weight: of each head, at least 0: a number, or a function of the part of the stage that is done, such
            as ``Ramp(start=0.3, end=0)``, which fades them out.
        make_head: from the shape of one example's features and the number of outputs to a head; ``None``:
            :func:`thalweg.stages.prefixed.head_for`.
        epochs, steps: how long; neither: as given to ``fit``.
        name: of the stage.
        settings: other settings of the :class:`thalweg.stages.Stage`.

    Raises:
        OptionError: no layer, a name that matches nothing, a weight out of range.
        ModelError: a layer on which no head can be put.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [stage] = auxiliary_heads(net, torch.ones(2, 4), ["1"], loss="cross-entropy", epochs=5)
    >>> stage.build(net)
    WithHeads(
      (tapped): Tapped(
        (model): Sequential(
          (0): Linear(in_features=4, out_features=8, bias=True)
          (1): ReLU()
          (2): Linear(in_features=8, out_features=8, bias=True)
          (3): ReLU()
          (4): Linear(in_features=8, out_features=3, bias=True)
        )
      )
      (heads): ModuleList(
        (0): Sequential(
          (0): Linear(in_features=8, out_features=3, bias=True)
        )
      )
    )

    Source: D4 (N); Szegedy et al. 2015 (weight 0.3); Lee et al., Deeply-supervised nets, 2015.
    """
    if isinstance(layers, str):
        raise OptionError(f"layers is {layers!r}; give a list of names, [{layers!r}]")
    weights = dict(layers) if isinstance(layers, Mapping) else dict.fromkeys(layers, weight)
    if not weights:
        raise OptionError("layers is empty; name at least one module that is to get a head")
    for layer, each in weights.items():
        inner_module(model, layer, "layers")
        by_progress(f"the weight of the head on {layer!r}", each, least=0)
    shapes, outputs = _looked_at(model, example, list(weights))

    def build(whole: nn.Module) -> nn.Module:
        heads = {}
        for layer, shape in shapes.items():
            made = head_for(shape, outputs, like=whole) if make_head is None else make_head(shape, outputs)
            heads[layer] = made
        return WithHeads(whole, heads)

    total = AuxiliaryLoss(loss, list(weights.values()))
    settings.setdefault("validation_loss", loss)
    about = {"heads": {layer: said_of(each) for layer, each in weights.items()}, **settings.pop("about", {})}
    return [Stage(name=name, epochs=epochs, steps=steps, build=build, loss=total, about=about, **settings)]


def _looked_at(
    model: nn.Module, example: Any, layers: Sequence[str]
) -> tuple[dict[str, tuple[int, ...]], int]:
    """Shapes of one example's features, and how many outputs the model has."""
    with untouched(model, parameters=False), evaluating(model), torch.no_grad():
        tapped = Tapped(model, {f"head {number}": layer for number, layer in enumerate(layers)})
        try:
            found = outputs_of(tapped, example)
        finally:
            tapped.close()
    shapes = {}
    for number, layer in enumerate(layers):
        value = found[f"head {number}"]
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim < 2:
            raise ModelError(
                f"no head can be put on {layer!r}, which gives no features: a tensor of fractions with a row "
                "for each example; name another layer"
            )
        shapes[layer] = tuple(value.shape[1:])
    logits = found["logits"]
    return shapes, 1 if logits.ndim < 2 else int(logits.shape[-1])
