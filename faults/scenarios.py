"""The scenarios: each does something to trainings, and writes down what was lost and said.

A scenario is a function of a :class:`~faults.workshop.Workshop` that gives rows; :data:`SCENARIOS` lists them
in order, those of :mod:`faults.outputs` and of two processes (:mod:`faults.pairs`) included.
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w

from faults import outputs, pairs, recipes
from faults.damage import BOMB, DAMAGES
from faults.process import Command, damaged_where, kill_at_random, moment_of, same
from faults.table import Row
from faults.workshop import SETTLED, Workshop, contents, ends_alike, last_state, one_sentence, small_disk

__all__ = ["SCENARIOS", "Scenario"]


def killed(shop: Workshop) -> list[Row]:
    """SIGKILL at random moments of random recipes, each taken up again, often several times."""
    how = ", forked from a process that has everything imported" if shop.forked else ""
    rows = [
        Row(f"SIGKILL at a random moment, then `--resume`, first-order recipes{how}"),
        Row(f"SIGKILL at a random moment, then `--resume`, second-order recipes{how}"),
    ]
    rng = random.Random(shop.seed)
    plans: list[tuple[int, int, bool]] = []
    left = shop.kills
    while left > 0:
        wanted = min(left, rng.choice([2, 3, 4, 6]))
        # every fourth recipe is a second-order one
        plans.append((len(plans), wanted, len(plans) % 4 == 3 or (shop.kills < 8 and len(plans) == 1)))
        left -= wanted
    with ThreadPoolExecutor(shop.beside) as pool:
        done = list(pool.map(lambda plan: _killed(shop, *plan), plans))
    for (_, _, second), outcome in zip(plans, done, strict=True):
        row = rows[second]
        row.times += outcome["kills"]
        row.lost += outcome["lost"]
        row.details.setdefault("trainings", []).append(outcome)
        moments = Counter(row.details.get("moments", {}))
        moments.update(outcome["moments"])
        row.details["moments"] = dict(moments)
    return [row for row in rows if row.times]


def _killed(shop: Workshop, number: int, wanted: int, second: bool) -> dict[str, Any]:
    rng = random.Random(f"{shop.seed} {number}")
    command = shop.command(f"killed-{number}")
    recipe = recipes.draw(rng, second, shop.work)
    path = recipes.write(recipe, command.folder)
    out, whole = command.folder / "out", command.folder / "whole"
    seconds = rng.choice([0.0, 0.1, 0.5])
    lost: list[str] = []
    process = command.start(*shop.arguments(path, whole, seconds=60))
    while process.running() and not (whole / "events.jsonl").exists():
        time.sleep(0.005)
    begun = time.monotonic()
    # a guard that gives up ends with 1, and so must whatever is resumed
    ends = process.wait()
    if ends not in (0, 1):
        return {"kills": 0, "lost": [f"left alone it fails: {process.sentence()}"], "moments": {}}
    lasts = time.monotonic() - begun
    hits, moments = 0, []
    for attempt in range(6 * wanted):
        if (out / "results.json").exists():
            # the next ones hit another training of the same recipe
            lost += ends_alike(shop, command, path, out, whole, ends)
            out = command.folder / f"out-{attempt}"
        resume = ["--resume"] if out.exists() else []
        process = command.start(*shop.arguments(path, out, *resume, seconds=seconds))
        hit = kill_at_random(process, out, rng, lasts / wanted * 1.5, signal.SIGKILL)
        code = process.wait()
        if code == -9:
            hits += hit
            moments.append(moment_of(out))
        elif code != ends:
            lost.append(f"attempt {attempt} ended with {code}: {process.sentence()}")
            break
        if hits == wanted:
            break
    lost += ends_alike(shop, command, path, out, whole, ends)
    if not lost:
        shutil.rmtree(command.folder)
    return {
        "recipe": recipe, "checkpoint_seconds": seconds, "kills": hits, "moments": dict(Counter(moments)),
        "exit_code": ends, "seconds_left_alone": round(lasts, 2),
        "lost": [f"training {number}: {each}" for each in lost],
    }  # fmt: skip


def asked(shop: Workshop) -> list[Row]:
    """SIGTERM and SIGINT: it saves, says so in one sentence, ends with 130, and goes on exactly."""
    rows = []
    command = shop.command("asked")
    path = shop.settled(command)
    whole = command.folder / "whole"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    for signal_, name in ((signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl-C (SIGINT)")):
        row = Row(f"{name} while it trains, then `--resume`")
        rng = random.Random(f"{shop.seed} {name}")
        for number in range(1 if shop.kills < 8 else 5):
            out = command.folder / f"out-{signal_}-{number}"
            # a minute between checkpoints: what is there afterwards was saved because it was asked for
            process = command.start(*shop.arguments(path, out, seconds=60))
            while process.running() and not (out / "events.jsonl").exists():
                time.sleep(0.002)
            while process.running() and (out / "events.jsonl").read_bytes().count(b"\n") < 1:
                time.sleep(0.002)
            time.sleep(rng.uniform(0, 1.5 * shop.work))
            process.send(signal_)
            code = process.wait()
            said = process.sentence()
            if code == 0:
                continue
            row.times += 1
            row.hear(re.sub(r"step \d+ of \d+", "step N of M", said))
            row.expect(code == 130, f"it ended with {code}")
            row.expect(said.count("\n") == 0 and "everything is saved" in said, f"it said: {said}")
            step = re.search(r"step (\d+)", said)
            saved = last_state(out)
            row.expect(
                bool(step and saved and saved["step"] == int(step[1])), "the step it was at isn't saved"
            )
            code, said = command.run(*shop.arguments(path, out, "--resume", seconds=60))
            row.expect(code == 0 and not same(out, whole), f"resumed it differs: {code} {said}")
        row.details["exit_code"] = 130
        rows.append(row)
    row = Row("SIGTERM twice: it ends at once, then `--resume`")
    out = command.folder / "twice"
    process = command.start(*shop.arguments(path, out))
    while process.running() and not damaged_where(out, "last"):
        time.sleep(0.002)
    process.send(signal.SIGTERM)
    process.send(signal.SIGTERM)
    row.times, code = 1, process.wait()
    row.hear(re.sub(r"step \d+ of \d+", "step N of M", process.sentence()), instead={str(out): "DIR"})
    row.expect(code == 130 and process.sentence().count("\n") == 0, f"{code}: {process.sentence()[-200:]}")
    code, said = command.run(*shop.arguments(path, out, "--resume"))
    row.expect(code == 0 and not same(out, whole), f"resumed it differs: {code} {said}")
    return [*rows, row]


@contextlib.contextmanager
def _half_way(shop: Workshop, name: str) -> Iterator[tuple[Command, Path, Path, Path]]:
    """A training that was killed with all its checkpoints there, to be copied, and the same left alone."""
    command = shop.command(name)
    path = shop.settled(command)
    whole, half = command.folder / "whole", command.folder / "half"
    code, said = command.run(*shop.arguments(path, whole))
    assert code == 0, said
    process = command.start(*shop.arguments(path, half))
    while process.running() and (
        len(damaged_where(half, "last")) < 3 or len(damaged_where(half, "best")) < 2
    ):
        time.sleep(0.002)
    process.send(signal.SIGKILL)
    assert process.wait() == -9
    yield command, path, half, whole


def damaged(shop: Workshop) -> list[Row]:
    """Checkpoints damaged in every way: recognised, said, and the one before used."""
    rows = []
    with _half_way(shop, "damaged") as (command, path, half, whole):
        kinds = list(DAMAGES.items())
        for kind, damage in kinds[:: 3 if shop.kills < 8 else 1]:
            row = Row(f"the newest checkpoint {kind}")
            for name in ("last", "best"):
                out = command.folder / f"{kind.replace(' ', '-')}-{name}"
                shutil.copytree(half, out)
                victim = damaged_where(out, name)[0]
                damage(victim)
                newest = damaged_where(out, name)[0]
                loudly = (word for word in shop.arguments(path, out, "--resume") if word != "--quiet")
                process = command.start(*loudly)
                code, said = process.wait(), process.sentence()
                row.times += 1
                row.expect(code == 0 and not same(out, whole), f"{name}: {code} {said}")
                told = " ".join(process.shown.read_text(encoding="utf-8").split())
                heard = re.search(r"the checkpoint \S+ is damaged; the one before it is used", told)
                if kind != "deleted":
                    events = (out / "events.jsonl").read_text(encoding="utf-8")
                    row.expect(heard is not None and newest.name in events, f"{name}: the damage isn't said")
                    row.hear(re.sub(r"checkpoint \S+", "checkpoint NAME", heard[0]) if heard else "")
                row.expect(not (command.folder / BOMB).exists(), "code in the file was run")
                shutil.rmtree(out)
            rows.append(row)
        row = Row("all checkpoints damaged")
        out = command.folder / "all"
        shutil.copytree(half, out)
        for victim in damaged_where(out, "last"):
            DAMAGES["with a flipped bit"](victim)
        before = contents(out)
        row.times, (code, said) = 1, command.run(*shop.arguments(path, out, "--resume"))
        one_sentence(row, code, said, {str(out): "DIR", damaged_where(out, "last")[0].name: "NAME"})
        row.expect(contents(out) == before, "something but the list of events was changed")
        rows.append(row)
    return rows


def full_disk(shop: Workshop) -> list[Row]:
    """A disk that is full: one sentence, what was saved stays, and with room it goes on exactly."""
    command = shop.command("full")
    path = shop.settled(command)
    whole = command.folder / "whole"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    rows = []
    row = Row("a disk that becomes full (a tmpfs of 60 to 700 KiB), then room and `--resume`")
    for kib in (150, 300) if shop.kills < 8 else (60, 150, 200, 250, 300, 700):
        with small_disk(command.folder / f"disk-{kib}", kib) as disk:
            if disk is None:
                break
            out = disk / "out"
            code, said = command.run(*shop.arguments(path, out))
            row.times += 1
            instead = {str(out): "DIR"}
            row.hear(re.sub(r"checkpoints/\w+", "checkpoints/NAME", said.replace(str(out), "DIR")))
            row.expect(code == 2 and said.count("\n") == 0, f"{kib} KiB: {code} {said[-300:]}")
            saved = [f for name in ("last", "best") for f in damaged_where(out, name)]
            row.details[f"checkpoints there at {kib} KiB"] = len(saved)
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            resume = ["--resume"] if out.exists() else []
            code, said = command.run(*shop.arguments(path, out, *resume))
            row.expect(code == 0 and not same(out, whole), f"{kib} KiB, resumed: {code} {said} {instead}")
    if row.times:
        rows.append(row)
    row = Row("files that may only grow to a limit (a quota on each file), then without it `--resume`")
    for limit in (4_000, 20_000, 80_000)[: 1 if shop.kills < 8 else 3]:
        out = command.folder / f"limit-{limit}"
        code, said = command.run(*shop.arguments(path, out), largest_file=limit)
        row.times += 1
        row.hear(re.sub(r"checkpoints/\w+", "checkpoints/NAME", said.replace(str(out), "DIR")))
        row.expect(code == 2 and said.count("\n") == 0, f"limit {limit}: {code} {said[-300:]}")
        resume = ["--resume"] if out.exists() else []
        code, said = command.run(*shop.arguments(path, out, *resume))
        row.expect(code == 0 and not same(out, whole), f"limit {limit}, resumed: {code} {said}")
    return [*rows, row]


def unwritable(shop: Workshop) -> list[Row]:
    """Directories that can't be written, at the beginning and afterwards."""
    command = shop.command("unwritable")
    path = shop.settled(command, epochs=2)
    rows = []
    file = command.folder / "file"
    file.write_text("a file")
    for place, what in (
        (file / "out", "a run directory beneath a file"),
        (Path("/proc/thalweg/out"), "a run directory where none can be made (/proc)"),
    ):
        row = Row(what, times=1)
        code, said = command.run(*shop.arguments(path, place))
        one_sentence(row, code, said, {str(place): "DIR", str(command.folder) + "/": ""})
        row.expect(file.read_text() == "a file", "the file was changed")
        rows.append(row)
    whole = command.folder / "whole"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    row = Row("a run directory that has become read-only, then writable again")
    with small_disk(command.folder / "disk", 8192) as disk:
        if disk is not None:
            out = disk / "out"
            process = command.start(*shop.arguments(path, out))
            while process.running() and not damaged_where(out, "last"):
                time.sleep(0.002)
            process.send(signal.SIGKILL)
            process.wait()
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            row.times, (code, said) = 1, command.run(*shop.arguments(path, out, "--resume"))
            one_sentence(row, code, said, {str(out): "DIR"})
            subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
            code, said = command.run(*shop.arguments(path, out, "--resume"))
            row.expect(code == 0 and not same(out, whole), f"resumed: {code} {said}")
            rows.append(row)
    return rows


def changed(shop: Workshop) -> list[Row]:
    """What a training was begun with has changed: refused in one sentence, and brought back it goes on."""
    command = shop.command("changed")
    draws = random.Random(shop.seed)
    lines = ["a,b,kind"]
    for number in range(240):
        lines.append(f"{draws.gauss(0, 1):.4f},{draws.gauss(0, 1):.4f},{'xyz'[number % 3]}")
    table = command.folder / "t.csv"
    table.write_text("\n".join(lines) + "\n")
    recipe = {**SETTLED, "data": {"spec": "t.csv", "target": "kind"}}
    training = {"batch_size": 8, "epochs": max(10, round(60 * shop.work)), "evaluations": 5}
    path = recipes.write({**recipe, "training": training}, command.folder)
    whole, out = command.folder / "whole", command.folder / "out"
    assert command.run(*shop.arguments(path, whole)) == (0, "")
    process = command.start(*shop.arguments(path, out))
    while process.running() and not damaged_where(out, "last"):
        time.sleep(0.002)
    process.send(signal.SIGKILL)
    assert process.wait() == -9
    rows = []

    def refused(what: str, *arguments: str | Path, back: Callable[[], Any] = lambda: None) -> None:
        row = Row(what, times=1)
        before = contents(out)
        code, said = command.run(*(arguments or shop.arguments(path, out, "--resume")))
        one_sentence(
            row, code, said, {str(out): "DIR", f"{command.folder}/": "", str(command.folder): "FOLDER"}
        )
        row.expect(contents(out) == before, "something in the directory was changed")
        back()
        rows.append(row)

    def replaced(name: str, content: str) -> Callable[[], Any]:
        file = command.folder / name
        kept = file.read_text()
        file.write_text(content)
        return lambda: file.write_text(kept)

    rows_of = table.read_text()
    refused("a data set of which one number changed", back=replaced("t.csv", rows_of.replace("1", "2", 1)))
    refused("a data set with a row more", back=replaced("t.csv", rows_of + "0.5,0.5,x\n"))
    refused("a data set that is gone", back=_moved(table))
    other = {**recipe, "optimizer": {"name": "adam", "lr": 0.006}, "training": training}
    refused("a recipe that changed", back=replaced("recipe.toml", tomli_w.dumps(other)))
    refused(
        "a recipe's optimizer under `--set`",
        *shop.arguments(path, out, "--resume", "--set", "optimizer.name=sgd"),
    )
    refused("no `--resume` where a training stands", *shop.arguments(path, out))
    kept = (out / "config.toml").read_text()
    (out / "config.toml").write_text(kept[: len(kept) // 2])
    refused("a `config.toml` cut in two", back=lambda: (out / "config.toml").write_text(kept))
    (out / "config.toml").write_text('kind = "train"\n')
    refused("a `config.toml` without a recipe", back=lambda: (out / "config.toml").write_text(kept))
    kept_events = (out / "events.jsonl").read_bytes()
    (out / "events.jsonl").write_bytes(b"\x00garbage\n" + kept_events)
    refused("garbage in `events.jsonl`", back=lambda: (out / "events.jsonl").write_bytes(kept_events))
    foreign = command.folder / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    refused("`--resume` in a directory of something else", *shop.arguments(path, foreign, "--resume"))
    refused("`--out` onto a directory of something else", *shop.arguments(path, foreign))
    rows[-1].expect(contents(foreign) == {"thesis.txt": b"years of work"}, "the foreign file was touched")
    race = command.folder / "race"
    assert command.run(*_race(race))[0] == 0
    refused("`--resume` in a race's directory", *shop.arguments(path, race, "--resume"))
    with (out / "events.jsonl").open("ab") as file:
        file.write(b'{"event": "evalua')
    row = Row("a line torn at the end of `events.jsonl`, then `--resume`", times=1)
    code, said = command.run(*shop.arguments(path, out, "--resume"))
    row.expect(code == 0 and not same(out, whole), f"{code} {said}")
    rows.append(row)
    row = Row("all of the above brought back, and `--resume`, in the same directory", times=1)
    row.expect(code == 0 and not same(out, whole), f"{code} {said}")
    return [*rows, row]


def _moved(file: Path) -> Callable[[], Any]:
    away = file.with_suffix(".away")
    file.rename(away)
    return lambda: away.rename(file)


def together(shop: Workshop) -> list[Row]:
    """Several processes take up the same directory at once: one goes on, the others are told."""
    row = Row("three processes with `--resume` in one directory at once")
    with _half_way(shop, "together") as (command, path, half, whole):
        for number in range(1 if shop.kills < 8 else 4):
            out = command.folder / f"out-{number}"
            shutil.copytree(half, out)
            running = [command.start(*shop.arguments(path, out, "--resume")) for _ in range(3)]
            codes = sorted(process.wait() for process in running)
            row.times += 1
            row.expect(codes[0] == 0 and set(codes) <= {0, 2}, f"they ended with {codes}")
            row.details.setdefault("exit_codes", []).append(codes)
            for process in running:
                if process.code() == 2:
                    row.hear(process.sentence(), instead={str(out): "DIR"})
            row.expect(not same(out, whole), f"it differs: {same(out, whole)}")
    return [row]


def _race(out: Path, *more: str) -> list[str | Path]:
    return [
        "race", "--data", "iris", "--model", "linear", "--optimizers", "sgd,adam", "--trials", "4",
        "--splits", "3", "--confirm", "1", "--epochs", "3", "--out", out, *more,
    ]  # fmt: skip


def races(shop: Workshop) -> list[Row]:
    """SIGKILL at random moments of a race: its results are those of one that was left alone."""
    row = Row("SIGKILL at a random moment of `thalweg race`, then `--resume`")
    rng = random.Random(f"{shop.seed} races")
    command = shop.command("races")
    whole = command.folder / "whole"
    begun = time.monotonic()
    assert command.run(*_race(whole))[0] == 0
    lasts = time.monotonic() - begun
    for number in range(1 if shop.kills < 8 else 3):
        out = command.folder / f"out-{number}"
        for _ in range(3):
            resume = ["--resume"] if out.exists() else []
            process = command.start(*_race(out, *resume))
            time.sleep(rng.uniform(0, lasts))
            process.send(signal.SIGKILL)
            row.times += process.wait() == -9
        resume = ["--resume"] if out.exists() else []
        code, said = command.run(*_race(out, *resume))
        row.expect(code == 0, f"race {number}: {code} {said}")
        if code == 0:
            found, wanted = (_outcome(each) for each in (out, whole))
            row.lost += [f"race {number}: {key} differs" for key in wanted if found[key] != wanted[key]]
    return [row]


def _outcome(out: Path) -> dict[str, Any]:
    """Of a race: all that no clock decides."""
    import json

    values = json.loads((out / "results.json").read_text(encoding="utf-8"))
    parts = ("data", "model", "plan", "optimizers", "verdict", "elimination")
    return {
        **{part: values[part] for part in parts},
        "winner.toml": (out / "winner.toml").read_text(encoding="utf-8"),
    }


Scenario: TypeAlias = Callable[[Workshop], list[Row]]

SCENARIOS: tuple[Scenario, ...] = (
    killed,
    asked,
    damaged,
    full_disk,
    unwritable,
    changed,
    together,
    races,
    *outputs.SCENARIOS,
    *pairs.SCENARIOS,
)
"""In the order of the table."""
