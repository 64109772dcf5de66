"""Unsupervised pretraining: a stage that reconstructs its inputs, with a temporary decoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.errors import DataError, ModelError, OptionError
from thalweg.settings.tables import is_number, one_of
from thalweg.stages.blocks import Block, Chain, Upto, find_blocks, part_of_chain
from thalweg.stages.decoders import Mirror, check_linear, linear_decoder, mirror_of
from thalweg.stages.freezing import plain_name
from thalweg.stages.prefixed import Prefixed
from thalweg.stages.stage import GIVEN, Stage
from thalweg.stages.taps import inner_module

__all__ = ["Autoencoder", "DecoderOf", "Noise", "reconstruction_error", "unsupervised"]

DecoderOf: TypeAlias = Callable[[tuple[int, ...], tuple[int, ...]], nn.Module]
"""From the shapes of one example's features and of what is to be reconstructed to a decoder."""

NoiseKind: TypeAlias = Literal["gaussian", "masking"]


class Noise(nn.Module):
    """Noise on inputs in training, drawn anew for each batch; nothing in evaluation.

    ``"gaussian"``: ``x + amount * n`` with n standard normal. ``"masking"``: each number is 0 with chance
    ``amount``, and is else as it was (without the division that dropout has).

    Args:
        amount: a standard deviation of at least 0, or a chance in ``[0, 1)``.
        kind: of noise.

    Raises:
        OptionError: out of range.

    >>> Noise(0.3).eval()(torch.ones(2))
    tensor([1., 1.])

    Source: Vincent et al. 2008, 2010 (denoising autoencoders).
    """

    def __init__(self, amount: float, kind: NoiseKind = "gaussian") -> None:
        super().__init__()
        one_of("noise_kind", kind, ("gaussian", "masking"))
        most = float("inf") if kind == "gaussian" else 1.0
        if not is_number(amount) or not 0 <= amount < most:
            rule = "finite and at least 0" if kind == "gaussian" else "at least 0 and less than 1"
            raise OptionError(f"noise is {amount!r}, but must be {rule} where noise_kind is {kind!r}")
        self.amount, self.kind = float(amount), kind

    def forward(self, x: Tensor) -> Tensor:
        """Return the inputs with noise."""
        if not self.training or not self.amount:
            return x
        if self.kind == "gaussian":
            return x + self.amount * torch.randn_like(x)
        return F.dropout(x, self.amount, True) * (1 - self.amount)

    def extra_repr(self) -> str:
        """Say how much."""
        return f"{self.amount:g}, {self.kind}"


def reconstruction_error(outputs: Any, targets: Any = None) -> Tensor:
    """Return the mean square of what a reconstruction is off, over all numbers; targets of data don't count.

    >>> reconstruction_error({"logits": torch.ones(2, 3), "inputs": torch.zeros(2, 3)})
    tensor(1.)
    """
    difference: Tensor = outputs["logits"] - outputs["inputs"]
    return difference.square().mean()


class Autoencoder(nn.Module):
    """An encoder with a decoder on top; returns ``{"logits": decoder(encoder(noise(x))), "inputs": x}``.

    Args:
        encoder, decoder: any.
        noise: on what the encoder is given.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, noise: Noise) -> None:
        super().__init__()
        self.encoder, self.decoder, self.noise = encoder, decoder, noise

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the reconstruction and what is to be reconstructed."""
        _check_inputs(x)
        return _compared(self.decoder(self.encoder(self.noise(x))), x)


class _Between(nn.Module):
    """The same for a block that can only be run as a part of its model: from one cut to another."""

    def __init__(self, model: nn.Module, begin: str, end: str, decoder: nn.Module, noise: Noise) -> None:
        super().__init__()
        self.upto, self.decoder, self.noise = Upto(model, end), decoder, noise
        inner = inner_module(model, begin, "blocks")
        self._path = next(path for path, module in model.named_modules() if module is inner)

    @property
    def called_as(self) -> nn.Module:
        """The module that inputs are handed on to."""
        return self.upto.model

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Return the reconstruction and what is to be reconstructed."""
        change = _Change(self.noise)
        module = self.upto.model.get_submodule(self._path)
        handle = module.register_forward_pre_hook(change, with_kwargs=True)
        try:
            z = self.upto(*args, **kwargs)
        finally:
            handle.remove()
        assert change.value is not None
        return _compared(self.decoder(z), change.value)


class _Change:
    """A hook that keeps what a module is given, and gives it that with noise."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.value: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not args:
            name = next(iter(kwargs))
            self.value = kwargs[name].detach().clone()
            return args, {**kwargs, name: self.noise(kwargs[name])}
        self.value = args[0].detach().clone()
        return (self.noise(args[0]), *args[1:]), kwargs


def _check_inputs(x: Any) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        what = f"of type {x.dtype}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise DataError(f"inputs can be reconstructed where they are one tensor of fractions, not {what}")


def _compared(found: Any, wanted: Tensor) -> dict[str, Tensor]:
    if not isinstance(found, Tensor) or found.shape != wanted.shape:
        there = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ModelError(
            f"the decoder gives {there}, but {list(wanted.shape)} is to be reconstructed; let it give that"
        )
    return {"logits": found, "inputs": wanted}


@dataclass(frozen=True)
class _Reconstructs:
    """From a model to an autoencoder of its blocks ``first`` to ``last``, on the frozen ones before them."""

    chain: Chain
    first: int
    last: int
    noise: float
    kind: NoiseKind
    decoder: DecoderOf | None
    mirror: Mirror | None

    def __call__(self, model: nn.Module) -> nn.Module:
        blocks = self.chain.blocks[self.first : self.last + 1]
        features, wanted = blocks[-1].outputs, blocks[0].inputs
        if self.decoder is not None:
            decoder = self.decoder(features, wanted)
            if not isinstance(decoder, nn.Module):
                raise OptionError(
                    f"decoder gives {type(decoder).__name__}, not a torch.nn.Module; let it return one"
                )
        elif self.mirror is not None:
            decoder = self.mirror.build()
        else:
            decoder = linear_decoder(features, wanted)
        place = next(p for p in model.parameters() if p.is_floating_point())
        decoder, noise = decoder.to(place.device, place.dtype), Noise(self.noise, self.kind)
        parts = _parts(blocks)
        if parts is not None:
            trained = Autoencoder(part_of_chain(model, parts), decoder, noise)
            return Prefixed(self.chain.upto(model, self.first), trained) if self.first else trained
        if self.first:
            return _Between(model, blocks[0].name, self.chain.ends[self.last], decoder, noise)
        return Autoencoder(self.chain.upto(model, self.last + 1), decoder, noise)


def _parts(blocks: Sequence[Block]) -> list[str] | None:
    found: list[str] = []
    for block in blocks:
        if block.parts is None:
            return None
        found += block.parts
    return found


def unsupervised(
    model: nn.Module,
    example: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    by: Literal["whole", "layers"] = "whole",
    noise: float = 0.0,
    noise_kind: NoiseKind = "gaussian",
    decoder: DecoderOf | None = None,
    blocks: Sequence[str] | None = None,
    data: Any = GIVEN,
    validation: Any = GIVEN,
    name: str = "unsupervised",
) -> list[Stage]:
    """Write the stages of unsupervised pretraining: the model's blocks learn to keep what its inputs say.

    The loss is ``mean((decoder(f(noise(x))) - x)^2)``, with f the blocks, and no labels. ``"whole"``: one
    stage in which f is all blocks, up to the head. ``"layers"``: a stage for each block, in which x is the
    output of the frozen blocks before it. The decoder is dropped at the end of its stage; the head stays as
    drawn. A stage with labels, such as ``Stage(name="labels")``, is to follow.

    The decoder is the mirror image of blocks that are linear layers, convolutions, pooling and activations,
    one after another: transposed layers with ReLU between them, brought to the shapes that there were. Of
    other blocks it is a linear map.

    Args:
        model: any with a chain of blocks: see :func:`thalweg.stages.blocks.find_blocks`.
        example: a batch of its inputs, of two examples or more: one tensor of fractions.
        epochs, steps: how long each stage trains, one of both; neither: as given to ``fit``.
        by: ``"whole"`` or ``"layers"``.
        noise: on what is encoded, drawn anew in each step; see :class:`Noise`. 0 is none.
        noise_kind: ``"gaussian"`` or ``"masking"``.
        decoder: from the shapes of one example's features and of what is to be reconstructed to a decoder;
            ``None``: as said above.
        blocks: names of the modules that blocks begin with, in order; ``None``: found.
        data, validation: as for ``fit``, where there are more examples than those with labels; targets don't
            count. One tensor is inputs alone.
        name: of the stage, or what the names of the stages begin with.

    Returns:
        ``"unsupervised"``, or ``"unsupervised 1"``, ``"unsupervised 2"``, ...

    Raises:
        ModelError: there is no chain of blocks, or no decoder is made for it.
        DataError: inputs aren't one tensor of fractions.
        OptionError: a value out of range, a name that matches nothing.

    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 3))
    >>> stages = unsupervised(net, torch.ones(2, 4), epochs=5, noise=0.1)
    >>> stages[0].build(net).decoder
    Sequential(
      (0): Linear(in_features=6, out_features=8, bias=True)
      (1): ReLU()
      (2): Linear(in_features=8, out_features=4, bias=True)
    )

    Source: I8 (K); Vincent et al. 2010 (stacked denoising autoencoders).
    """
    one_of("by", by, ("whole", "layers"))
    Noise(noise, noise_kind)
    _check_inputs(example)
    chain = find_blocks(model, example, blocks)
    last = len(chain.blocks) - 1
    spans = [(0, last)] if by == "whole" else [(number, number) for number in range(last + 1)]
    stages = []
    for number, (begin, end) in enumerate(spans, 1):
        within = chain.blocks[begin : end + 1]
        build = _Reconstructs(
            chain, begin, end, noise, noise_kind, decoder,
            None if decoder is not None else mirror_of(model, chain, begin, end, example),
        )  # fmt: skip
        if decoder is None and build.mirror is None:
            check_linear(within[-1].outputs, within[0].inputs)
        stages.append(
            Stage(
                name=name if by == "whole" else f"{name} {number}",
                epochs=epochs,
                steps=steps,
                trains=tuple(dict.fromkeys(plain_name(own) for block in within for own in block.trains)),
                build=build,
                loss=reconstruction_error,
                validation_loss=None,
                metric=None,
                output=None,
                data=_paired(data),
                validation=_paired(validation),
                about={
                    "blocks": [block.name for block in chain.blocks], "by": by, "noise": noise,
                    "noise_kind": noise_kind,
                },
            )
        )  # fmt: skip
    return stages


def _paired(data: Any) -> Any:
    """Inputs alone with targets that nobody reads."""
    return (data, torch.zeros(len(data))) if isinstance(data, Tensor) else data
