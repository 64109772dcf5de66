"""The index of shards is read without running what somebody may have put into it."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint import metadata
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save

from thalweg.errors import RunDirectoryError
from thalweg.run.directory.writing import checksum, save_state
from thalweg.training import sharding
from thalweg.training.sharding import ShardFiles, are_sound, assembled

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
MARK = {"thalweg.sharded": "/a", "shape": [3], "dtype": "float64", "axis": 0}


def cpu_copy(folder: Path) -> dict[str, Any]:
    place = folder / "last.000001.shards"
    values = {"/a": torch.arange(3.0, dtype=torch.float64)}
    save(values, storage_writer=FileSystemWriter(place, single_file_per_rank=True), no_dist=True)
    files = {path.name: checksum(path) for path in place.iterdir()}
    return {"thalweg.shards": {"folder": place.name, "files": files}, "rest": {"x": [MARK, 1]}}


def test_shards_come_back(tmp_path: Path) -> None:
    state = cpu_copy(tmp_path)
    assert are_sound(state, tmp_path)
    found = assembled(state, tmp_path, None)
    assert found["x"][0].tolist() == [0.0, 1.0, 2.0]
    assert found["x"][1] == 1
    assert assembled({"no": "shards"}, tmp_path, None) == {"no": "shards"}


def test_damage_and_loss_are_recognised(tmp_path: Path) -> None:
    state = cpu_copy(tmp_path)
    file = next((tmp_path / "last.000001.shards").glob("__0*"))
    content = bytearray(file.read_bytes())
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert not are_sound(state, tmp_path)
    file.unlink()
    assert not are_sound(state, tmp_path)


class Evil:
    def __reduce__(self) -> Any:
        return os.mkdir, ("evil",)


def test_an_index_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = cpu_copy(tmp_path)
    (tmp_path / "last.000001.shards" / ".metadata").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(RunDirectoryError, match=r"no readable index \(it refers to posix.mkdir\)"):
        assembled(state, tmp_path, None)
    assert not (tmp_path / "evil").exists()


def test_an_index_that_is_none_makes_a_state_unsound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state = cpu_copy(tmp_path)
    index = tmp_path / "last.000001.shards" / ".metadata"
    for content in (pickle.dumps(Evil()), pickle.dumps({"a": 1}), b"", b"\x80\x04garbage"):
        index.write_bytes(content)
        # a stranger knows how checksums are made
        state["thalweg.shards"]["files"][".metadata"] = checksum(index)
        assert not are_sound(state, tmp_path)
    assert not (tmp_path / "evil").exists()


def test_shards_go_with_the_last_state_that_refers_to_them(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        (tmp_path / f"last.{count:06d}.shards").mkdir()
    for count in (1, 2):
        state = {"thalweg.shards": {"folder": f"last.{count:06d}.shards", "files": {}}, "rest": {}}
        save_state(tmp_path / "last", state)
    (tmp_path / "best.000001.0123456789abcdef.pt").write_bytes(b"")

    def there() -> list[str]:
        return sorted(path.name for path in tmp_path.glob("*.shards"))

    kept = ShardFiles(tmp_path)
    assert there() == ["last.000001.shards", "last.000002.shards"]
    # one process goes on
    kept.referred(save_state(tmp_path / "last", {"step": 3}))
    assert there() == ["last.000002.shards"]
    (tmp_path / "last.000004.shards").mkdir()
    kept.referred(save_state(tmp_path / "last", {"step": 4}), "last.000004.shards")
    assert there() == ["last.000004.shards"]


def test_a_checkpoint_leads_nowhere_else(tmp_path: Path) -> None:
    state = cpu_copy(tmp_path)
    state["thalweg.shards"]["folder"] = "../elsewhere"
    with pytest.raises(RunDirectoryError, match="outside of its folder"):
        are_sound(state, tmp_path)


class Reduced:
    """Pickled as an attribute of something."""

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name

    def __reduce__(self) -> Any:
        return getattr, (self.owner, self.name)


def test_an_attribute_in_an_index_is_a_member_of_an_enumeration_or_refused(tmp_path: Path) -> None:
    """Python 3.11.0 to 3.11.4 write members as attributes; of anything else that would give away its code."""
    read = metadata._MEM_FORMAT_ENCODING
    index = tmp_path / ".metadata"
    index.write_bytes(pickle.dumps(Reduced(read, "TORCH_PRESERVE_FORMAT")))
    # read, and then found to be no index
    with pytest.raises(RunDirectoryError, match=r"the index of the shards in .* is none"):
        sharding._index(tmp_path)
    for owner, name in ((read, "__init__"), (read, "mro"), (metadata.Metadata, "__init__")):
        index.write_bytes(pickle.dumps(Reduced(owner, name)))
        with pytest.raises(RunDirectoryError, match=rf"no readable index \(it refers to '{name}' of"):
            sharding._index(tmp_path)
