"""Files written whole, states with a checksum, and what the environment says."""

import getpass
import json
import os
import platform
import resource
import signal
import socket

import pytest
import torch

import thalweg
from thalweg.errors import RunDirectoryError
from thalweg.racing.results import MachineInfo
from thalweg.run.directory import drop_state, environment, load_state, save_state, write_whole
from thalweg.run.directory.writing import as_toml


def test_whole_or_not_at_all(tmp_path):
    path = tmp_path / "file"
    assert write_whole(path, b"one") == path

    def breaks(file):
        file.write(b"half of tw")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, breaks)
    assert path.read_bytes() == b"one"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    write_whole(path, b"two")
    assert path.read_bytes() == b"two"


def test_a_missing_folder_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="No such file"):
        write_whole(tmp_path / "nowhere" / "file", b"")


def test_two_newest_states_are_kept(tmp_path):
    stem = tmp_path / "deep" / "a.model"
    for step in range(12):
        save_state(stem, {"step": step})
        assert load_state(stem) == {"step": step}
    names = sorted(p.name for p in stem.parent.iterdir())
    assert [name.split(".")[2] for name in names] == ["000011", "000012"]


def test_a_full_disk_is_an_os_error_wherever_it_is_met(tmp_path):
    state = {"large": torch.randn(3000), "small": [torch.randn(50) for _ in range(30)]}
    size = save_state(tmp_path / "whole", state).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    heard = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    refused = 0
    try:
        for room in range(1, size, 509):
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
            with pytest.raises(OSError, match="too large"):
                save_state(tmp_path / "cut", state)
            refused += 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, heard)
    assert refused > 40
    assert [file.name.split(".")[0] for file in tmp_path.iterdir()] == ["whole"]


def test_names_do_not_mix(tmp_path):
    save_state(tmp_path / "a", 1)
    save_state(tmp_path / "ab", 2)
    save_state(tmp_path / "a.b", 3)
    assert [load_state(tmp_path / name) for name in ("a", "ab", "a.b", "b")] == [1, 2, 3, None]
    drop_state(tmp_path / "a")
    assert [load_state(tmp_path / name) for name in ("a", "ab", "a.b")] == [None, 2, 3]


@pytest.mark.parametrize(
    "damage", [lambda b: b[:-1], lambda b: b"", lambda b: b[:50] + bytes([b[50] ^ 1]) + b[51:]]
)
def test_damage_is_recognised(tmp_path, damage):
    stem = tmp_path / "model"
    first, second = save_state(stem, {"step": 1}), save_state(stem, {"step": 2})
    second.write_bytes(damage(second.read_bytes()))
    told = []
    assert load_state(stem, told.append) == {"step": 1}
    assert told == [second]
    third = save_state(stem, {"step": 3})
    assert load_state(stem) == {"step": 3}
    third.write_bytes(damage(third.read_bytes()))
    first.unlink(missing_ok=True)
    with pytest.raises(RunDirectoryError, match="is damaged, and so is any before it; delete"):
        load_state(stem)


class Evil:
    def __reduce__(self):
        return (os.mkdir, ("evil",))


def test_a_state_cannot_run_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_state(tmp_path / "model", {"x": 1})
    save_state(tmp_path / "model", {"x": Evil()})
    assert load_state(tmp_path / "model") == {"x": 1}
    save_state(tmp_path / "other", {"x": Evil()})
    with pytest.raises(RunDirectoryError, match="is damaged"):
        load_state(tmp_path / "other")
    assert not (tmp_path / "evil").exists()


def test_bits_come_back(tmp_path):
    state = {
        "w": torch.randn(5, dtype=torch.float64),
        "nan": torch.tensor([float("nan")]),
        "lanes": torch.arange(3),
    }
    save_state(tmp_path / "s", state)
    back = load_state(tmp_path / "s")
    assert all(back[key].numpy().tobytes() == state[key].numpy().tobytes() for key in state)


def test_environment_is_machine_info_and_private_about_people():
    described = environment()
    info = MachineInfo(**described)
    assert info.versions["thalweg"] == thalweg.__version__
    assert info.versions["python"] == platform.python_version()
    assert torch.__version__.startswith(info.versions["torch"].split("+")[0])
    assert info.cores >= 1
    assert info.memory_gib > 0
    text = json.dumps(described)
    assert socket.gethostname() not in text
    assert os.path.expanduser("~") not in text
    user = getpass.getuser()
    assert user not in text or user in ("root", "python", "torch")


def test_toml_has_no_word_for_nothing():
    assert as_toml({"a": {"b": 1, "c": None}}) == b"[a]\nb = 1\n"
