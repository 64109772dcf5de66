"""Two processes as torchrun starts them, and what they train: for the tests of many processes.

Both are started by fork from a process that has imported everything, so that a pair costs no import.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import os
import shutil
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.checkpoint.filesystem import FileSystem
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, TensorDataset

import forking
import thalweg
from thalweg import strategies as st
from thalweg.errors import DataError, ThalwegError
from thalweg.layers import BatchNorm, models
from thalweg.layers.surgery import ModelParts, insert_parts
from thalweg.training import DistributedDataParallel, Fitted, FullyShardedDataParallel
from thalweg.training.backend import Backend
from thalweg.training.checkpoints import Writer
from thalweg.training.watch import TrainingWatcher
from training.looking import Drawing, Looking

BACKENDS: dict[str, Callable[..., Backend]] = {
    "ddp": DistributedDataParallel,
    "fsdp2": FullyShardedDataParallel,
}
X = torch.randn(61, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = (X.sum(1) > 0).long() + (X[:, 0] > 0.5).long()
# 41 in blocks of 256 is one block of two shares that differ
VALIDATION = X[:41], Y[:41]


def network(
    *, norm: bool = False, drop: float = 0.0, skip: bool = False, dtype: torch.dtype = torch.float64
) -> nn.Module:
    torch.manual_seed(3)
    if skip:
        model = models.build("mlp:8,8,8", (5,), 3).to(dtype)
        parts = ModelParts(skip=True, stochastic_depth=0.6, dropout=drop, batch_norm=norm)
        return insert_parts(model, parts)
    # a bias that batch norm takes away has a gradient of rounding errors, which Adam makes large
    layers: list[nn.Module] = [nn.Linear(5, 9, bias=not norm)]
    layers += [nn.BatchNorm1d(9)] if norm else []
    layers += [nn.Tanh(), nn.Dropout(drop), nn.Linear(9, 7, bias=not norm)]
    layers += [BatchNorm(7)] if norm else []
    return nn.Sequential(*layers, nn.Tanh(), nn.Linear(7, 3)).to(dtype)


@dataclass
class Found:
    logits: Tensor
    hidden: Tensor


class Named(nn.Module):
    """Takes inputs by name, and returns several tensors: a dictionary or a dataclass."""

    def __init__(self, form: str) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.form = form
        self.inner, self.drop = nn.Linear(5, 9, dtype=torch.float64), nn.Dropout(0.3)
        self.logits = nn.Linear(9, 3, dtype=torch.float64)
        # a loss by name would leave its parameters out, for which DDP waits
        self.size = nn.Identity() if form == "dict" else nn.Linear(9, 5, dtype=torch.float64)

    def forward(self, x: Tensor, scale: Tensor) -> Any:
        hidden = torch.tanh(self.drop(self.inner(x * scale)))
        if self.form == "dataclass":
            return Found(self.logits(hidden), self.size(hidden))
        return {"logits": self.logits(hidden), "size": self.size(hidden)}


def both_targets(outputs: Any, targets: Any) -> Tensor:
    return F.cross_entropy(outputs["logits"], targets["kind"]) + F.mse_loss(outputs["size"], targets["size"])


def listed_targets(outputs: Any, targets: list[Any]) -> Tensor:
    pairs_ = zip(outputs["size"], targets, strict=True)
    sizes = torch.stack([F.mse_loss(one.expand_as(t["sizes"]), t["sizes"]) for one, t in pairs_])
    return F.cross_entropy(outputs["logits"], torch.stack([t["kind"] for t in targets])) + sizes.mean()


def all_of(outputs: Any, loss: Tensor) -> Tensor:
    return loss + 0.1 * sum(part.square().mean() for part in vars(outputs).values())


def of_dataclass(outputs: Any, targets: Tensor) -> Tensor:
    return all_of(outputs, F.cross_entropy(outputs.logits, targets))


def right_kinds(outputs: Any, targets: Any) -> float:
    kinds = targets["kind"] if isinstance(targets, dict) else torch.stack([t["kind"] for t in targets])
    return float((outputs["logits"].argmax(1) == kinds).double().mean())


class Listed:
    """Of each example another number of targets."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> Any:
        return place, {"sizes": X[place].expand(1 + place % 3, 5), "kind": Y[place]}


def collate_listed(items: list[Any]) -> Any:
    rows = torch.tensor([place for place, _ in items])
    return {"x": X[rows], "scale": X[rows, :1]}, [target for _, target in items]


def form_of(form: str) -> dict[str, Any]:
    """Model, data, loss and metric of a form of inputs, outputs and targets."""

    def of(count: int) -> Any:
        inputs = {"x": X[:count], "scale": X[:count, :1]}
        if form == "targets":
            return inputs, {"kind": Y[:count], "size": X[:count]}
        if form == "list":
            return Listed(count)
        return {**inputs, "labels": Y[:count]}

    losses = {"targets": both_targets, "list": listed_targets, "dataclass": of_dataclass}
    metrics = {"targets": right_kinds, "list": right_kinds}
    return {
        "model": Named(form), "data": of(61), "validation": of(41), "metric": metrics.get(form, "accuracy"),
        "loss": losses.get(form, "cross-entropy"), "collate": collate_listed if form == "list" else None,
    }  # fmt: skip


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.02)


# 13 examples are shares of 7 and 6, whose parts of 5, 4 and 4 differ again
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "dropout": {"drop": 0.4},
    "synchronized batch norm": {"norm": True},
    "skips and stochastic depth": {"skip": True, "drop": 0.2, "accumulate": 2},
    "accumulation": {"drop": 0.3, "accumulate": 3},
    "clipping": {"strategies": lambda: [st.Clipping(norm=0.05, unit=0.5, value=0.02)]},
    "averaging": {
        "norm": True,
        "strategies": lambda: [st.Averaging(kind="tail", batches=3), st.EarlyStopping(patience=9)],
    },
    "all strategies": {
        "drop": 0.2,
        "strategies": lambda: [
            st.Initialization(scheme="orthogonal", output_bias=True), st.Guard(every=4, bound=1.01),
            st.Clipping(norm=1.0), st.Averaging(decay=0.9), st.Snapshots(cycles=2),
            st.ReduceOnPlateau(patience=0), st.BatchSize(growth=2), st.EarlyStopping(patience=6),
        ],
    },
    "a long way": {
        "norm": True, "drop": 0.2, "steps": 40,
        "strategies": lambda: [
            st.Initialization(scheme="he"), st.Guard(every=4, bound=1.5), st.Clipping(norm=1.0),
            st.Averaging(decay=0.9), st.Snapshots(cycles=2), st.ReduceOnPlateau(patience=0),
            st.BatchSize(growth=2), st.EarlyStopping(patience=9),
        ],
    },
    "closure": {"optimizer": lambda p: thalweg.optim.LBFGS(p, lr=0.5, max_iter=3), "steps": 5},
    # which flattens parameters, as uneven shards can't be
    "torch's closure": {
        "optimizer": lambda p: torch.optim.LBFGS(p, max_iter=3), "steps": 4, "only": "ddp",
    },
    "own optimizer": {"optimizer": "muon", "only": "ddp"},
    "loader": {"loader": True, "drop": 0.3},
    "half precision": {
        "precision": "float16", "dtype": torch.float32, "steps": 8,
        "optimizer": lambda p: torch.optim.SGD(p, lr=0.1),
    },
    # by how much a sum overflows depends on how many sum: it is left out in both processes, or in none
    "overflow": {
        "precision": "float16", "dtype": torch.float32, "steps": 8, "steep": 100.0,
        "optimizer": lambda p: torch.optim.SGD(p, lr=1e-3), "strategies": lambda: [st.Averaging()],
    },
}  # fmt: skip


# of inputs, outputs and targets
FORMS: dict[str, dict[str, Any]] = {
    "inputs and outputs by name": {"form": "dict"},
    "outputs as a dataclass": {"form": "dataclass", "accumulate": 2},
    "several targets": {"form": "targets"},
    "several targets, accumulation": {"form": "targets", "accumulate": 3},
    "a list of targets": {"form": "list", "accumulate": 2},
}


def case_of(name: str) -> dict[str, Any]:
    return {**CASES, **FORMS}[name]


def train(case: str, backend: Backend | None, **more: Any) -> Fitted:
    given = case_of(case)
    dtype = given.get("dtype", torch.float64)
    x = X.to(dtype)
    data: Any = (x, Y)
    if given.get("loader"):
        data = DataLoader(TensorDataset(x, Y), batch_size=13, shuffle=True, drop_last=True)
    steep = given.get("steep")
    loss: Any = "cross-entropy" if steep is None else lambda o, t: steep * F.cross_entropy(o, t)
    parts = {name: given[name] for name in ("norm", "drop", "skip") if name in given}
    net = network(**parts, dtype=dtype)
    settings: dict[str, Any] = {"validation": (VALIDATION[0].to(dtype), VALIDATION[1]), "metric": "accuracy"}
    settings |= {"steps": given.get("steps", 16), "batch_size": 13, "evaluations": 5, "seed": 5}
    if "form" in given:
        form = form_of(given["form"])
        net, data, loss = form.pop("model"), form.pop("data"), form.pop("loss")
        settings |= form
    optimizer = more.pop("optimizer", given.get("optimizer", _adam))
    return thalweg.fit(
        net, data, loss, optimizer, "cosine", given.get("strategies", list)(),
        accumulate=given.get("accumulate", 1), backend=backend, **{**settings, **more},
    )  # fmt: skip


def backend_for(name: str, case: str) -> Backend:
    given = case_of(case)
    return BACKENDS[name](
        precision=given.get("precision", "float32"), sync_batch_norm=given.get("norm", False)
    )


def come_to_the_same(found: dict[str, Any], expected: dict[str, Any], *, rtol: float, atol: float) -> None:
    """Hold an outcome to another: weights and losses within a tolerance, the rest exactly."""
    for part in ("model", "best"):
        assert found[part].keys() == expected[part].keys()
        for name, value in expected[part].items():
            torch.testing.assert_close(
                found[part][name], value, rtol=rtol, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
            )
    losses = torch.tensor(found["losses"]), torch.tensor(expected["losses"])
    torch.testing.assert_close(*losses, rtol=rtol, atol=atol)
    for part in ("metrics", "updates", "stopped"):
        assert found[part] == expected[part], part


def outcome(fitted: Fitted, backend: Backend | None = None) -> dict[str, Any]:
    """What two trainings have to have in common, whole."""

    def whole(state: dict[str, Tensor]) -> dict[str, Tensor]:
        return {k: (v.full_tensor() if isinstance(v, DTensor) else v).clone() for k, v in state.items()}

    return {
        "model": whole(fitted.model.state_dict()),
        "best": whole(fitted.best_state or {}),
        "final": fitted.final,
        "losses": [[e.step, e.train_loss or 0.0, e.validation_loss or 0.0] for e in fitted.curve],
        "metrics": [e.validation for e in fitted.curve],
        "notes": fitted.notes,
        "updates": fitted.updates,
        "stopped": fitted.stopped,
    }


# Pairs ------------------------------------------------------------------------------------------------


def _begin(work: Callable[..., Any], rank: int, port: int, folder: Path, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    os.fsync = lambda descriptor: None
    # no torchrun is there to keep what processes say to each other
    values = {
        "RANK": rank,
        "LOCAL_RANK": rank,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in values.items()})
    with (folder / f"said.{rank}").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            code = work(rank, *arguments) or 0
        except ThalwegError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            code = error.exit_code
        except BaseException:
            traceback.print_exc()
            code = 99
        said.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        found: int = one.getsockname()[1]
    return found


def run(work: Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 150) -> list[int | None]:
    """Run ``work(rank, ...)`` in two processes; return their exit codes, ``None`` for one that hangs."""
    context, port = forking.context(), free_port()
    folder.mkdir(exist_ok=True)
    pair = [context.Process(target=_begin, args=(work, rank, port, folder, arguments)) for rank in range(2)]
    for process in pair:
        process.start()
    for process in pair:
        process.join(seconds)
    codes = [process.exitcode for process in pair]
    for process in pair:
        if process.is_alive():
            process.kill()
    return codes


def said(folder: Path) -> list[str]:
    return [(folder / f"said.{rank}").read_text() for rank in range(2)]


# What pairs do -----------------------------------------------------------------------------------------


def carry_out_cases(rank: int, folder: Path) -> None:
    """Every case on both engines; process 0 lays down what came out, process 1 what it has beside."""
    carry_out(rank, folder, CASES)
    looking_aside(rank, folder)


def carry_out(rank: int, folder: Path, cases: dict[str, dict[str, Any]]) -> None:
    for name in BACKENDS:
        for case, given in cases.items():
            if given.get("only", name) != name:
                continue
            try:
                backend = backend_for(name, case)
                found = outcome(train(case, backend))
                found["alike"] = backend.collect(found["losses"])
                found["sums"] = backend.collect([float(v.double().sum()) for v in found["model"].values()])
            except Exception:
                # of its own test alone, where both processes come to it
                found = {"problem": traceback.format_exc()}
            if rank == 0:
                torch.save(found, folder / f"{name} {case}.pt")


def carry_out_forms(rank: int, folder: Path) -> None:
    """Every form of inputs, outputs and targets on both engines."""
    carry_out(rank, folder, FORMS)


def looking_aside(rank: int, folder: Path) -> None:
    """A training in which a strategy looks aside at every place, against the same one without it."""
    lines = []
    for name, backend in BACKENDS.items():
        found = []
        for looking in ([], [Looking()]):
            fitted = thalweg.fit(
                network(norm=True, drop=0.3), Drawing(5), "cross-entropy", _adam, "cosine",
                [st.Averaging(decay=0.9), st.Clipping(norm=1.0), *looking], steps=4, batch_size=9, seed=5,
                validation=VALIDATION, metric="accuracy", evaluations=2, accumulate=2, backend=backend(),
            )  # fmt: skip
            found.append(repr({k: v.tolist() for k, v in outcome(fitted)["model"].items()}))
        lines.append(f"{name}: {'the same' if found[0] == found[1] else 'differs'}")
    (folder / f"looked.{rank}").write_text("\n".join(lines))


def refused(rank: int, folder: Path) -> None:
    """What goes with one process alone is said in one sentence, by all."""
    lines = []
    tries: dict[str, Callable[[], Any]] = {
        "graph": lambda: fit_with(optimizer="newton", batch_size=13),
        "small": lambda: fit_with(batch_size=1),
        "parts": lambda: fit_with(batch_size=5, accumulate=3),
        "made": made_before,
        "alone": lambda: fit_with(network(norm=True), batch_size=2),
        "unused": lambda: fit_with(Unused(), batch_size=12),
        "used": lambda: fit_with(Unused(), batch_size=12, backend=DistributedDataParallel(unused=True)),
    }
    for name, attempt in tries.items():
        try:
            attempt()
        except ThalwegError as error:
            lines.append(f"{name}: {error}")
    (folder / f"refused.{rank}").write_text("\n".join(lines))


class Unused(nn.Sequential):
    """Has a layer that no pass goes through."""

    def __init__(self) -> None:
        super().__init__(*network())
        self.left = nn.Linear(2, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Tensor:
        for layer in list(self)[:-1]:
            x = layer(x)
        return x


def fit_with(model: nn.Module | None = None, optimizer: Any = _adam, **settings: Any) -> Fitted:
    settings.setdefault("backend", DistributedDataParallel())
    model = network() if model is None else model
    return thalweg.fit(model, (X, Y), "cross-entropy", optimizer, steps=3, **settings)


def made_before() -> Fitted:
    net = network()
    return thalweg.fit(
        net, (X, Y), "cross-entropy", torch.optim.SGD(net.parameters()), steps=2, batch_size=13,
        backend=FullyShardedDataParallel(),
    )  # fmt: skip


class Noisy:
    """A Dataset that draws from torch's generator, as augmentation of a person's own may."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        return X[position] + 0.1 * torch.randn(5, dtype=torch.float64), Y[position]


def go_on(
    rank: int, out: Path | None, name: str, resume: bool, dies_at: int | None, how: str, result: Path | None
) -> int:
    """A training that may die at a step; what came of it is laid down."""
    calls, step = 0, torch.optim.Adam.step

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == dies_at and how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if calls == dies_at and how == "interrupt" and rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args, **kwargs)

    torch.optim.Adam.step = counted  # type: ignore[method-assign]
    # later a kill comes while one is written
    with contextlib.nullcontext() if resume else written_at_once():
        found = outcome(resumable(out, BACKENDS[name](), resume=resume))
    if rank == 0 and result is not None:
        torch.save(found, result)
    return 0


def resumable(out: Path | None, backend: Backend | None, *, resume: bool, **more: Any) -> Fitted:
    strategies = [
        st.Initialization(scheme="he"), st.Guard(every=4, bound=1.5), st.Clipping(norm=1.0), st.Averaging(),
        st.Snapshots(cycles=2), st.ReduceOnPlateau(), st.BatchSize(growth=2), st.EarlyStopping(patience=9),
    ]  # fmt: skip
    return thalweg.fit(
        network(norm=True, drop=0.3), Noisy(), "cross-entropy",
        functools.partial(torch.optim.Adam, lr=0.05), "cosine", strategies, epochs=3, batch_size=8, seed=5,
        validation=VALIDATION, metric="accuracy", evaluations=6, out=out, resume=resume,
        checkpoint_seconds=0.0, backend=backend, **more,
    )  # fmt: skip


class Gone(Exception):
    """A training that ended at a step without being asked."""


# of each a step before which it ends, in the middle of what strategies do
CROSSED = {"averaging": 8, "a long way": 12}


@contextlib.contextmanager
def written_at_once() -> Iterator[None]:
    """Within, every step's state stands on the disk before the next is taken."""
    save = Writer.save

    def saved(self: Writer, name: str, state: Any) -> None:
        save(self, name, state)
        self.wait()

    Writer.save = saved  # type: ignore[method-assign]
    try:
        yield
    finally:
        Writer.save = save  # type: ignore[method-assign]


def leave(case: str, backend: Backend | None, out: Path) -> None:
    """Train a case to a step and end there, with the checkpoints of all steps before."""

    def optimizer(parameters: Any) -> torch.optim.Optimizer:
        made, calls = _adam(parameters), 0

        def counted(*given: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == CROSSED[case]:
                raise Gone

        made.register_step_pre_hook(counted)
        return made

    with written_at_once(), contextlib.suppress(Gone):
        train(case, backend, out=out, checkpoint_seconds=0.0, optimizer=optimizer)
        raise AssertionError("it wasn't left")


class Told(TrainingWatcher):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def take_up(case: str, backend: Backend | None, out: Path) -> dict[str, Any]:
    told = Told()
    found = outcome(train(case, backend, out=out, resume=True, watcher=told))
    return {**found, "told": told.notes}


def cross(rank: int, folder: Path) -> None:
    """Leave each case by each backend, and take up what others, one process included, have left."""
    for case in CROSSED:
        made = {name: backend_for(name, case) for name in BACKENDS}
        for name, backend in made.items():
            leave(case, backend, folder / f"{case} {name}")
            if rank == 0:
                for to in ("one", *made):
                    shutil.copytree(folder / f"{case} {name}", folder / f"{case} {name} {to}")
        for name, backend in made.items():
            for before in ("one", *made):
                backend.collect(None)
                found = take_up(case, backend, folder / f"{case} {before} {name}")
                if rank == 0:
                    torch.save(found, folder / f"{case} {before} {name}.pt")


class _Full(io.FileIO):
    """A file on a disk with room for 1500 bytes."""

    def write(self, data: Any) -> int:
        if self.tell() + len(data) > 1500:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@contextlib.contextmanager
def _full(self: FileSystem, path: Any, mode: str) -> Iterator[Any]:
    with _Full(path, mode) as file:
        yield file


def command(rank: int, arguments: list[str], breaks: str | None) -> int:
    """The command, as torchrun would start it in each process; process 1 may break in the second epoch."""
    from thalweg.commands import app
    from thalweg.run.sampler import Batches

    take = Batches.take

    def broken(self: Batches, *args: Any) -> Tensor:
        if self.epoch == 1:
            if breaks == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise DataError("row 7 can't be read; mend the file")
        return take(self, *args)

    if breaks is not None and breaks == f"full {rank}":
        FileSystem.create_stream = _full  # type: ignore[method-assign]
    elif breaks is not None and "full" not in breaks and rank == 1:
        Batches.take = broken  # type: ignore[method-assign]
    return app.run(arguments)
