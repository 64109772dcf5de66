"""Scenarios of trainings of two processes under torchrun, by DDP and by FSDP2."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from faults import recipes
from faults.damage import BOMB, DAMAGES, malicious
from faults.process import Process, at_random, damaged_where, left_over, moment_of, same, under_way
from faults.table import Row
from faults.torchrun import Torchrun, end, interrupted, ranks, sentences
from faults.workshop import SETTLED, Workshop, contents, last_state, small_disk

__all__ = ["SCENARIOS"]

_NAMES = {"ddp": "DDP", "fsdp2": "FSDP2"}
_TARGETS = ("both processes", "process 0", "process 1", "torchrun")
# sums of two shares are rounded otherwise than those of a whole, and Adam carries that on
_TOLERANCE = 2e-3


@dataclass
class _Pair:
    """A recipe for two processes, and what it comes to when it is left alone.

    Attributes:
        command: starts it.
        path: of the recipe.
        whole: the run directory of the training that was left alone.
        ends: its exit code: a guard that gives up ends with 1, and so must whatever is resumed.
        starts: seconds until it took steps.
        lasts: seconds from then on to its results.
    """

    command: Torchrun
    path: Path
    whole: Path
    ends: int
    starts: float
    lasts: float

    def arguments(self, out: Path, *more: str, seconds: float = 0.0) -> list[str | Path]:
        resume = ["--resume"] if out.exists() else []
        return ["train", self.path, "--out", out, "--checkpoint-seconds", str(seconds), *resume, *more]

    def start(self, out: Path, *more: str, seconds: float = 0.0) -> Process:
        return self.command.start(*self.arguments(out, *more, seconds=seconds))

    def run(self, out: Path, *more: str, seconds: float = 60.0) -> tuple[int, list[str]]:
        """Train to the end; return the exit code and what was said."""
        process = self.start(out, "--quiet", *more, seconds=seconds)
        code = process.wait()
        return code, sentences(process.sentence())

    def ends_alike(self, out: Path) -> list[str]:
        """Finish what was begun, and say in what it differs from what was left alone."""
        code, said = self.run(out)
        if bool(code) != bool(self.ends):
            return [f"the last resume ended with {code}: {said}"]
        return [f"{part} differs" for part in same(out, self.whole)]


def _pair(shop: Workshop, name: str, recipe: dict[str, Any], *, forked: bool) -> _Pair:
    command = Torchrun(shop.folder / name, forked=forked)
    path, whole = recipes.write(recipe, command.folder), command.folder / "whole"
    pair = _Pair(command, path, whole, 0, 0.0, 0.0)
    begun = time.monotonic()
    process = pair.start(whole, "--quiet", seconds=60)
    before = under_way(whole)
    while process.running() and under_way(whole) == before:
        time.sleep(0.005)
    pair.starts = time.monotonic() - begun
    while process.running() and not (whole / "results.json").exists():
        time.sleep(0.005)
    pair.lasts = time.monotonic() - begun - pair.starts
    pair.ends = process.wait()
    assert (whole / "results.json").exists(), process.sentence()
    return pair


def _settled(
    shop: Workshop, name: str, parallel: str, model: str = "net.py:network", *, forked: bool = True
) -> _Pair:
    """A recipe of which only what is given varies; forked where it isn't the starting that is tried."""
    training = {
        "batch_size": 24, "epochs": max(2, round(3 * shop.work)), "evaluations": 6, "parallel": parallel
    }  # fmt: skip
    return _pair(shop, name, {**SETTLED, "model": {"spec": model}, "training": training}, forked=forked)


def _half_way(pair: _Pair, out: Path) -> None:
    """Kill a training once it has left several checkpoints of each name."""
    process = pair.start(out, "--quiet")
    while process.running() and not _has_several(out):
        time.sleep(0.005)
    pids = ranks(process)
    _kill(pids)
    end(process, pids)
    assert not (out / "results.json").exists(), process.sentence()


def _has_several(out: Path) -> bool:
    return len(damaged_where(out, "last")) >= 3 and len(damaged_where(out, "best")) >= 2


def killed_of_two(shop: Workshop) -> list[Row]:
    """SIGKILL at random moments of both processes, of one of them, and of torchrun; each taken up again."""
    # of each way to start recipes by DDP and by FSDP2, with so many kills
    plans = [
        (forked, parallel, wanted)
        for forked, wanted in ((False, shop.kills // 15), (True, shop.kills // 10))
        for parallel in _NAMES
        if forked or not shop.forked
    ]
    if shop.kills < 8:
        plans = [(True, "fsdp2", 2)]
    rows: dict[tuple[str, bool], Row] = {}
    for forked in (False, True):
        launcher = _launcher(forked)
        for target in _TARGETS:
            hit = f"{target} under {launcher}" if target != "torchrun" else launcher
            rows[target, forked] = Row(f"SIGKILL of {hit} (DDP, FSDP2) at a random moment, then `--resume`")
    for number, (forked, parallel, wanted) in enumerate(plans):
        targets = [_TARGETS[(number // 2 + kill) % len(_TARGETS)] for kill in range(wanted)]
        _killed(shop, number, parallel, targets, {name: rows[name, forked] for name in _TARGETS}, forked)
    return [row for row in rows.values() if row.times]


def _killed(
    shop: Workshop, number: int, parallel: str, targets: list[str], rows: dict[str, Row], forked: bool
) -> None:
    rng = random.Random(f"{shop.seed} {parallel} {number}")
    recipe = recipes.draw_for_two(rng, parallel, shop.work)
    pair = _pair(shop, f"two-{number}", recipe, forked=forked)
    seconds = rng.choice([0.0, 0.1])
    out = pair.command.folder / "out"
    lost: list[str] = []
    left = list(targets)
    # the training that was timed may have had a slower start, or a busier machine, than those that are hit
    haste = 1.0
    for attempt in range(4 * len(targets)):
        if not left:
            break
        if (out / "results.json").exists():
            # the next ones hit another training of the same recipe
            lost += pair.ends_alike(out)
            out = pair.command.folder / f"out-{attempt}"
        process = pair.start(out, "--quiet", seconds=seconds)
        soon = haste * 1.5 * pair.lasts / len(targets)
        running = at_random(process, out, rng, soon, starting=haste * (pair.starts + 0.3 * pair.lasts))
        pids = ranks(process)
        if not running or len(pids) < 2:
            haste *= 0.5
            process.send(signal.SIGTERM)
            end(process, pids)
            continue
        target = left.pop(0)
        hit = {
            "both processes": pids,
            "process 0": pids[:1],
            "process 1": pids[1:],
            "torchrun": [process.pid],
        }
        _kill(hit[target])
        # without torchrun they go on
        moment = moment_of(out) if target == "torchrun" else ""
        lasted = end(process, pids)
        _take_down(rows[target], process, out, lasted, moment or moment_of(out))
    lost += pair.ends_alike(out)
    done = {"recipe": recipe, "checkpoint_seconds": seconds, "targets": targets, "not_hit": left}
    for target in dict.fromkeys(targets):
        rows[target].details.setdefault("trainings", []).append(done)
        rows[target].lost += [f"training {number}: {each}" for each in lost]
    if not lost:
        shutil.rmtree(pair.command.folder)


def _launcher(forked: bool) -> str:
    return "a stand-in for torchrun that forks" if forked else "torchrun"


def _take_down(row: Row, process: Process, out: Path, lasted: float, moment: str) -> None:
    """Write down what came of a kill."""
    row.times += 1
    longest = row.details.get("longest_seconds_to_end", 0.0)
    row.details["longest_seconds_to_end"] = max(round(lasted, 1), longest)
    for sentence in sentences(process.sentence()):
        row.hear(re.sub(r"step \d+ of \d+", "step N of M", sentence), instead={str(out): "DIR"})
        row.expect(not sentence.startswith("File "), f"a traceback: {process.sentence()[-2000:]}")
    moments = Counter(row.details.get("moments", {}))
    moments[moment] += 1
    row.details["moments"] = dict(moments)


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def asked_of_two(shop: Workshop) -> list[Row]:
    """SIGTERM to torchrun: both save at one step, it is said once, and they go on exactly."""
    from thalweg.training.sharding import unsharded

    row = Row(f"SIGTERM to {_launcher(shop.forked)} with two processes (DDP, FSDP2), then `--resume`")
    for parallel in list(_NAMES)[1 if shop.kills < 8 else 0 :]:
        pair = _settled(shop, f"two-asked-{parallel}", parallel, forked=shop.forked)
        rng = random.Random(f"{shop.seed} asked {parallel}")
        for number in range(2 if parallel == "fsdp2" and shop.kills >= 8 else 1):
            out = pair.command.folder / f"out-{number}"
            # a minute between checkpoints: what is there afterwards was saved because it was asked for
            process = pair.start(out, "--quiet", seconds=60)
            while process.running() and not under_way(out)[:1] > (0,):
                time.sleep(0.005)
            time.sleep(rng.uniform(0, 0.8 * pair.lasts))
            pids = ranks(process)
            process.send(signal.SIGTERM)
            end(process, pids)
            if (out / "results.json").exists():
                continue
            row.times += 1
            said = sentences(process.sentence())
            for sentence in said:
                row.hear(re.sub(r"step \d+ of \d+", "step N of M", sentence))
            row.expect(len(said) == 1 and interrupted(said[0]), f"it said: {said}")
            saved = unsharded(last_state(out))
            step = re.search(r"step (\d+)", " ".join(said))
            row.expect(
                bool(step and saved and saved["step"] == int(step[1])), "the step it was at isn't saved"
            )
            row.lost += pair.ends_alike(out)
    return [row]


def damaged_shards(shop: Workshop) -> list[Row]:
    """Shards of the newest checkpoint damaged or gone: recognised, said, and the one before used."""
    rows = []
    pair = _settled(shop, "two-damaged", "fsdp2")
    half = pair.command.folder / "half"
    _half_way(pair, half)
    kinds = list(_SHARD_DAMAGES.items())
    for number, (kind, damage) in enumerate(kinds[:: 3 if shop.kills < 8 else 1]):
        # now the one, now the other process's, of what goes on and of what was best
        name = ("last", "last", "best")[number % 3]
        row = Row(f"of the newest checkpoint by FSDP2 {kind}", times=1)
        out = pair.command.folder / f"out-{number}"
        shutil.copytree(half, out)
        damage(damaged_where(out, name)[0], number % 2)
        newest = damaged_where(out, name)[0]
        process = pair.start(out, seconds=60)
        code, said = process.wait(), process.sentence()
        row.expect(code == 0 and not same(out, pair.whole), f"{name}: {code} {said[-500:]}")
        told = " ".join(process.shown.read_text(encoding="utf-8").split())
        heard = re.search(r"the checkpoint \S+ is damaged; the one before it is used", told)
        events = (out / "events.jsonl").read_text(encoding="utf-8")
        row.expect(heard is not None and newest.name in events, f"{name}: the damage isn't said")
        row.hear(re.sub(r"checkpoint \S+", "checkpoint NAME", heard[0]) if heard else "")
        row.expect(not (pair.command.folder / BOMB).exists(), "code in the file was run")
        shutil.rmtree(out)
        rows.append(row)
    return rows


def _shards_of(checkpoint: Path) -> Path:
    import torch

    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return checkpoint.with_name(state["thalweg.shards"]["folder"])


def _on_a_shard(kind: str) -> Callable[[Path, int], object]:
    return lambda checkpoint, rank: DAMAGES[kind](next(_shards_of(checkpoint).glob(f"__{rank}_*")))


def _swap_index(checkpoint: Path, rank: int) -> None:
    """Put a pickle that runs a command in the place of the index, with all checksums right."""
    import torch

    from thalweg.run.directory.writing import checksum

    index = _shards_of(checkpoint) / ".metadata"
    index.write_bytes(malicious())
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    state["thalweg.shards"]["files"][".metadata"] = checksum(index)
    torch.save(state, checkpoint)
    stem, count, _, ending = checkpoint.name.rsplit(".", 3)
    checkpoint.rename(checkpoint.with_name(f"{stem}.{count}.{checksum(checkpoint)}.{ending}"))


_SHARD_DAMAGES: dict[str, Callable[[Path, int], object]] = {
    "a shard with a flipped bit": _on_a_shard("with a flipped bit"),
    "a shard cut in two": _on_a_shard("cut in two"),
    "a shard emptied": _on_a_shard("emptied"),
    "a shard deleted": _on_a_shard("deleted"),
    "all shards deleted": lambda checkpoint, rank: shutil.rmtree(_shards_of(checkpoint)),
    "the index of shards replaced by a pickle that runs a command, with checksums that fit": _swap_index,
    "the file beside the shards emptied": lambda checkpoint, rank: checkpoint.write_bytes(b""),
}


def full_disk_of_two(shop: Workshop) -> list[Row]:
    """A disk that becomes full while shards are written: one sentence, and with room they go on exactly."""
    row = Row("a disk that becomes full under two processes (DDP, FSDP2), then room and `--resume`")
    for parallel, sizes in {"fsdp2": (100, 250), "ddp": (150,)}.items():
        if shop.kills < 8 and parallel == "ddp":
            break
        pair = _settled(shop, f"two-full-{parallel}", parallel)
        for kib in sizes[: 1 if shop.kills < 8 else 2]:
            with small_disk(pair.command.folder / f"disk-{kib}", kib) as disk:
                if disk is None:
                    return []
                out = disk / "out"
                code, said = pair.run(out, seconds=0)
                row.times += 1
                for sentence in said:
                    general = re.sub(r"/(last|best)[.\w]*", "/NAME", sentence.replace(str(out), "DIR"))
                    row.hear(general)
                row.expect(
                    code != 0 and len(said) == 1 and "no space left on device" in said[0],
                    f"{parallel}, {kib} KiB: {code} {said}",
                )
                saved = len(damaged_where(out, "last")) + len(damaged_where(out, "best"))
                row.details[f"checkpoints there at {kib} KiB, {_NAMES[parallel]}"] = saved
                subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
                row.lost += [f"{parallel}, {kib} KiB: {each}" for each in pair.ends_alike(out)]
    return [row]


def other_worlds(shop: Workshop) -> list[Row]:
    """Going on with another number of processes: said what is no longer exact, and trained to the end."""
    rows = []
    for parallel, numbers in (("fsdp2", (2, 1, 2)), ("ddp", (1, 2)), ("ddp", (2, 1))):
        if shop.kills < 8 and rows:
            break
        words = ", then ".join("one process" if number == 1 else "two" for number in numbers)
        row = Row(f"killed and taken up with another number of processes, {_NAMES[parallel]}: {words}", 1)
        pair = _settled(shop, f"worlds-{len(rows)}", parallel, "mlp:24")
        alone = shop.command(f"worlds-{len(rows)}/alone")
        out = pair.command.folder / "out"
        for turn, number in enumerate(numbers):
            before = contents(out)
            arguments = pair.arguments(out)
            process = pair.command.start(*arguments) if number == 2 else alone.start(*arguments)
            if turn < len(numbers) - 1:
                _kill_when_saved(process, out, number, set(before))
                continue
            code = process.wait()
            row.expect(code == 0, f"it ended with {code}: {process.sentence()[-500:]}")
            if code == 0:
                row.expect(not left_over(out), f"shards are left over: {left_over(out)}")
                off = _distance(out, pair.whole)
                row.details["largest_difference_of_a_weight"] = off
                row.expect(off <= _TOLERANCE, f"a weight is off by {off}")
        if number != numbers[-2]:
            told = " ".join(process.shown.read_text(encoding="utf-8").split())
            heard = re.search(r"the checkpoint is of (\w+ )+and goes on in .*? the rest is exact", told)
            row.expect(heard is not None, f"it isn't said: {told[:500]}")
            row.hear(heard[0] if heard else "")
        rows.append(row)
    return rows


def _kill_when_saved(process: Process, out: Path, number: int, before: set[str]) -> None:
    """Kill a training once it has saved anew."""

    def saved() -> bool:
        return any(f"checkpoints/{file.name}" not in before for file in damaged_where(out, "last"))

    while process.running() and not saved():
        time.sleep(0.005)
    pids = ranks(process) if number == 2 else [process.pid]
    _kill(pids)
    end(process, pids)


def _distance(out: Path, expected: Path) -> float:
    found, wanted = (safetensors.torch.load_file(each / "weights.safetensors") for each in (out, expected))
    return max(float((found[name] - value).abs().max()) for name, value in wanted.items())


SCENARIOS = (killed_of_two, asked_of_two, damaged_shards, full_disk_of_two, other_worlds)
"""In the order of the table."""
