"""Standard output or error that is closed, full, or that nobody reads: the work goes on."""

from __future__ import annotations

import errno
import io
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from thalweg.commands import app
from thalweg.errors import ThalwegError
from thalweg.run.directory.interrupt import Interruption
from thalweg.run.directory.output import Losable, give, losable_streams
from trainings import written

pytestmark = pytest.mark.skipif(os.name != "posix", reason="signals and limits")


class Lost(io.StringIO):
    """A stream that takes a number of writes, and then none."""

    def __init__(self, takes: int, problem: Exception) -> None:
        super().__init__()
        self.takes, self.problem = takes, problem

    def write(self, text: str) -> int:
        if self.takes <= 0:
            raise self.problem
        self.takes -= 1
        return super().write(text)

    def flush(self) -> None:
        if self.takes <= 0:
            raise self.problem


FULL = OSError(errno.ENOSPC, "No space left on device")
GONE = OSError(errno.EIO, "Input/output error")
UNREAD = BrokenPipeError(errno.EPIPE, "Broken pipe")
CLOSED = ValueError("I/O operation on closed file")


@pytest.mark.parametrize("problem", [FULL, GONE, UNREAD, CLOSED], ids=["full", "hung up", "unread", "closed"])
@pytest.mark.parametrize("takes", [0, 3])
def test_a_training_whose_screen_is_lost_ends_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes: int, problem: Exception
) -> None:
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Lost(takes, problem))
    assert app.run(["train", str(written(tmp_path)), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "weights.safetensors").exists()
    assert (tmp_path / "out" / "report.html").exists()
    assert app.run(["report", str(tmp_path / "out")]) == 0
    (tmp_path / "new.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n")
    words = ["predict", tmp_path / "out", "--data", tmp_path / "new.csv", "--out", tmp_path / "made.csv"]
    assert app.run([str(word) for word in words]) == 0
    assert (tmp_path / "made.csv").exists()


def test_without_standard_streams_it_trains_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # as under pythonw, or in a service
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    assert app.run(["train", str(written(tmp_path)), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "weights.safetensors").exists()
    assert app.run(["train", "no such recipe"]) == 2


def test_what_a_persons_code_prints_may_be_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m.py").write_text(
        "import sys\nfrom torch import nn\nclass Talks(nn.Linear):\n    def forward(self, x):\n"
        "        print('hello'); print('there', file=sys.stderr, flush=True); sys.stdout.flush()\n"
        "        return super().forward(x)\n"
        "def net(shape, outputs):\n    return Talks(shape[0], outputs)\n"
    )
    path = written(tmp_path)
    path.write_text(path.read_text().replace("mlp:8", f"{tmp_path / 'm.py'}:net"))
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, Lost(0, UNREAD))
    assert app.run(["train", str(path), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "weights.safetensors").exists()


def test_errors_keep_their_code_when_nobody_hears_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Lost(0, FULL))
    assert app.run(["train", "no such recipe"]) == 2
    assert app.run(["tran"]) == 2


def test_a_result_that_cannot_be_given_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    words = ["train", str(written(tmp_path)), "--json", "--quiet", "--out"]
    monkeypatch.setattr(sys, "stdout", Lost(0, FULL))
    assert app.run([*words, str(tmp_path / "a")]) == 1
    assert said.getvalue().splitlines()[-1] == (
        "error: standard output can't be written (no space left on device); results.json in the run "
        "directory holds the same"
    )
    assert (tmp_path / "a" / "results.json").exists()
    said.truncate(0)
    monkeypatch.setattr(sys, "stdout", Lost(0, UNREAD))
    assert app.run([*words, str(tmp_path / "b")]) == 1
    assert "error" not in said.getvalue()
    assert (tmp_path / "b" / "results.json").exists()
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(ThalwegError, match="it is closed"):
        give("x")


@pytest.mark.parametrize("words", [["list", "data"], ["list", "models", "--json"], ["--help"], ["--version"]])
def test_what_is_only_shown_fails_where_it_cannot_be(
    words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said = io.StringIO()
    monkeypatch.setattr(sys, "stderr", said)
    monkeypatch.setattr(sys, "stdout", Lost(0, UNREAD))
    assert app.run(words) == 1
    assert said.getvalue() == ""
    monkeypatch.setattr(sys, "stdout", Lost(0, FULL))
    assert app.run(words) == 1
    assert said.getvalue() == "error: standard output can't be written (no space left on device)\n"


def test_what_comes_after_there_is_room_again_is_shown() -> None:
    stream = Lost(1, FULL)
    losable = Losable(stream)
    for word in ("one", "two"):
        losable.write(word)
    stream.takes = 5
    losable.write("three")
    losable.flush()
    assert stream.getvalue() == "onethree"
    assert losable.problem is FULL
    assert not losable.isatty()
    before = sys.stdout
    with losable_streams() as (shown, _):
        assert sys.stdout is shown
    assert sys.stdout is before


# Processes of their own: what Python and the shell do about streams that are lost


def _run(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "thalweg", *words], cwd=folder, timeout=300, check=False, **options
    )  # type: ignore[call-overload, no-any-return]


def _close_both() -> None:
    os.close(1)
    os.close(2)


def _tiny_files() -> None:
    # as a disk that is full: a file may not grow beyond this, be it what standard output goes to
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def test_closed_streams_in_a_process(tmp_path: Path) -> None:
    done = _run(tmp_path, "train", str(written(tmp_path)), "--out", "out", preexec_fn=_close_both)
    assert done.returncode == 0
    assert (tmp_path / "out" / "weights.safetensors").exists()
    for line in (tmp_path / "out" / "events.jsonl").read_bytes().splitlines():
        # what is printed goes into no file that took the number of a closed stream
        assert isinstance(json.loads(line), dict)


def test_an_output_that_is_full_or_unread_in_a_process(tmp_path: Path) -> None:
    words = ["--help"]
    with (tmp_path / "shown").open("wb") as file:
        done = _run(tmp_path, *words, stdout=file, stderr=subprocess.PIPE, preexec_fn=_tiny_files)
    assert done.returncode == 1
    assert done.stderr == b"error: standard output can't be written (file too large)\n"
    reading, writing = os.pipe()
    os.close(reading)
    done = _run(tmp_path, *words, stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_predictions_to_standard_output_are_all_that_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert app.run(["train", str(written(tmp_path)), "--out", str(tmp_path / "out"), "--quiet"]) == 0
    (tmp_path / "new.csv").write_text("a,b,c,d\n5.1,3.5,1.4,0.2\n")
    words = ["predict", "out", "--data", "new.csv", "--out"]
    monkeypatch.chdir(tmp_path)
    assert app.run([*words, "made.csv"]) == 0
    done = _run(tmp_path, *words, "/dev/fd/1", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout == (tmp_path / "made.csv").read_bytes()
    assert b"predictions: /dev/fd/1 (1 rows)" in done.stderr
    os.mkfifo("fifo")
    reader = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK)

    def leaves(*_: object) -> None:
        os.close(reader)

    monkeypatch.setattr("os.set_blocking", leaves)
    assert app.run([*words, "fifo"]) == 1


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="no terminals that hang up")
@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_terminal_that_is_closed_asks_for_an_end(handler: Callable[..., None]) -> None:
    assert threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGHUP, handler)
    try:
        with Interruption() as interruption:
            signal.raise_signal(signal.SIGHUP)
            # ignored by nohup, it stays so
            assert interruption.asked() == (handler == signal.SIG_DFL)
        assert signal.getsignal(signal.SIGHUP) == handler
    finally:
        signal.signal(signal.SIGHUP, before)
