"""Greedy supervised pretraining: one block at a time, then all together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from thalweg.errors import ModelError, OptionError
from thalweg.settings.tables import MOST, one_of, whole_number
from thalweg.stages.blocks import Chain, find_blocks, part_of_chain
from thalweg.stages.prefixed import Headed, HeadOf, Prefixed, head_for
from thalweg.stages.raw_input import join_raw_input
from thalweg.stages.stage import Stage

__all__ = ["greedy"]


@dataclass(frozen=True)
class _WithHead:
    """From a model to its block ``number``, on the frozen ones before it, with a temporary head on top."""

    chain: Chain
    number: int
    outputs: int
    squeezed: bool
    make_head: HeadOf | None

    def __call__(self, model: nn.Module) -> nn.Module:
        block = self.chain.blocks[self.number]
        head: nn.Module
        if self.make_head is None:
            head = head_for(block.outputs, self.outputs, channels_first=block.channels_first, like=model)
        else:
            head = self.make_head(block.outputs, self.outputs)
            if not isinstance(head, nn.Module):
                raise OptionError(
                    f"make_head gives {type(head).__name__}, not a torch.nn.Module; let it return one"
                )
        if self.squeezed:
            head = nn.Sequential(head, nn.Flatten(0))
        if block.parts is None:
            return Headed(self.chain.upto(model, self.number + 1), head)
        trained = Headed(part_of_chain(model, block.parts), head)
        return Prefixed(self.chain.upto(model, self.number), trained) if self.number else trained


@dataclass(frozen=True)
class _WithOwnHead:
    """From a model to its last block and its own head, on the frozen blocks before them."""

    chain: Chain

    def __call__(self, model: nn.Module) -> nn.Module:
        before = len(self.chain.blocks) - 1
        last, head = self.chain.blocks[-1].parts, self.chain.head.parts
        if not before or last is None or head is None:
            return model
        return Prefixed(self.chain.upto(model, before), part_of_chain(model, [*last, *head]))


def greedy(
    model: nn.Module,
    example: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    outputs: int | None = None,
    raw_input: bool = False,
    head: Literal["keep", "new"] = "keep",
    make_head: HeadOf | None = None,
    blocks: Sequence[str] | None = None,
    joint: bool | int = True,
    name: str = "greedy",
) -> list[Stage]:
    """Write the stages of greedy supervised pretraining: block by block on labels, then all together.

    In stage k, block k is trained on the output of block k - 1, with a temporary head on top:
    ``head_k(f_k(h_(k-1)))``, where ``h_(k-1) = f_(k-1)(...f_1(x))`` is frozen: no gradient, no decay, and
    batch norms and dropout in evaluation mode. Each stage has a new head, which is dropped at its end. Where
    the model does nothing between two blocks but hand a tensor on, ``h_(k-1)`` may be computed once and kept;
    else the frozen blocks are run in each step, without gradients.

    Args:
        model: any with a chain of blocks: see :func:`thalweg.stages.blocks.find_blocks`.
        example: a batch of its inputs, of two examples or more.
        epochs, steps: how long each stage trains, one of both; neither: as given to ``fit``.
        outputs: how many numbers a temporary head gives; ``None``: as many as the model.
        raw_input: each block after the first is given the raw input too, by a linear map that is
            trained with it. This changes the model, at once and in place, and the trained model has these
            maps: see :func:`thalweg.stages.raw_input.join_raw_input`. Frozen blocks are then run in each
            step.
        head: ``"keep"``: the last block is trained with the model's own head, which goes on with what it has
            learnt; ``"new"``: it has a temporary one too, and the model's own is as drawn when all train.
        make_head: from the shape of one example's features and the number of outputs to a temporary head;
            ``None``: :func:`thalweg.stages.prefixed.head_for`.
        blocks: names of the modules that blocks begin with, in order; ``None``: found.
        joint: whether a last stage trains everything together; a number: for so many epochs, or steps where
            these are given.
        name: what the names of the stages begin with.

    Returns:
        ``"greedy 1"``, ``"greedy 2"``, ..., ``"greedy joint"``.

    Raises:
        ModelError: there is no chain of blocks, or no head fits.
        OptionError: a value out of range, a name that matches nothing.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> [(stage.name, stage.trains) for stage in greedy(net, torch.ones(2, 4), epochs=5)]
    [('greedy 1', ('0',)), ('greedy 2', ('2', '4')), ('greedy joint', None)]

    Source: P1 (N, U): each added hidden layer as part of a shallow supervised MLP on the output of the one
    before (Bengio et al. 2007). Deviation: blocks of any kind, not layers alone.
    """
    one_of("head", head, ("keep", "new"))
    if raw_input:
        blocks = join_raw_input(model, example, blocks)
    chain = find_blocks(model, example, blocks)
    squeezed = outputs is None and chain.head.outputs == ()
    if outputs is None:
        if len(chain.head.outputs) > 1 and make_head is None:
            raise ModelError(
                f"the model gives {list(chain.head.outputs)} for an example, for which no temporary head is "
                "made; give make_head, a function from the shape of the features and the number of outputs "
                "to a head"
            )
        outputs = (chain.head.outputs or (1,))[0]
    about = {"blocks": [block.name for block in chain.blocks], "head": head, "raw_input": raw_input}
    stages = [
        Stage(
            name=f"{name} {number + 1}",
            epochs=epochs,
            steps=steps,
            trains=block.trains,
            build=_WithHead(chain, number, outputs, squeezed, make_head),
            about={**about, "block": number + 1},
        )
        for number, block in enumerate(chain.blocks)
    ]
    if head == "keep":
        last = chain.blocks[-1]
        stages[-1] = Stage(
            name=stages[-1].name,
            epochs=epochs,
            steps=steps,
            trains=(*last.trains, *chain.head.trains),
            build=_WithOwnHead(chain),
            about=stages[-1].about,
        )
    if joint is not False:
        if joint is not True:
            long = whole_number("joint", joint, most=MOST.get("epochs" if steps is None else "steps"))
            epochs, steps = (long, None) if steps is None else (None, long)
        stages.append(Stage(name=f"{name} joint", epochs=epochs, steps=steps, about=about))
    return stages
