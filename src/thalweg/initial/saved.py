"""A start from a saved model: what fits is taken, what doesn't is said, and nothing of a file is run."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from thalweg.errors import ModelError, OptionError
from thalweg.initial.weights import write

__all__ = ["Source", "Taken", "from_saved", "read_tensors", "tensors_of"]

Source: TypeAlias = str | Path | Mapping[str, Tensor] | nn.Module
"""Saved weights: a run directory, a file, tensors by name, or a module that has them."""


@dataclass(frozen=True)
class Taken:
    """What came from a saved model.

    Args:
        taken: parameters and buffers that were filled.
        missing: those of the model that aren't in the file, which keep what they held.
        misfits: name to why it wasn't taken although both have it: the shapes, or what it holds.
        unused: names in the file that the model hasn't.
    """

    taken: tuple[str, ...]
    missing: tuple[str, ...]
    misfits: dict[str, str]
    unused: tuple[str, ...]


# what DataParallel, DDP and torch.compile put before names
_WRAPPINGS = ("module.", "_orig_mod.")
# where training scripts put weights inside of a checkpoint
_PLACES = ("state_dict", "model_state_dict", "model", "weights", "params")


def from_saved(
    module: nn.Module,
    source: Source,
    *,
    only: str = "*",
    rename: Mapping[str, str] | None = None,
    finite: bool = True,
) -> Taken:
    """Fill a module from a saved one, by name and shape, in place.

    Args:
        module: any; its dtype and device stay.
        source: as for :func:`tensors_of`.
        only: which parameters and buffers of the module, by a pattern of their names, such as ``"body.*"``.
        rename: beginning of names in the file to what they begin with in the module. The longest counts.
        finite: leave out what holds numbers that aren't finite; else it is taken as it is.

    Returns:
        What was taken, and what was left on both sides.

    Raises:
        OptionError: there is no such file.
        ModelError: the file is damaged, holds more than tensors, or nothing in it fits.

    >>> big = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 10))
    >>> small = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> result = from_saved(small, big.state_dict())
    >>> result.taken, result.misfits["2.weight"]
    (('0.weight', '0.bias'), 'it is [10, 8] in the file and [3, 8] here')

    Source: I8 (K).
    """
    saved = tensors_of(source, rename)
    own = {name: tensor for name, tensor in _tensors(module).items() if fnmatchcase(name, only)}
    taken: list[str] = []
    misfits: dict[str, str] = {}
    known = {name: name if name in saved else _unwrapped(name) for name in own}
    for name, target in own.items():
        if known[name] not in saved:
            continue
        value = saved[known[name]]
        if value.shape != target.shape:
            misfits[name] = f"it is {list(value.shape)} in the file and {list(target.shape)} here"
        elif value.is_floating_point() != target.is_floating_point():
            misfits[name] = f"it is {value.dtype} in the file and {target.dtype} here"
        elif finite and value.is_floating_point() and not torch.isfinite(value).all():
            misfits[name] = "it holds numbers that aren't finite"
        else:
            write(target, value.to(target.device))
            taken.append(name)
    unused = tuple(name for name in saved if name not in set(known.values()))
    if not taken:
        raise ModelError(
            f"nothing of the saved model fits: it has {_some(saved)}, the module has {_some(own)}; say by "
            "rename which names belong together"
        )
    return Taken(tuple(taken), tuple(name for name in own if known[name] not in saved), misfits, unused)


def tensors_of(source: Source, rename: Mapping[str, str] | None = None) -> dict[str, Tensor]:
    """Return the tensors of a saved model by plain name: without what DDP or ``torch.compile`` put before it.

    Args:
        source: the directory of a finished training; a ``.safetensors`` file, or a file of ``torch.save``
            (read as tensors only, so that nothing in it can run); tensors by name; or a module.
        rename: as for :func:`from_saved`.

    Raises:
        OptionError: there is no such file or directory, or the source is something else.
        ModelError: what is there is damaged, or holds more than tensors.

    >>> list(tensors_of(nn.Linear(2, 1), {"": "head."}))
    ['head.weight', 'head.bias']
    """
    if isinstance(source, (str, Path)):
        given = read_tensors(source)
    else:
        state = source.state_dict() if isinstance(source, nn.Module) else source
        if not _all_tensors(state):
            raise OptionError(
                f"the source of saved weights is {type(source).__name__}; give the directory of a finished "
                "training, a file, tensors by name as of state_dict(), or a module"
            )
        starts = tuple(start for start in rename or () if start)
        given = {
            name if starts and name.startswith(starts) else _unwrapped(name): tensor
            for name, tensor in state.items()
        }
    return {_renamed(name, rename or {}): tensor for name, tensor in given.items()}


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read named tensors from a file, to the CPU, without running anything that it holds.

    Args:
        path: a ``.safetensors`` file, or one of ``torch.save`` with tensors by name, at its top or under one
            of the usual names (``state_dict``, ``model``); or the directory of a finished training, for its
            ``weights.safetensors``.

    Raises:
        OptionError: there is no such file.
        ModelError: the file is damaged or holds something else.
    """
    path = Path(path)
    if path.is_dir():
        folder, path = path, path / "weights.safetensors"
        if not path.is_file():
            member = folder / "member-1.safetensors"
            raise OptionError(
                f"{str(folder)!r} holds an ensemble; give the weights of one of its members, {str(member)!r}"
                if member.is_file()
                else f"there is no weights.safetensors in {str(folder)!r}; give the directory of a finished "
                "training, or a file with saved weights"
            )
    if not path.is_file():
        raise OptionError(
            f"there is no file {str(path)!r} with saved weights; give the directory of a finished training, "
            "or a file of weights"
        )
    try:
        if path.suffix == ".safetensors":
            content: object = safetensors.torch.load_file(path)
        else:
            with warnings.catch_warnings():
                # torch warns of other pickle protocols before it refuses or reads them
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{str(path)!r} is damaged or holds more than tensors, which could run code: save the model's "
            "state_dict() instead"
        ) from error
    except (
        EOFError,
        KeyError,
        OSError,
        RuntimeError,
        ValueError,
        safetensors.SafetensorError,
        zipfile.BadZipFile,
    ) as error:
        raise ModelError(f"{str(path)!r} can't be read as saved weights: {_first_line(error)}") from error
    if isinstance(content, Mapping) and not _all_tensors(content):
        content = next((content[place] for place in _PLACES if _all_tensors(content.get(place))), None)
    if not isinstance(content, Mapping) or not _all_tensors(content):
        raise ModelError(f"{str(path)!r} holds no tensors by name: save the model's state_dict()")
    return {_unwrapped(name): tensor for name, tensor in content.items()}


def _all_tensors(content: object) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items())
    )


def _unwrapped(name: str) -> str:
    while name.startswith(_WRAPPINGS):
        name = name.partition(".")[2]
    # of a part that was compiled
    return name.replace("._orig_mod.", ".")


def _renamed(name: str, rename: Mapping[str, str]) -> str:
    start = max((start for start in rename if name.startswith(start)), key=len, default=None)
    return name if start is None else rename[start] + name[len(start) :]


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers, under all of their names, as ``state_dict`` has them."""
    state = module.state_dict(keep_vars=True)
    return {name: value for name, value in state.items() if isinstance(value, Tensor)}


def _some(names: Mapping[str, object], limit: int = 3) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown or "no tensors"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
