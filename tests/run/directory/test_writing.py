"""What stands where something is to be written: links, FIFOs, sockets, folders that are gone."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import sys
import threading
import time
from pathlib import Path

import pytest

from thalweg import recipe
from thalweg.commands import app
from thalweg.errors import OptionError, RunDirectoryError
from thalweg.run.directory import RunDirectory, write_whole
from thalweg.run.directory import directory as directories
from thalweg.training.predicting import predict
from trainings import written

pytestmark = pytest.mark.skipif(os.name != "posix", reason="FIFOs and links")


def standing(folder: Path) -> list[str]:
    return sorted(str(each.relative_to(folder)) for each in folder.rglob("*"))


def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "target").write_bytes(b"old")
    link, far = tmp_path / "link", tmp_path / "far"
    link.symlink_to(Path("there") / "target")
    far.symlink_to(link)
    for path, content in ((link, b"one"), (far, b"two")):
        assert write_whole(path, content) == path
        assert path.is_symlink()
        assert (tmp_path / "there" / "target").read_bytes() == content
    (tmp_path / "new").symlink_to(tmp_path / "there" / "not yet")
    write_whole(tmp_path / "new", b"three")
    assert (tmp_path / "there" / "not yet").read_bytes() == b"three"
    assert standing(tmp_path) == ["far", "link", "new", "there", "there/not yet", "there/target"]


def test_links_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "lost").symlink_to(tmp_path / "no folder" / "file")
    for name, why in (("loop", "symbolic links"), ("lost", "No such file or directory: .*no folder")):
        with pytest.raises(OSError, match=why):
            write_whole(tmp_path / name, b"x")
    assert standing(tmp_path) == ["loop", "lost"]


def test_a_file_keeps_its_permissions(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    write_whole(path, b"x")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o754)
    write_whole(path, b"y")
    assert stat.S_IMODE(path.stat().st_mode) == 0o754


def test_a_read_only_file_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kept"
    path.write_bytes(b"precious")
    path.chmod(0o444)
    # root may write anything, so what the system answers to everybody else is said here
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="it is read-only"):
        write_whole(path, b"x")
    assert path.read_bytes() == b"precious"


def test_a_fifo_is_written_to_where_somebody_reads(tmp_path: Path) -> None:
    path, content = tmp_path / "fifo", b"0123456789" * 100_000
    os.mkfifo(path)
    with pytest.raises(OSError, match="a FIFO that nobody reads"):
        write_whole(path, content)
    found: list[bytes] = []
    ready = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    os.set_blocking(ready, True)

    def read() -> None:
        # there is nothing to read as long as nobody has opened it for writing, which isn't its end
        parts, deadline = [], time.monotonic() + 20
        while sum(map(len, parts)) < len(content) and time.monotonic() < deadline:
            parts.append(os.read(ready, 2**16))
        os.close(ready)
        found.append(b"".join(parts))

    # the pipe takes 64 KiB, so the rest waits for the reader
    reader = threading.Thread(target=read)
    writer = threading.Thread(target=write_whole, args=(path, content))
    writer.start()
    reader.start()
    writer.join(20)
    reader.join(20)
    assert found == [content]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert standing(tmp_path) == ["fifo"]


def test_a_terminal_is_written_to(tmp_path: Path) -> None:
    master, slave = os.openpty()
    try:
        link = tmp_path / "terminal"
        link.symlink_to(os.ttyname(slave))
        write_whole(link, b"hello")
        assert os.read(master, 100) == b"hello"
        assert link.is_symlink()
    finally:
        os.close(master)
        os.close(slave)


def test_sockets_and_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        for name, why in (("folder", "it is a folder"), ("socket", "it is a socket")):
            with pytest.raises(OSError, match=why):
                write_whole(tmp_path / name, b"x")
    assert standing(tmp_path) == ["folder", "socket"]
    assert stat.S_ISSOCK((tmp_path / "socket").stat().st_mode)


def test_standard_output_is_written_through(tmp_path: Path) -> None:
    # a file that standard output goes to isn't replaced under it
    path = tmp_path / "shown"
    before = os.dup(1)
    sys.stdout.flush()
    try:
        with path.open("wb") as file:
            os.dup2(file.fileno(), 1)
        os.write(1, b"before\n")
        link = tmp_path / "stdout"
        link.symlink_to(path)
        write_whole(link, b"a,b\n")
        os.write(1, b"after\n")
    finally:
        os.dup2(before, 1)
        os.close(before)
    assert path.read_bytes() == b"before\na,b\nafter\n"


def test_names_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    for name in ("x" * 255, "ü" * 127):
        write_whole(tmp_path / name, b"x")
    assert len(standing(tmp_path)) == 2


def test_a_draft_does_not_follow_a_link_that_waits_for_it(tmp_path: Path) -> None:
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / f".new.{os.getpid()}.draft").symlink_to(tmp_path / "precious")
    write_whole(tmp_path / "new", b"x")
    assert (tmp_path / "precious").read_bytes() == b"precious"


def test_a_folder_that_syncs_nothing_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync

    def refuses(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(22, "Invalid argument")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", refuses)
    write_whole(tmp_path / "file", b"x")
    assert (tmp_path / "file").read_bytes() == b"x"


def test_recipes_are_written_so(tmp_path: Path) -> None:
    path = written(tmp_path)
    (tmp_path / "link.toml").symlink_to(path)
    recipe.write(recipe.read(path), tmp_path / "link.toml")
    assert (tmp_path / "link.toml").is_symlink()
    assert recipe.read(path) == recipe.read(tmp_path / "link.toml")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    path = written(folder)
    assert app.run(["train", str(path), "--out", str(folder / "out"), "--quiet"]) == 0
    (folder / "new.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n6,3,5,2\n")
    return folder


def test_predictions_go_where_they_are_sent(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def to(path: Path) -> int:
        words = ["predict", trained / "out", "--data", trained / "new.csv", "--out", path]
        return app.run([str(word) for word in words])

    (tmp_path / "target").write_text("old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert to(tmp_path / "link") == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text().count("\n") == 3
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "folder").mkdir()
    capsys.readouterr()
    for name, why in (
        ("fifo", "it is a FIFO that nobody reads"), ("folder", "it is a folder"),
        ("none/file", "no such file or directory"), ("target/file", "not a directory"),
    ):  # fmt: skip
        assert to(tmp_path / name) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert f"{tmp_path / name}: {why}" in said
        assert "--out" in said
    assert stat.S_ISFIFO((tmp_path / "fifo").stat().st_mode)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fifo", "folder", "link", "target"]
    reader = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    assert to(tmp_path / "fifo") == 0
    assert os.read(reader, 10_000) == (tmp_path / "target").read_bytes()
    os.close(reader)


def test_what_cannot_be_written_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="it is a folder"):
        predict(tmp_path / "no such training", tmp_path / "no such data", out=tmp_path)


def test_a_report_follows_its_link_but_not_onto_anything(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(trained / "out", out)
    shutil.move(out / "report.html", tmp_path / "page.html")
    (out / "report.html").symlink_to(tmp_path / "page.html")
    assert app.run(["report", str(out)]) == 0
    assert (out / "report.html").is_symlink()
    (tmp_path / "page.html").write_text("alias ls='ls -l'\n")
    capsys.readouterr()
    assert app.run(["report", str(out)]) == 2
    assert "which is no report" in capsys.readouterr().err
    assert (tmp_path / "page.html").read_text() == "alias ls='ls -l'\n"


# Run directories


def test_a_resume_writes_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("one line")
    RunDirectory.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / "events.jsonl").unlink()
    (tmp_path / "run" / "events.jsonl").symlink_to(tmp_path / "precious")
    with pytest.raises(RunDirectoryError, match="outside of the run directory"):
        RunDirectory.resume(tmp_path / "run")
    assert (tmp_path / "precious").read_text() == "one line"


@pytest.mark.parametrize("linked", [True, False])
def test_an_empty_folder_is_filled_and_stays_the_same(tmp_path: Path, *, linked: bool) -> None:
    # as a mounted disk, which can't be replaced
    (tmp_path / "disk").mkdir(mode=0o700)
    path = tmp_path / "disk"
    if linked:
        path = tmp_path / "link"
        path.symlink_to(tmp_path / "disk")
    inode = (tmp_path / "disk").stat().st_ino
    with RunDirectory.create(path, {"x": 1}) as run:
        run.append({"event": "a"})
        assert run.config() == {"x": 1}
        assert path.is_symlink() == linked
        run.discard()
    about = (tmp_path / "disk").stat()
    assert (about.st_ino, stat.S_IMODE(about.st_mode)) == (inode, 0o700)
    assert list((tmp_path / "disk").iterdir()) == []


def _removed(path: Path) -> None:
    shutil.rmtree(path)


def _moved(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))


def _replaced(path: Path) -> None:
    shutil.rmtree(path)
    path.mkdir()
    (path / "config.toml").write_text("another = true\n")
    (path / "events.jsonl").touch()


@pytest.mark.parametrize("away", [_removed, _moved, _replaced])
def test_a_directory_that_is_gone_is_said_and_not_made_again(tmp_path: Path, away: object) -> None:
    assert callable(away)
    path = tmp_path / "run"
    run = RunDirectory.create(path, {"x": 1})
    run.append({"event": "before"})
    away(path)
    left = standing(tmp_path)
    tries = (
        lambda: run.append({"event": "a"}),
        lambda: run.save_checkpoint("last", {"a": 1}),
        lambda: run.write_text("results.json", "x"),
    )
    for attempt in tries:
        with pytest.raises(RunDirectoryError, match=r"run is gone: it was removed, moved or unmounted"):
            attempt()
    run.discard()
    assert standing(tmp_path) == left


def test_it_is_looked_for_once_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(directories.time, "monotonic", lambda: clock[0])
    run = RunDirectory.create(tmp_path / "run", {})
    ask = run.watched(lambda: True)
    assert ask()
    shutil.rmtree(tmp_path / "run")
    assert ask(), "not at each call"
    clock[0] = 1.5
    with pytest.raises(RunDirectoryError, match="is gone"):
        ask()


def test_events_that_are_gone_are_not_written_into_the_void(tmp_path: Path) -> None:
    run = RunDirectory.create(tmp_path / "run", {})
    run.append({"event": "a"})
    (tmp_path / "run" / "events.jsonl").unlink()
    with pytest.raises(RunDirectoryError, match="is gone"):
        run.append({"event": "b"})
    run.close()


def test_an_error_amid_a_run_whose_directory_is_gone_says_so(tmp_path: Path) -> None:
    def loses(path: Path) -> None:
        with RunDirectory.create(path, {}):
            shutil.rmtree(path)
            (path / "events.jsonl").read_bytes()

    with pytest.raises(RunDirectoryError, match="is gone"):
        loses(tmp_path / "run")
    with pytest.raises(FileNotFoundError), RunDirectory.create(tmp_path / "other", {}):
        (tmp_path / "data.csv").read_bytes()


def _gone_soon(path: Path, *, events: int) -> threading.Thread:
    """Remove a run directory once it holds so many events."""

    def remove() -> None:
        for _ in range(6000):
            with contextlib.suppress(OSError):
                if (path / "events.jsonl").read_bytes().count(b"\n") >= events:
                    # in one go, as files may come while it is emptied
                    path.rename(path.with_name("removed"))
                    shutil.rmtree(path.with_name("removed"), ignore_errors=True)
                    return
            time.sleep(0.005)

    thread = threading.Thread(target=remove)
    thread.start()
    return thread


RACE = ["--data", "iris", "--model", "linear", "--optimizers", "sgd", "--trials", "2", "--splits", "2"]


@pytest.mark.parametrize(
    ("words", "events"),
    [
        (["train", "RECIPE", "--set", "training.epochs=5000"], 1),
        (["train", "RECIPE", "--set", "training.epochs=5000", "--set", "ensemble.members=3"], 1),
        (["train", "RECIPE", "--set", "training.epochs=5000", "--set", "ensemble.members=3",
          "--set", "ensemble.engine=loop"], 1),
        (["race", *RACE, "--epochs", "2000", "--engine", "loop"], 3),
        (["race", *RACE, "--epochs", "5000", "--engine", "lanes"], 3),
    ],
    ids=["train", "ensemble", "members one by one", "race in processes", "race in lanes"],
)  # fmt: skip
def test_work_stops_at_once_when_its_directory_is_gone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], events: int
) -> None:
    given = [str(written(tmp_path)) if word == "RECIPE" else word for word in words]
    thread = _gone_soon(tmp_path / "out", events=events)
    assert app.run([*given, "--out", str(tmp_path / "out"), "--quiet"]) == 2
    thread.join()
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert said.count("\n") == 1
    assert "is gone" in said
    assert not (tmp_path / "out").exists()


def test_a_run_within_another_doesnt_make_it_again(tmp_path: Path) -> None:
    with RunDirectory.create(tmp_path / "out", {"seed": 0}) as outer:
        inner = outer.folder("stages") / "1-a"
        (tmp_path / "out").rename(tmp_path / "removed")
        with pytest.raises(RunDirectoryError, match=r"out is gone: it was removed"):
            RunDirectory.create(inner, {"seed": 1}, within=outer)
        assert not (tmp_path / "out").exists()
        (tmp_path / "removed").rename(tmp_path / "out")
        with RunDirectory.create(inner, {"seed": 1}, within=outer) as found:
            assert found.config() == {"seed": 1}
