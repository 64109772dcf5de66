"""Checkpoints of sharded states: each process writes its shards, and damage is recognised before reading."""

from __future__ import annotations

import contextlib
import enum
import errno
import pickle
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import empty as empty_sharded

from thalweg.errors import RunDirectoryError, option
from thalweg.run.directory.directory import RunDirectory
from thalweg.run.directory.writing import behind, checksum
from thalweg.training.backend import Backend

__all__ = ["ShardFiles", "Shards", "are_sound", "assembled", "parted", "unsharded"]

_MARK = "thalweg.sharded"
_FILES = "thalweg.shards"
_INDEX = "torch.distributed.checkpoint.metadata"


def parted(state: Any) -> tuple[Any, dict[str, DTensor]]:
    """Return a state without its sharded tensors, with marks in their places, and these by their marks.

    >>> parted({"a": (1, torch.zeros(2)), "b": [None]})
    ({'a': (1, tensor([0., 0.])), 'b': [None]}, {})
    """
    found: dict[str, DTensor] = {}

    def look(value: Any, path: str) -> Any:
        if isinstance(value, DTensor):
            found[path] = value
            axes = [p.dim for p in value.placements if isinstance(p, Shard)]
            return {
                _MARK: path,
                "shape": list(value.shape),
                "dtype": str(value.dtype).removeprefix("torch."),
                "axis": axes[0] if axes else None,
            }
        if isinstance(value, Mapping):
            return {key: look(part, f"{path}/{key}") for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(look(part, f"{path}/{number}") for number, part in enumerate(value))
        return value

    return look(state, ""), found


def are_sound(state: Any, folder: Path) -> bool:
    """Whether all shards that a state refers to are there and undamaged, and their index is one."""
    if not isinstance(state, dict) or _FILES not in state:
        return True
    place = folder / _plain(state[_FILES]["folder"])
    files: dict[str, str] = state[_FILES]["files"]
    if any(checksum(place / _plain(name)) != digest for name, digest in files.items()):
        return False
    try:
        _index(place)
    except RunDirectoryError:
        return False
    return True


def unsharded(state: Any) -> Any:
    """Return what a state holds beside its shards, which aren't read."""
    return state["rest"] if isinstance(state, dict) and _FILES in state else state


def assembled(state: Any, folder: Path, mesh: DeviceMesh | None) -> Any:
    """Return a state whole: its shards are read, onto a mesh, or as plain tensors where there is none.

    Args:
        state: as it was read.
        folder: of checkpoints.
        mesh: of the processes that shard; they may be others than wrote, in number too.
    """
    if not isinstance(state, dict) or _FILES not in state:
        return state
    found: dict[str, Tensor] = {}

    def room(value: Any) -> Any:
        if isinstance(value, dict) and _MARK in value:
            shape, dtype = value["shape"], getattr(torch, value["dtype"])
            if mesh is None or value["axis"] is None:
                made = torch.empty(shape, dtype=dtype)
            else:
                made = empty_sharded(*shape, dtype=dtype, device_mesh=mesh, placements=[Shard(value["axis"])])
            found[value[_MARK]] = made
            return made
        if isinstance(value, dict):
            return {key: room(part) for key, part in value.items()}
        if isinstance(value, (list, tuple)):
            return type(value)(room(part) for part in value)
        return value

    whole = room(state["rest"])
    if found:
        reader = _Reader(folder / _plain(state[_FILES]["folder"]))
        with warnings.catch_warnings():
            # one process reads all, as it is told to
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            try:
                load(found, storage_reader=reader, no_dist=mesh is None)
            except CheckpointException as error:
                problem = next(iter(error.failures.values()))[0]
                if isinstance(problem, RunDirectoryError):
                    raise problem from error
                raise RunDirectoryError(f"the shards in {reader.path} can't be read ({problem})") from error
    return whole


class Shards:
    """Writes states of which every process has a part; called in the same order by all, from a thread each.

    Args:
        backend: whose processes these are.
        directory: of the run; process 0 alone has it.
        folder: of checkpoints.
        keep: how many of each name stay.
    """

    def __init__(self, backend: Backend, directory: RunDirectory | None, folder: Path, *, keep: int) -> None:
        self._rank, self._directory, self._folder, self._keep = backend.rank, directory, folder, keep
        # what a thread writes must not come between what the loop exchanges
        self._group = dist.new_group(backend="gloo")
        last = 0
        self._kept: ShardFiles | None = None
        if directory is not None:
            last = max([0, *(int(path.name.split(".")[-2]) for path in folder.glob("*.shards"))])
            self._kept = ShardFiles(folder)
        self._count = backend.broadcast(last)

    def write(self, name: str, state: Any) -> None:
        """Write a state.

        Raises:
            RunDirectoryError: a process couldn't.
        """
        self._count += 1
        place = self._folder / f"{name}.{self._count:06d}.shards"
        rest, sharded = parted(state)
        problem = None
        try:
            save(
                dict(sharded),
                storage_writer=_Writer(place, single_file_per_rank=True, thread_count=1),
                process_group=self._group,
            )
        except CheckpointException as error:
            said = next(iter(error.failures.values()))[0]
            reason = getattr(said, "strerror", None) or str(said)
            problem = reason[:1].lower() + reason[1:]
        except OSError as error:
            problem = str(error.strerror or error)
        if problem is not None:
            if self._directory is not None:
                # what is there of it only takes room
                shutil.rmtree(place, ignore_errors=True)
            raise RunDirectoryError(
                f"{place} can't be written ({problem}); the earlier version is intact: free some space and "
                f"run again with {option('resume', True)}"
            )
        mine = list(place.glob(f"__{self._rank}_*"))
        if self._rank == 0:
            mine.append(place / ".metadata")
        digests = {path.name: checksum(path) for path in mine}
        parts: list[Any] | None = [None] * dist.get_world_size() if self._rank == 0 else None
        dist.gather_object(digests, parts, dst=0, group=self._group)
        if self._directory is None or self._kept is None or parts is None:
            return
        files = {key: value for part in parts for key, value in part.items()}
        whole = {_FILES: {"folder": place.name, "files": files}, "rest": rest}
        self._kept.referred(self._directory.save_checkpoint(name, whole, keep=self._keep), place.name)


class ShardFiles:
    """Knows which state refers to which shards, and removes those that none does.

    Args:
        folder: of checkpoints; what a kill left behind in it is removed at once.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[Path, str] = {}
        left = {path.name for path in folder.glob("*.shards")}
        for path in folder.glob("*.pt") if left else ():
            # a damaged one may be anything, and raise anything
            with contextlib.suppress(Exception):
                state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
                self._shards[path] = state[_FILES]["folder"]
        self._remove(left - set(self._shards.values()))

    def referred(self, state: Path, shards: str | None = None) -> None:
        """Take note of a new state, and of the shards that it refers to; older ones may have gone for it."""
        gone = {self._shards.pop(path) for path in list(self._shards) if not path.exists()}
        if shards is not None:
            self._shards[state] = shards
        self._remove(gone - set(self._shards.values()))

    def _remove(self, names: set[str]) -> None:
        for name in names:
            shutil.rmtree(self._folder / _plain(name), ignore_errors=True)


class _Writer(FileSystemWriter):
    """Writes shards, and says why where it can't."""

    def prepare_local_plan(self, *args: Any, **kwargs: Any) -> Any:
        """Make a folder for the shards, but not those above it: a run directory that is gone stays so."""
        folder = Path(self.path).parent
        if not folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(folder))
        return super().prepare_local_plan(*args, **kwargs)

    def write_data(self, *args: Any, **kwargs: Any) -> Any:
        """Write this process's shards."""
        try:
            return super().write_data(*args, **kwargs)
        except RuntimeError as problem:
            raise behind(problem) from None


class _Reader(FileSystemReader):
    """Reads shards without running what a stranger may have put into their index."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """Read the index: names, shapes, and where they lie."""
        return _index(Path(self.path))


def _index(place: Path) -> Metadata:
    """What an index of shards says."""
    try:
        with (place / ".metadata").open("rb") as file:
            found = _Plain(file).load()
    except Exception as problem:
        # what a stranger has written may raise anything
        raise RunDirectoryError(f"the shards in {place} have no readable index ({problem})") from problem
    if not isinstance(found, Metadata):
        raise RunDirectoryError(f"the index of the shards in {place} is none")
    for name, kind in found.state_dict_metadata.items():
        if not isinstance(kind, TensorStorageMetadata):
            raise RunDirectoryError(f"the shards in {place} hold {name!r}, which is no tensor")
    return found


class _Plain(pickle.Unpickler):
    """Makes what an index is made of, and nothing else."""

    _CLASSES: ClassVar[dict[str, set[str]]] = {
        "torch.distributed.checkpoint.filesystem": {"_StorageInfo", "_StoragePrefix"},
        "torch": {"Size", "strided"},
        "torch.serialization": {"_get_layout"},
        "pathlib": {"PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"},
        "pathlib._local": {"PosixPath", "WindowsPath"},
        "collections": {"OrderedDict"},
        "builtins": {"set", "frozenset"},
    }

    def find_class(self, module: str, name: str) -> Any:
        """Find a class that is known to be harmless."""
        allowed = self._CLASSES.get(module)
        if (module, name) == ("builtins", "getattr"):
            # how some versions of Python write a member of an enumeration
            return _member
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if module == _INDEX and "." not in name:
            found = super().find_class(module, name)
            # not what that module has imported
            if getattr(found, "__module__", None) == module:
                return found
        if allowed is None or name not in allowed:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return super().find_class(module, name)


def _member(kind: Any, name: str) -> enum.Enum:
    """A member of an enumeration by its name, and nothing else of anything."""
    if not isinstance(kind, enum.EnumType) or name not in kind.__members__:
        raise pickle.UnpicklingError(f"it refers to {name!r} of {kind!r}")
    member: enum.Enum = kind.__members__[name]
    return member


def _plain(name: str) -> str:
    """A file's name, which leads nowhere else."""
    if Path(name).name != name:
        raise RunDirectoryError(f"a checkpoint refers to {name!r}, outside of its folder")
    return name
