"""Scenarios of what is around a training: its screen, its directory, its code, directories of others."""

from __future__ import annotations

import functools
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import thalweg
from faults import pairs, recipes
from faults.damage import BOMB
from faults.process import Command, Process, damaged_where, same
from faults.table import Row
from faults.torchrun import end, ranks, sentences
from faults.workshop import SETTLED, Workshop, contents, one_sentence, small_disk

__all__ = ["SCENARIOS"]

_ENDS_WITHIN_SECONDS = 30.0


def lost_output(shop: Workshop) -> list[Row]:
    """What is shown can't be: the training ends as ever; a result that can't be given is said."""
    command = shop.command("lost")
    path, whole = shop.settled(command, epochs=3), command.folder / "whole"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    rows = []

    def tried(what: str, code: int, *more: str, **streams: Any) -> None:
        row, out = Row(what, times=1), command.folder / f"out-{len(rows)}"
        words = [word for word in shop.arguments(path, out, *more, seconds=60) if more or word != "--quiet"]
        done = _process(command, words, **streams)
        said = (done.stderr or b"").decode().strip()
        row.expect(done.returncode == code, f"it ended with {done.returncode}: {said[-300:]}")
        said = "\n".join(line for line in said.splitlines() if line.startswith("error") or "Trace" in line)
        if more:
            row.hear(said)
        row.expect(said.count("\n") == 0 and "Traceback" not in said, f"no one sentence: {said[-300:]}")
        row.expect(not same(out, whole), f"it differs: {same(out, whole)}")
        rows.append(row)

    def closed() -> None:
        os.close(1)
        os.close(2)

    tried("a training whose standard output and error are closed (`>&- 2>&-`)", 0, preexec_fn=closed)
    reading, writing = os.pipe()
    os.close(reading)
    tried("a training whose output nobody reads any more (`| head -1`)", 0, stdout=writing, stderr=writing)
    tried("its `--json` likewise: exit code 1", 1, "--json", stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    with small_disk(command.folder / "disk", 4) as disk:
        if disk is not None:
            (disk / "filling").write_bytes(bytes(4096))
            with (disk / "shown").open("wb") as file:
                tried("a training whose output goes to a disk that is full", 0, stdout=file, stderr=file)
                tried(
                    "its `--json` likewise: exit code 1", 1, "--json", stdout=file, stderr=subprocess.PIPE
                )  # fmt: skip
    return [*rows, _predicted(shop, command, whole)]


def _process(command: Command, words: list[str | Path], **streams: Any) -> subprocess.CompletedProcess[bytes]:
    source = str(Path(thalweg.__file__).resolve().parent.parent)
    return subprocess.run(
        [sys.executable, "-m", "thalweg", *map(str, words)], cwd=command.folder, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source}, **streams,
    )  # fmt: skip


def _predicted(shop: Workshop, command: Command, trained: Path) -> Row:
    """Predictions onto what isn't a file."""
    row = Row("`predict --out` onto a link, a FIFO that nobody reads, a socket and a folder")
    place = command.folder
    _digits(place / "new.csv")
    (place / "target").write_text("old")
    (place / "link").symlink_to(place / "target")
    os.mkfifo(place / "fifo")
    (place / "folder").mkdir()
    before = os.getcwd()
    os.chdir(place)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("socket")
        os.chdir(before)
        for name, expected in (("link", 0), ("fifo", 2), ("socket", 2), ("folder", 2)):
            modes = os.lstat(place / name).st_mode
            code, said = command.run("predict", trained, "--data", "new.csv", "--out", name)
            row.times += 1
            row.expect(code == expected, f"{name}: {code} {said}")
            row.hear(said)
            row.expect(os.lstat(place / name).st_mode == modes, f"{name} was replaced")
    row.expect(stat.S_ISLNK(os.lstat(place / "link").st_mode), "the link is gone")
    row.expect((place / "target").read_text() != "old", "what the link leads to is as it was")
    return row


def _digits(path: Path) -> None:
    """Write new data: two images."""
    names = ",".join(f"pixel {number}" for number in range(64))
    path.write_text("\n".join([names, *(",".join(str(n % 16) for n in range(64)) for _ in range(2))]) + "\n")


def vanished(shop: Workshop) -> list[Row]:
    """A run directory that is removed while the run is under way: it stops at once, and isn't made again."""
    command = shop.command("vanished")
    path = shop.settled(command, epochs=2000)
    many = recipes.write(
        {**SETTLED, "model": {"spec": "mlp:8"}, "strategies": {}, "ensemble": {"members": 3},
         "training": {"batch_size": 16, "epochs": 2000}},
        command.folder / "many",
    )  # fmt: skip
    out = command.folder / "out"
    race = [
        "race", "--data", "digits", "--optimizers", "sgd,adam", "--epochs", "200", "--out", out, "--quiet"
    ]  # fmt: skip
    rows = []

    def tried(
        what: str, start: Callable[[], Process], under_way: Callable[[Path], bool], out: Path = out
    ) -> None:
        row = Row(f"the run directory removed while {what} is under way", times=1)
        process = start()
        while process.running() and not under_way(out):
            time.sleep(0.01)
        time.sleep(0.5)
        pids = ranks(process) if what.startswith("a training of two") else []
        # in one go, as files may come while it is emptied
        out.rename(out.with_name("removed"))
        shutil.rmtree(out.with_name("removed"), ignore_errors=True)
        began = time.monotonic()
        if pids:
            end(process, pids)
        code = process.wait()
        lasted = time.monotonic() - began
        said = process.sentence()
        if pids:
            heard = [each for each in sentences(said) if "is gone" in each or "be written" in each]
            row.expect(code != 0 and bool(heard), f"{code}: {said[-300:]}")
            for sentence in heard:
                row.hear(sentence, instead={str(out): "DIR"})
        else:
            one_sentence(row, code, said, {str(out): "DIR"})
        row.expect(lasted < _ENDS_WITHIN_SECONDS, f"it took {lasted:.0f} s to end")
        row.expect(not out.exists(), f"it was made again: {sorted(contents(out))}")
        shutil.rmtree(out, ignore_errors=True)
        row.details["seconds until it ended"] = round(lasted, 1)
        rows.append(row)

    def events(many: int) -> Callable[[Path], bool]:
        def reached(out: Path) -> bool:
            file = out / "events.jsonl"
            return file.exists() and file.read_bytes().count(b"\n") >= many

        return reached

    tried(
        "a training", lambda: command.start(*shop.arguments(path, out)),
        lambda out: bool(damaged_where(out, "last")),
    )  # fmt: skip
    tried("an ensemble", lambda: command.start(*shop.arguments(many, out)), events(1))
    tried(
        "a race in lanes", lambda: command.start(*race, "--engine", "lanes"), events(4),
    )  # fmt: skip
    tried("a race in processes", lambda: command.start(*race, "--engine", "loop"), events(4))
    for parallel in ("ddp", "fsdp2") if shop.kills >= 8 else ():
        pair = pairs._settled(shop, f"gone-{parallel}", parallel)
        place = pair.command.folder / "out"
        tried(
            f"a training of two processes ({parallel.upper()})",
            functools.partial(pair.start, place, "--quiet"),
            lambda out: bool(damaged_where(out, "last")),
            place,
        )
    return rows


def changed_code(shop: Workshop) -> list[Row]:
    """Code that changes: refused with both hashes; brought back it goes on exactly, accepted it goes on."""
    command = shop.command("code")
    path = shop.settled(command, epochs=max(4, round(20 * shop.work)))
    text = recipes.NETWORK.replace("import torch\n", "import torch\nimport beside\n", 1)
    (command.folder / "net.py").write_text(text)
    (command.folder / "beside.py").write_text("SCALE = 1\n")
    whole, out = command.folder / "whole", command.folder / "out"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    process = command.start(*shop.arguments(path, out))
    while process.running() and not damaged_where(out, "last"):
        time.sleep(0.002)
    process.send(9)
    process.wait()
    _digits(command.folder / "new.csv")
    predicting = ["predict", whole, "--data", "new.csv", "--out", "made.csv"]
    rows = []
    for file, changed, what in (
        ("net.py", text.replace("ReLU", "Tanh"), "a model's code that changed (`ReLU` to `Tanh`)"),
        ("beside.py", "SCALE = 2\n", "a file that it imports, which changed"),
    ):
        before = (command.folder / file).read_text()
        (command.folder / file).write_text(changed)
        for how, words in (
            ("`--resume`", shop.arguments(path, out, "--resume")), ("`predict`", predicting),
        ):  # fmt: skip
            row, stood = Row(f"{what}, then {how}", times=1), contents(out)
            code, said = command.run(*words)
            instead = {str(out): "DIR", str(whole): "DIR", f"{command.folder}/": ""}
            one_sentence(row, code, said, instead)
            row.expect(contents(out) == stood, "something in the directory was changed")
            rows.append(row)
        (command.folder / file).write_text(before)
    shutil.copytree(out, command.folder / "accepted")
    row = Row("code that was brought back, then `--resume`", times=1)
    code, said = command.run(*shop.arguments(path, out, "--resume"))
    row.expect(code == 0 and not same(out, whole), f"{code} {said}")
    rows.append(row)
    row = Row("code that changed, then `--resume --trust-code`, and `--resume` once more", times=2)
    (command.folder / "net.py").write_text(text.replace("ReLU", "Tanh"))
    out = command.folder / "accepted"
    for more in (["--trust-code"], []):
        code, said = command.run(*shop.arguments(path, out, "--resume", *more))
        row.expect(code == 0, f"{code} {said}")
    rows.append(row)
    return rows


def strangers(shop: Workshop) -> list[Row]:
    """Directories of others, which name code: none of it runs."""
    command = shop.command("strangers")
    path = shop.settled(command, epochs=2)
    theirs = command.folder / "theirs"
    assert command.run(*shop.arguments(path, theirs)) == (0, "")
    (command.folder / "w").mkdir()
    evil = f"import pathlib\npathlib.Path({BOMB!r}).touch()\ndef f(*_):\n    raise SystemExit(0)\n"
    (command.folder / "w" / "evil.py").write_text(evil)
    _digits(command.folder / "new.csv")
    model, config = (theirs / "model.json").read_text(), (theirs / "config.toml").read_text()
    instead = {str(theirs): "DIR", f"{command.folder}/": ""}
    rows = []
    for spec in ("w/evil.py:f", "os:abort"):
        row = Row(f"`predict` from a directory whose `model.json` names `{spec}`", times=1)
        (theirs / "model.json").write_text(json.dumps({**json.loads(model), "spec": spec}))
        code, said = command.run("predict", theirs, "--data", "new.csv", "--out", "made.csv")
        one_sentence(row, code, said, instead)
        rows.append(row)
        row = Row(f"`--resume` in a directory whose recipe names `{spec}`", times=1)
        (theirs / "config.toml").write_text(config.replace("net.py:network", spec))
        code, said = command.run("train", "--resume", "--out", theirs, "--quiet")
        one_sentence(row, code, said, instead)
        rows.append(row)
        row = Row(f"`report` of a directory that names `{spec}`", times=1)
        code, said = command.run("report", theirs)
        row.expect(code == 0, f"{code} {said}")
        rows.append(row)
        (theirs / "model.json").write_text(model)
        (theirs / "config.toml").write_text(config)
    row = Row("`--resume` where `events.jsonl` is a link to a file outside of the directory", times=1)
    (command.folder / "thesis.txt").write_text("years of work")
    shutil.copytree(theirs, command.folder / "linked")
    (command.folder / "linked" / "events.jsonl").unlink()
    (command.folder / "linked" / "events.jsonl").symlink_to(command.folder / "thesis.txt")
    code, said = command.run("train", "--resume", "--out", command.folder / "linked", "--quiet")
    one_sentence(row, code, said, {str(command.folder / "linked"): "DIR", f"{command.folder}/": ""})
    row.expect((command.folder / "thesis.txt").read_text() == "years of work", "the file was changed")
    rows.append(row)
    for each in rows:
        each.expect(not (command.folder / BOMB).exists(), "the code was run")
    return rows


Scenario = Callable[[Workshop], list[Row]]

SCENARIOS: tuple[Scenario, ...] = (lost_output, vanished, changed_code, strangers)
"""In the order of the table."""
