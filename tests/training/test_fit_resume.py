"""Killed at any moment, again and again, ``fit`` ends with the bits of a training that was left alone."""

from __future__ import annotations

import functools
import os
import random
import shutil
import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

import forking
import thalweg
from thalweg.errors import Interrupted, RunDirectoryError
from thalweg.run.directory import RunDirectory, save_state
from thalweg.run.threads import with_threads
from thalweg.strategies import (
    Augmentation,
    Averaging,
    BatchSize,
    Clipping,
    EarlyStopping,
    Guard,
    Initialization,
    ReduceOnPlateau,
    Snapshots,
    Strategy,
    names,
)
from thalweg.training import Fitted
from thalweg.training.checkpoints import Writer
from thalweg.training.watch import TrainingWatcher

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills processes")

X = torch.randn(48, 5, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()


class Noisy:
    """A Dataset that draws from all three generators, as augmentation of a person's own may."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        noise = torch.randn(5) + np.random.normal() + random.gauss(0, 1)  # noqa: NPY002
        return X[position] + 0.05 * noise, Y[position]


class Pictures(Noisy):
    """The same as images of one row, between black and white."""

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        inputs, target = super().__getitem__(position)
        return inputs.reshape(1, 1, 5), target


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )


STRATEGIES: dict[str, Callable[[], list[Strategy]]] = {
    "nothing": list,
    "initialization": lambda: [Initialization(scheme="orthogonal", gain=1.5)],
    "augmentation": lambda: [
        Augmentation(translate=0.2, scale=1.2, flip=0.5, brightness=0.2, fill="black", chance=0.9)
    ],
    "guard": lambda: [Guard(every=3, bound=1.3), Averaging()],
    "clipping": lambda: [Clipping(norm=0.5, value=0.1, unit=0.1)],
    "averaging": lambda: [Averaging(kind="tail", every=2)],
    "snapshots": lambda: [Snapshots(cycles=3)],
    "plateau": lambda: [ReduceOnPlateau(patience=0, decay=0.5)],
    "batch-size": lambda: [BatchSize(growth=4, shape="exponential")],
    "early-stopping": lambda: [EarlyStopping(patience=9)],
    "all but stopping": lambda: [
        Initialization(scheme="he"), Guard(every=4, bound=1.5), Clipping(norm=1.0), Averaging(),
        Snapshots(cycles=2), ReduceOnPlateau(), BatchSize(growth=2),
    ],
}  # fmt: skip
DATA: dict[str, Callable[[], Any]] = {
    "items": Noisy,
    "pictures": Pictures,
    "loader": lambda: DataLoader(Noisy(), batch_size=8, shuffle=True),
    "loader of pictures": lambda: DataLoader(Pictures(), batch_size=8, shuffle=True),
}


def train(
    out: Path | None,
    strategies: str,
    data: str = "items",
    *,
    resume: bool = False,
    optimizer: str | None = None,
    **more: Any,
) -> Fitted:
    return thalweg.fit(
        network(), DATA[data](), nn.functional.cross_entropy,
        optimizer or functools.partial(torch.optim.Adam, lr=0.05),
        "cosine", STRATEGIES[strategies](), epochs=3, batch_size=8, seed=5, validation=(X[:, None, None], Y),
        metric="accuracy", evaluations=6, out=out, resume=resume, checkpoint_seconds=0.0, **more,
    )  # fmt: skip


def _child(
    out: Path,
    strategies: str,
    data: str,
    resume: bool,
    dies_at: int | None,
    place: str,
    optimizer: str | None,
) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    calls = 0

    def count() -> None:
        nonlocal calls
        calls += 1
        if calls == dies_at:
            os.kill(os.getpid(), signal.SIGINT if place == "interrupt" else signal.SIGKILL)

    if place == "written":
        # a busy writer is passed over, so how many checkpoints there are would depend on the disk
        Writer.busy = property(lambda self: self.wait() is not None)  # type: ignore[assignment]
    if place in ("step", "written", "interrupt"):
        step = torch.optim.Adam.step

        def counted(*args: Any, **kwargs: Any) -> Any:
            count()
            return step(*args, **kwargs)

        torch.optim.Adam.step = counted  # type: ignore[method-assign]
    else:
        replace = Path.replace

        def replaced(self: Path, target: Any) -> Any:
            if Path(target).suffix == ".pt":
                count()
            return replace(self, target)

        Path.replace = replaced  # type: ignore[method-assign]
    try:
        train(out, strategies, data, resume=resume, optimizer=optimizer)
    except Interrupted as interrupted:
        os._exit(130 if "everything is saved, and resume=True goes on" in str(interrupted) else 1)
    os._exit(0)


def run(
    out: Path,
    strategies: str,
    data: str = "items",
    *,
    resume: bool,
    dies_at: int | None = None,
    place: str = "step",
    optimizer: str | None = None,
) -> int:
    process = forking.context().Process(
        target=_child, args=(out, strategies, data, resume, dies_at, place, optimizer)
    )
    process.start()
    process.join(120)
    assert process.exitcode is not None, "it hangs"
    return process.exitcode


def ends_alike(out: Path, strategies: str, data: str = "items", optimizer: str | None = None) -> None:
    """What stands in ``out``, finished here, is what a training without ``out`` comes to."""
    found = train(out, strategies, data, resume=True, optimizer=optimizer)
    expected = train(None, strategies, data, optimizer=optimizer)
    for (name, value), other in zip(
        found.model.state_dict().items(), expected.model.state_dict().values(), strict=True
    ):
        assert torch.equal(value, other), name
    assert [asdict(e) for e in found.curve] == [asdict(e) for e in expected.curve]
    assert found.final == expected.final
    assert found.best == expected.best
    assert found.best_state is not None
    assert expected.best_state is not None
    assert all(torch.equal(found.best_state[name], value) for name, value in expected.best_state.items())
    assert [n for n in found.notes if "step" not in n] == [n for n in expected.notes if "step" not in n]
    assert not [path.name for path in out.rglob("*.draft")]


def test_every_strategy_is_here() -> None:
    assert set(names()) <= set(STRATEGIES)


@pytest.mark.parametrize(
    ("strategies", "data"),
    [
        *((name, "pictures" if name == "augmentation" else "items") for name in STRATEGIES),
        ("nothing", "loader"),
        ("averaging", "loader"),
        ("augmentation", "loader of pictures"),
    ],
)
def test_killed_twice_it_ends_alike(strategies: str, data: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, strategies, data, resume=False, dies_at=5) == -9
    assert run(out, strategies, data, resume=True, dies_at=6) == -9
    ends_alike(out, strategies, data)


@pytest.mark.parametrize(
    "optimizer", ["lbfgs", "bfgs", "cg-hz", "newton-cg", "gauss-newton", "levenberg-marquardt", "muon",
                  "schedule-free"],
)  # fmt: skip
def test_optimizers_that_keep_more_than_moments_end_alike(optimizer: str, tmp_path: Path) -> None:
    """Searches, directions and models of the loss; killed in the middle of an epoch, twice."""
    out = tmp_path / "out"
    chosen = {"place": "checkpoint", "optimizer": optimizer}
    assert run(out, "nothing", resume=False, dies_at=6, **chosen) == -9
    assert run(out, "nothing", resume=True, dies_at=5, **chosen) == -9
    ends_alike(out, "nothing", optimizer=optimizer)


@pytest.mark.parametrize("dies_at", [1, 2, 7])
def test_killed_while_a_checkpoint_is_written(dies_at: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "averaging", resume=False, dies_at=dies_at, place="checkpoint") == -9
    ends_alike(out, "averaging")


def test_interrupted_it_saves_first(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "guard", resume=False, dies_at=4, place="interrupt") == 130
    assert RunDirectory.read(out).load_checkpoint("last")["updates"] == 4
    ends_alike(out, "guard")


def damage(out: Path, newest: int) -> None:
    files = sorted((out / "checkpoints").glob("last.*.pt"), reverse=True)
    assert len(files) == 3
    for file in files[:newest]:
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def test_a_damaged_checkpoint_is_said_and_the_one_before_used(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "averaging", resume=False, dies_at=8, place="written") == -9
    damage(out, 1)
    ends_alike(out, "averaging")
    events = [e for e in RunDirectory.read(out).events() if e["event"] == "checkpoint damaged"]
    assert len(events) == 1


def test_one_damaged_file_of_the_best_weights_costs_nothing(tmp_path: Path) -> None:
    """All states are from after the best evaluation, that of step 3, whose weights lie there twice."""
    out = tmp_path / "out"
    assert run(out, "averaging", resume=False, dies_at=9, place="written") == -9
    best = sorted((out / "checkpoints").glob("best.*.pt"), reverse=True)
    best[0].write_bytes(b"")
    ends_alike(out, "averaging")


def test_damaged_best_weights_are_found_anew_or_said_to_be_lost(tmp_path: Path) -> None:
    """A state goes with best weights that it knows; where these are damaged an older state is taken."""
    out = tmp_path / "out"
    # the oldest of three states, that of step 2, is from before the evaluation at step 3, the best one
    assert run(out, "averaging", resume=False, dies_at=5, place="written") == -9
    best = sorted((out / "checkpoints").glob("best.*.pt"), reverse=True)
    lost = tmp_path / "lost"
    shutil.copytree(out, lost)
    best[0].write_bytes(b"")
    ends_alike(out, "averaging")
    for file in (lost / "checkpoints").glob("best.*.pt"):
        file.unlink()
    found = train(lost, "averaging", resume=True)
    assert "the checkpoint with the best weights" in found.notes[0]
    if found.best is not None:
        assert found.best_state is not None


@pytest.mark.parametrize("what", ["network", "garbage"])
def test_a_checkpoint_that_does_not_fit_is_one_sentence(what: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "nothing", resume=False, dies_at=8) == -9
    last = sorted((out / "checkpoints").glob("last.*.pt"))
    state = RunDirectory.read(out).load_checkpoint("last")
    if what == "network":
        state["model"]["1.weight"] = torch.zeros(3, 3)
    else:
        del state["batches"]
    for file in last:
        file.unlink()
    save_state(out / "checkpoints" / "last", state)
    with pytest.raises(RunDirectoryError, match="doesn't fit the model and the optimizer") as caught:
        train(out, "nothing", resume=True)
    assert "\n" not in str(caught.value)


def test_all_checkpoints_damaged_is_one_sentence(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run(out, "nothing", resume=False, dies_at=8, place="written") == -9
    damage(out, 3)
    with pytest.raises(RunDirectoryError, match="is damaged, and so is any before it"):
        train(out, "nothing", resume=True)


def test_a_full_disk_is_one_sentence_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, written = tmp_path / "out", 0
    save = torch.save

    def full(state: Any, file: Any) -> None:
        nonlocal written
        written += 1
        if written > 6:
            raise OSError(28, "No space left on device")
        save(state, file)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", full)
        # a busy writer is passed over, and how many saves there are would depend on the machine
        patched.setattr(Writer, "busy", property(lambda writer: writer.wait() is not None))
        with pytest.raises(RunDirectoryError, match=r"no space left on device.*intact.*resume=True"):
            train(out, "averaging")
    ends_alike(out, "averaging")


def test_a_resume_takes_the_threads_it_was_begun_with(tmp_path: Path) -> None:
    class Notes(TrainingWatcher):
        def __init__(self) -> None:
            self.heard: list[str] = []

        def note(self, text: str) -> None:
            self.heard.append(text)

    seen: list[int] = []

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        seen.append(torch.get_num_threads())
        if len(seen) == 7:
            raise RuntimeError("the power went out")
        return nn.functional.cross_entropy(outputs, targets)

    def carried(out: Path, threads: int, *, resume: bool = False) -> Fitted:
        with with_threads(threads):
            fitted = thalweg.fit(
                network(), (X[:, None, None], Y), loss, "adam", epochs=3, batch_size=8, seed=5, out=out,
                resume=resume, checkpoint_seconds=0.0, watcher=notes,
            )  # fmt: skip
            assert torch.get_num_threads() == threads
        return fitted

    notes = Notes()
    with pytest.raises(RuntimeError, match="power"):
        carried(tmp_path / "out", 3)
    carried(tmp_path / "out", 2, resume=True)
    assert set(seen) == {3}
    assert "going on with 3 threads, as it began: another number rounds sums in another order" in notes.heard
    del notes.heard[:], seen[:]
    with pytest.raises(RuntimeError, match="power"):
        carried(tmp_path / "again", 2)
    carried(tmp_path / "again", 2, resume=True)
    assert not any("threads" in each for each in notes.heard)
