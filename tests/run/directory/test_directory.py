"""The run directory: whole or not at all, held by one, and taken up after any kill."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.errors import RunDirectoryError
from thalweg.run.directory import RunDirectory, parts

CONFIG = {
    "model": "mlp:8",
    "lr": 0.1,
    "goal": None,
    "optimizers": ["adam", "sgd"],
    "space": {"adam.lr": (1e-4, 1e-1)},
}


def contents(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.fixture
def run(tmp_path):
    with RunDirectory.create(tmp_path / "run", CONFIG) as run:
        yield run


def test_created_whole(run, tmp_path):
    assert contents(tmp_path) == [
        "run",
        "run/.lock",
        "run/checkpoints",
        "run/checkpoints/run_id",
        "run/config.toml",
        "run/environment.json",
        "run/events.jsonl",
    ]
    assert run.config() == {
        "model": "mlp:8",
        "lr": 0.1,
        "optimizers": ["adam", "sgd"],
        "space": {"adam.lr": [1e-4, 1e-1]},
    }
    assert run.events() == []
    assert (run.path.stat().st_mode & 0o777) == 0o777 & ~parts.umask()
    # whoever may write the directory may lock it
    assert ((run.path / ".lock").stat().st_mode & 0o777) == 0o666 & ~parts.umask()


def test_folders_above_are_made_and_an_empty_one_is_taken(tmp_path):
    RunDirectory.create(tmp_path / "a" / "b", {}).close()
    (tmp_path / "empty").mkdir()
    RunDirectory.create(tmp_path / "empty", {"x": 1}).close()
    assert RunDirectory.read(tmp_path / "empty").config() == {"x": 1}


def test_refused_when_it_exists(tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    with pytest.raises(
        RunDirectoryError, match=r"full exists already and holds other things than a run; give"
    ):
        RunDirectory.create(tmp_path / "full", {})
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="is a file"):
        RunDirectory.create(tmp_path / "file", {})
    assert contents(tmp_path) == ["file", "full", "full/precious"]


def test_refused_when_it_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunDirectoryError, match="can't be made") as caught:
        RunDirectory.create(tmp_path / "file" / "run", {})
    assert len(str(caught.value).splitlines()) == 1
    assert contents(tmp_path) == ["file"]


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_refused_without_permission(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(RunDirectoryError, match="permission denied"):
        RunDirectory.create(tmp_path / "closed" / "run", {})


def test_nothing_is_left_when_creating_fails(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(parts, "write_whole", full)
    with pytest.raises(RunDirectoryError, match="no space left on device"):
        RunDirectory.create(tmp_path / "run", {})
    assert contents(tmp_path) == []


def test_somebody_was_faster(tmp_path, monkeypatch):
    real = parts.as_toml

    def meanwhile(config):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").touch()
        return real(config)

    monkeypatch.setattr(parts, "as_toml", meanwhile)
    with pytest.raises(RunDirectoryError, match="exists already"):
        RunDirectory.create(tmp_path / "run", {})
    assert contents(tmp_path) == ["run", "run/theirs"]


def test_events(run):
    run.append(
        {"event": "a", "loss": math.nan, "list": [math.inf, np.float32(0.5), np.arange(2)], "path": Path("x")}
    )
    run.append({"event": "b", "text": "ünï\n", "n": torch.tensor(3)})
    expected = [
        {"event": "a", "loss": None, "list": [None, 0.5, [0, 1]], "path": "x"},
        {"event": "b", "text": "ünï\n", "n": 3},
    ]
    assert run.events() == expected
    lines = (run.path / "events.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == expected


def test_what_cannot_be_written_is_our_mistake(run):
    with pytest.raises(TypeError, match="object can't be written"):
        run.append({"x": object()})
    assert run.events() == []


@pytest.mark.parametrize(
    "torn", [b'{"event": "c"', b"{", b'{"event": "c"}', b"\x00" * 9, b"\x00\x00\n", b"[1]\n", b"\xff\r"]
)
def test_a_torn_last_line_is_dropped(run, torn):
    run.append({"event": "a"})
    run.append({"event": "b"})
    run.close()
    events = run.path / "events.jsonl"
    whole = events.read_bytes()
    events.write_bytes(whole + torn)
    assert len(RunDirectory.read(run.path).events()) == 2
    assert events.read_bytes() == whole + torn
    with RunDirectory.resume(run.path) as again:
        assert events.read_bytes() == whole
        again.append({"event": "c"})
        assert [event["event"] for event in again.events()] == ["a", "b", "c"]


def test_every_cut_is_survived(run):
    for number in range(4):
        run.append({"event": "x", "number": number, "text": "ü"})
    run.close()
    events = run.path / "events.jsonl"
    whole = events.read_bytes()
    for cut in range(len(whole) + 1):
        events.write_bytes(whole[:cut])
        with RunDirectory.resume(run.path) as again:
            assert again.events() == [
                {"event": "x", "number": n, "text": "ü"} for n in range(whole[:cut].count(b"\n"))
            ]


def test_damage_in_the_middle_is_said(run):
    run.append({"event": "a"})
    run.close()
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"event"\n{"event": "c"}\n')
    with pytest.raises(RunDirectoryError, match=r"line 2 of .*events.jsonl is damaged"):
        RunDirectory.resume(run.path)
    with pytest.raises(RunDirectoryError, match="line 2"):
        RunDirectory.resume(run.path)


def test_a_full_disk_leaves_no_half_event(run, monkeypatch):
    run.append({"event": "a"})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunDirectoryError, match=r"events.jsonl can't be written \(no space left on device\)"):
        run.append({"event": "b"})
    with pytest.raises(RunDirectoryError, match=r"results.json can't be written"):
        run.write_json("results.json", {})
    monkeypatch.undo()
    assert run.events() == [{"event": "a"}]
    assert not (run.path / "results.json").exists()
    run.append({"event": "c"})
    assert len(run.events()) == 2


def test_files(run):
    run.write_text("notes.txt", "ünï")
    run.write_json("results.json", {"score": math.nan, "n": 1})
    assert (run.path / "notes.txt").read_text(encoding="utf-8") == "ünï"
    assert json.loads((run.path / "results.json").read_text()) == {"score": None, "n": 1}


def test_resume_refusals(tmp_path):
    with pytest.raises(RunDirectoryError, match=r"there is no run directory .*leave out resume=True"):
        RunDirectory.resume(tmp_path / "nowhere")
    (tmp_path / "other").mkdir()
    with pytest.raises(RunDirectoryError, match=r"is no run directory: it has no config.toml"):
        RunDirectory.resume(tmp_path / "other")
    with pytest.raises(RunDirectoryError, match="is no run directory"):
        RunDirectory.read(tmp_path / "other")
    assert contents(tmp_path) == ["other"]
    RunDirectory.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / "config.toml").write_text("=")
    with pytest.raises(RunDirectoryError, match=r"config.toml can't be read"):
        RunDirectory.read(tmp_path / "run").config()


def test_drafts_are_swept_up(run):
    run.close()
    (run.path / ".results.json.1.draft").write_text("half")
    (run.path / "checkpoints" / ".m.1.draft").write_text("half")
    RunDirectory.resume(run.path).close()
    assert not [name for name in contents(run.path) if name.endswith(".draft")]


def test_held_by_one(run):
    with pytest.raises(RunDirectoryError, match="another process is writing"):
        RunDirectory.resume(run.path)
    code = "import sys; from thalweg.run.directory import RunDirectory; RunDirectory.resume(sys.argv[1])"
    other = subprocess.run([sys.executable, "-c", code, run.path], capture_output=True, text=True)
    assert "another process is writing" in other.stderr
    run.close()
    assert subprocess.run([sys.executable, "-c", code, run.path]).returncode == 0
    RunDirectory.resume(run.path).close()


FORKING = """
import os, sys, time
# on a busy machine a worker doesn't run at once; before that it holds all files of its parent
os.register_at_fork(after_in_child=lambda: time.sleep(0.5))
from thalweg.run.directory import RunDirectory
run = RunDirectory.create(sys.argv[1], {})
run.append({"event": "begun"})
if os.fork():
    print("ready", flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_kill_frees_it_though_a_forked_worker_lives_on(tmp_path):
    path = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", FORKING, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        with pytest.raises(RunDirectoryError, match="another process"):
            RunDirectory.resume(path)
        process.kill()
        process.wait()
        with RunDirectory.resume(path) as run:
            assert run.events() == [{"event": "begun"}]


def test_checkpoints(run):
    assert run.load_checkpoint("chunk") is None
    for step in range(3):
        run.save_checkpoint(
            "chunk", {"step": step, "weights": torch.full((3,), float(step)), "rows": [1, 2.5, "x", None]}
        )
    state = run.load_checkpoint("chunk")
    assert state["step"] == 2
    assert torch.equal(state["weights"], torch.full((3,), 2.0))
    newest = max((run.path / "checkpoints").glob("*.pt"))
    damaged = bytearray(newest.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    newest.write_bytes(damaged)
    assert run.load_checkpoint("chunk")["step"] == 1
    assert run.events() == [{"event": "checkpoint damaged", "file": newest.name}]


def test_reading_alone_writes_nothing(run):
    reader = RunDirectory.read(run.path)
    with pytest.raises(AssertionError, match="reading alone"):
        reader.append({})
    reader.close()
    run.append({"event": "still held"})
