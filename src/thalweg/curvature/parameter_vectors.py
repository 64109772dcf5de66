"""Vectors of a model's trained parameters, in the forms in which people have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from thalweg.curvature.differentiation import outside_inference
from thalweg.curvature.vectors import Space, Vector
from thalweg.errors import ModelError, OptionError, nearest
from thalweg.runtimes.dtensors import is_dtensor

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

__all__ = ["ParameterVectors"]


class ParameterVectors:
    """Lists of tensors, dictionaries by name and flat tensors, as lists in the order of the parameters.

    Args:
        model: whose parameters that want a gradient count; a tied one counts once, by its first name.
        owner: what errors name.
        chosen: names of parameters, or of modules whose parameters count; None: all.

    Attributes:
        parameters: by name.
        size: of all of them together, n.

    Raises:
        ModelError: no parameter wants a gradient, or they lie on several devices.
        OptionError: a chosen name is neither a trained parameter nor a module that has one.
    """

    def __init__(self, model: nn.Module, owner: str, chosen: Sequence[str] | None = None) -> None:
        self._owner = owner
        self.parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if chosen is not None:
            self.parameters = _chosen(self.parameters, chosen, model, owner)
        self.size = sum(p.numel() for p in self.parameters.values())
        if not self.size:
            raise ModelError(
                f"{owner}: the model has no parameter with requires_grad=True, by which the loss could be "
                f"differentiated; unfreeze one"
            )
        devices = {p.device for p in self.parameters.values()}
        if len(devices) > 1:
            named = " and ".join(sorted(map(str, devices)))
            raise ModelError(f"{owner}: parameters lie on {named}; bring them to one device")
        (self.device,) = devices

    @property
    def leaves(self) -> Vector:
        """The parameters themselves."""
        return list(self.parameters.values())

    def take(self, v: Any) -> tuple[Vector, Callable[[Vector], Any]]:
        """Return a vector as a list in the types of the parameters, and what brings a list to its form.

        Raises:
            OptionError: names, number or shapes aren't those of the parameters.
        """
        if isinstance(v, Tensor):
            if tuple(v.shape) != (self.size,):
                raise OptionError(
                    f"{self._owner}: a flat vector has shape {tuple(v.shape)}, but there are {self.size} "
                    f"trained elements; give [{self.size}]"
                )
            return self.unflat(v), self.flat
        if isinstance(v, Mapping):
            for name in v:
                if name not in self.parameters:
                    raise OptionError(
                        f"{self._owner}: no trained parameter is called {name!r}; "
                        f"{nearest(str(name), self.parameters)}"
                    )
            missing = [name for name in self.parameters if name not in v]
            if missing:
                raise OptionError(f"{self._owner}: the vector lacks {missing[0]!r}; give a tensor for each")
            given = [v[name] for name in self.parameters]
            return self._fitting(given), lambda found: dict(zip(self.parameters, found, strict=True))
        return self._fitting(list(v)), list

    def _fitting(self, given: list[Any]) -> Vector:
        if len(given) != len(self.parameters):
            raise OptionError(
                f"{self._owner}: the vector has {len(given)} tensors, but {len(self.parameters)} parameters "
                f"are trained; give one for each"
            )
        for tensor, (name, p) in zip(given, self.parameters.items(), strict=True):
            if not isinstance(tensor, Tensor) or tensor.shape != p.shape:
                got = tuple(tensor.shape) if isinstance(tensor, Tensor) else type(tensor).__name__
                raise OptionError(
                    f"{self._owner}: {name!r} has shape {tuple(p.shape)}, but the vector's tensor for it is "
                    f"{got}; give the same shape"
                )
        return [
            outside_inference(tensor).detach().to(p)
            for tensor, p in zip(given, self.parameters.values(), strict=True)
        ]

    def flat(self, vector: Vector) -> Tensor:
        """Return a list side by side, ``[n]``, in the widest of its types."""
        dtype = Space().dtype(vector)
        return torch.cat([t.detach().reshape(-1).to(dtype) for t in vector])

    def unflat(self, flat: Tensor) -> Vector:
        """Return ``[n]`` as a list of tensors, in the types and on the device of the parameters."""
        flat = outside_inference(flat).detach().to(self.device)
        return Space().unravel(flat, [p.detach() for p in self.parameters.values()])

    def identity(self) -> Tensor:
        """Return the identity, ``[n, n]``."""
        return torch.eye(self.size, dtype=Space().dtype(self.leaves), device=self.device)

    # What a process has of a vector, side by side -----------------------------------------------------

    @property
    def sharded(self) -> bool:
        """Whether any parameter is spread over processes."""
        return any(is_dtensor(p) for p in self.parameters.values())

    def local(self, vector: Vector) -> Tensor:
        """Return what this process has of a vector side by side, in the widest type: all of it, alone."""
        return self.flat([t.to_local() if is_dtensor(t) else t for t in vector])

    def from_local(self, flat: Tensor) -> Vector:
        """Return a list of tensors of what :meth:`local` gave, spread as the parameters are."""
        if not self.sharded:
            return self.unflat(flat)
        mine = [_here(p) for p in self.parameters.values()]
        parts = Space().unravel(flat, mine)
        return [_spread(part, p) for part, p in zip(parts, self.parameters.values(), strict=True)]

    def local_of(self, whole: Tensor) -> Tensor:
        """Return what this process has of a flat vector ``[n]`` that all processes know."""
        if not self.sharded:
            return whole
        from torch.distributed.tensor import distribute_tensor

        kept, begin = [], 0
        for p in self.parameters.values():
            part = whole[begin : begin + p.numel()].reshape(p.shape)
            begin += p.numel()
            if is_dtensor(p):
                cut = distribute_tensor(part, p.device_mesh, p.placements, src_data_rank=None)
                part = cut.to_local()
            kept.append(part.reshape(-1))
        return torch.cat(kept)

    def dots(self, rows: Tensor, flat: Tensor) -> Tensor:
        """Return inner products of rows ``[m, local]`` with a local vector, over all processes."""
        if not self.sharded:
            return rows @ flat
        share = torch.cat(
            [torch.full((_here(p).numel(),), 1 / _copies(p, self._mesh()), dtype=flat.dtype)
             for p in self.parameters.values()]
        ).to(flat.device)  # fmt: skip
        found = rows @ (flat * share)
        for group in self._mesh().get_all_groups():
            torch.distributed.all_reduce(found, group=group)
        return found

    def length(self, flat: Tensor) -> float:
        """Return the Euclidean norm of a local vector, over all processes."""
        return float(self.dots(flat, flat).clamp(min=0).sqrt())

    def _mesh(self) -> Any:
        meshes = {p.device_mesh for p in self.parameters.values() if is_dtensor(p)}
        if len(meshes) > 1:
            raise OptionError(f"{self._owner}: parameters are spread over several meshes; use one for all")
        (mesh,) = meshes
        return mesh


def _chosen(
    trained: dict[str, nn.Parameter], names: Sequence[str], model: nn.Module, owner: str
) -> dict[str, nn.Parameter]:
    """The parameters that are called so, or lie within a module of that name, in the model's order."""
    if isinstance(names, str):
        names = [names]
    if not names:
        raise OptionError(f"{owner}: no parameter is chosen; name one, as {next(iter(trained), 'weight')!r}")
    kept = set()
    for name in names:
        # a tied parameter goes by its first name, but is asked for by any
        asked = {
            id(p)
            for full, p in model.named_parameters(remove_duplicate=False)
            if full == name or full.startswith(f"{name}.")
        }
        found = {full for full, p in trained.items() if id(p) in asked}
        if not found:
            modules = [part for part, _ in model.named_modules() if part]
            raise OptionError(
                f"{owner}: no trained parameter, and no module with one, is called {name!r}; "
                f"{nearest(str(name), [*trained, *modules])}"
            )
        kept |= found
    return {name: p for name, p in trained.items() if name in kept}


def _here(p: Tensor) -> Tensor:
    return p.to_local().detach() if is_dtensor(p) else p.detach()


def _spread(part: Tensor, p: Tensor) -> Tensor:
    if not is_dtensor(p):
        return part
    from torch.distributed.tensor import DTensor

    made: DTensor = DTensor.from_local(
        part, p.device_mesh, p.placements, run_check=False, shape=p.shape, stride=p.stride()
    )
    return made


def _copies(p: Tensor, mesh: Any) -> int:
    """How many processes have the same element."""
    if not is_dtensor(p):
        return int(mesh.size())
    copies = 1
    for size, place in zip(mesh.shape, p.placements, strict=True):
        copies *= 1 if place.is_shard() else int(size)
    return copies
