"""Statistics in blocks are those of the whole to the bit; so are inputs made batch by batch."""

from __future__ import annotations

import pickle
import tracemalloc
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from thalweg import catalogue
from thalweg.data import arrays, held, idx, load, npz, prepare, scaling
from thalweg.data.examples import ArrayExamples, TensorExamples, in_tensors
from thalweg.data.held import Held, blocks
from thalweg.ensembles.train import bootstrap, resampled
from thalweg.errors import DataError
from thalweg.execution import lanes, loop
from thalweg.layers import models
from thalweg.run.objective import Objective
from thalweg.run.problem import Problem
from thalweg.run.spec import Outcome, Run, Setting, Workload

RNG = np.random.default_rng(0)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held, "BLOCK", 3000)
    monkeypatch.setattr(scaling, "_WHOLE", 3000)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i4", "i1"])
@pytest.mark.parametrize("shape", [(2000, 3), (2001, 17), (1500, 1), (700, 300)])
def test_columns_in_blocks(dtype: str, shape: tuple[int, ...]) -> None:
    x = RNG.normal(30, 10, shape).astype(dtype)
    x[:, 0] = 7
    rows = RNG.permutation(shape[0])[: shape[0] * 6 // 10]
    made = scaling.fitted(x, rows, "columns", impute=False)
    whole = StandardScaler().fit(x[rows])
    assert isinstance(made, scaling.ColumnScaling)
    np.testing.assert_array_equal(made.scaler.mean_, whole.mean_)
    np.testing.assert_array_equal(made.scaler.var_, whole.var_)
    np.testing.assert_array_equal(made.scaler.scale_, whole.scale_)
    expected = torch.tensor(whole.transform(x[:50]), dtype=torch.float32)
    assert torch.equal(made(x[:50]), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_medians_in_blocks(dtype: str) -> None:
    x = RNG.normal(3, 2, (900, 7)).astype(dtype)
    x[RNG.random(x.shape) < 0.1] = np.nan
    rows = RNG.permutation(900)[:501]
    made = scaling.fitted(x, rows, "columns", impute=True)
    imputer = SimpleImputer(strategy="median").fit(x[rows])
    whole = StandardScaler().fit(imputer.transform(x[rows]))
    assert isinstance(made, scaling.ColumnScaling)
    assert made.medians is not None
    np.testing.assert_array_equal(made.medians.statistics_, imputer.statistics_)
    np.testing.assert_array_equal(made.scaler.scale_, whole.scale_)
    expected = torch.tensor(whole.transform(imputer.transform(x[:99])), dtype=torch.float32)
    assert torch.equal(made(x[:99]), expected)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i4"])
@pytest.mark.parametrize(
    ("shape", "by", "last"),
    [
        ((300, 1, 9, 7), "channels", False),
        ((300, 3, 9, 7), "channels", False),
        ((300, 3, 1, 1), "channels", False),
        ((300, 9, 7, 3), "channels", True),
        ((300, 9, 7, 1), "channels", True),
        ((300, 9, 7), "whole", False),
        ((301, 4, 5, 6, 2), "whole", False),
    ],
)
def test_images_in_blocks(dtype: str, shape: tuple[int, ...], by: Any, last: bool) -> None:
    x = RNG.normal(30, 10, shape).astype(dtype)
    if last:
        x = x.transpose(0, 3, 1, 2)
    rows = RNG.permutation(len(x))[:181]
    made = scaling.fitted(x, rows, by, impute=False)
    axes = scaling.axes_of(by)
    assert isinstance(made, scaling.Broadcast)
    np.testing.assert_array_equal(made.mean, x[rows].mean(axes, keepdims=True).astype("f4"))
    np.testing.assert_array_equal(made.std, x[rows].std(axes, keepdims=True).astype("f4"))


CONTENTS: dict[str, dict[str, np.ndarray]] = {
    "columns": {"x": RNG.normal(3, 2, (60, 4)).astype("f4"), "y": np.arange(60) % 3},
    "images": {"x": RNG.integers(0, 256, (60, 5, 4), dtype=np.uint8), "y": np.arange(60) % 3},
    "colours": {"x": RNG.integers(0, 256, (60, 5, 4, 3), dtype=np.uint8), "y": np.arange(60) % 3},
    "numbers": {"x": RNG.normal(3, 2, (60, 4)), "y": RNG.normal(3, 2, 60)},
    "a test part": {
        "x": RNG.integers(0, 256, (60, 5, 4), dtype=np.uint8),
        "y": np.arange(60) % 3,
        "x_test": RNG.integers(0, 256, (9, 5, 4), dtype=np.uint8),
        "y_test": np.arange(9) % 3,
    },
}


@pytest.mark.parametrize("what", CONTENTS)
@pytest.mark.parametrize("mapped", [False, True])
def test_batches_are_parts_of_what_is_made_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str, mapped: bool
) -> None:
    np.savez(folder / "a.npz", **CONTENTS[what])
    once = prepare(load("a.npz"), seed=0, replicate=0)
    monkeypatch.setattr(arrays, "_ONCE", 0)
    monkeypatch.setattr(held, "BLOCK", 200)
    if mapped:
        monkeypatch.setattr(npz, "_MAPPED", 1)
    later = prepare(load("a.npz"), seed=0, replicate=0)
    sent = pickle.loads(pickle.dumps(later))
    places = torch.tensor([5, 0, 8, 5])
    for name in ("train", "validation", "test"):
        expected = getattr(once, name)
        assert isinstance(expected, TensorExamples)
        for found in (getattr(later, name), getattr(sent, name)):
            assert isinstance(found, ArrayExamples)
            assert in_tensors(found)
            assert len(found) == len(expected)
            assert found.held.array.dtype == CONTENTS[what]["x"].dtype
            assert torch.equal(found.inputs, expected.inputs)
            assert torch.equal(found.targets, expected.targets)
            for a, b in zip(found.batch(places), expected.batch(places), strict=True):
                assert torch.equal(a, b)
    for a, b in zip(
        resampled(later.train, seed=1).batch(places), resampled(once.train, seed=1).batch(places), strict=True
    ):
        assert torch.equal(a, b)
    assert bootstrap(len(later.train), seed=1).shape == (len(once.train),)


def test_a_mapped_array_is_sent_as_a_place(folder: Path) -> None:
    x = np.arange(40_000.0).reshape(2000, 20)
    np.save(folder / "x.npy", x)
    mapped = held.mapped(folder / "x.npy", x.dtype, x.shape, 128)
    view = Held(mapped[:, None].transpose(0, 2, 1)[3:])
    sent = pickle.dumps(view)
    assert len(sent) < 1000
    assert np.array_equal(pickle.loads(sent).array, x[3:, :, None])
    assert np.array_equal(pickle.loads(pickle.dumps(Held(x))).array, x)
    np.save(folder / "x.npy", x[:-1])
    with pytest.raises(DataError, match=r"x.npy has changed while it was in use"):
        pickle.loads(sent)


def test_what_is_written_to_a_mapped_array_stays_here(folder: Path) -> None:
    (folder / "a").write_bytes(bytes(16))
    held.mapped(folder / "a", np.dtype("u1"), (16,), 0)[:] = 1
    assert (folder / "a").read_bytes() == bytes(16)


def test_blocks_cover_every_row_once() -> None:
    x = RNG.normal(size=(103, 5))
    rows = RNG.permutation(103)[:57]
    for size in (1, 40, 1000, 10**6):
        assert np.array_equal(np.concatenate([part for _, part in blocks(x, size=size)]), x)
        assert np.array_equal(np.concatenate([part for _, part in blocks(x, rows, size=size)]), x[rows])


@pytest.mark.parametrize("seeds", [(1, 1), (1, 2)])
@pytest.mark.parametrize("runner", [lanes.run, loop.run])
def test_runs_are_the_same_batch_by_batch(
    folder: Path, monkeypatch: pytest.MonkeyPatch, runner: Any, seeds: tuple[int, int]
) -> None:
    np.savez(folder / "a.npz", **CONTENTS["a test part"])
    runs = [
        Run(identity=str(number), setting=Setting(optimizer="adam", hyperparameters={"lr": 0.01}), seed=seed)
        for number, seed in enumerate(seeds)
    ]
    workload = Workload(epochs=2, batch_size=16, evaluations=2, score_test=True)

    def outcomes() -> list[Outcome]:
        problem = Problem(
            factory=models.factory("mlp:4"), data=prepare(load("a.npz"), seed=0, replicate=0),
            objective=Objective(loss="cross-entropy", metric="log-loss"),
            optimizers={"adam": catalogue.get("adam")},
        )  # fmt: skip
        if runner is loop.run:
            return [loop.run(run, problem, workload) for run in runs]
        return lanes.run(runs, problem, workload)

    once = outcomes()
    monkeypatch.setattr(arrays, "_ONCE", 0)
    monkeypatch.setattr(npz, "_MAPPED", 1)
    for one, other in zip(once, outcomes(), strict=True):
        assert other.validation == pytest.approx(one.validation, rel=1e-5)
        assert other.test == pytest.approx(one.test, rel=1e-5)


def test_a_large_file_of_digits_is_mapped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = CONTENTS["images"]["x"], CONTENTS["images"]["y"]
    for name, array in (("train-images-idx3-ubyte", x), ("train-labels-idx1-ubyte", y)):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        (folder / name).write_bytes(header + array.astype("u1").tobytes())
    monkeypatch.setattr(idx, "_MAPPED", 1)
    source = load(f"idx:{folder}")
    assert isinstance(source, arrays.ArraySource)
    assert np.array_equal(source.x[:, 0], x)
    root = source.x
    while isinstance(root.base, np.ndarray) and not isinstance(root, np.memmap):
        root = root.base
    assert isinstance(root, np.memmap)


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_columns_beyond_the_reach_of_squares(folder: Path, factor: float) -> None:
    x = CONTENTS["numbers"]["x"].copy()
    x[:, 2] *= factor
    np.savez(folder / "a.npz", x=x, y=CONTENTS["numbers"]["y"])
    with pytest.raises(DataError, match=r"the inputs (are so large|differ by so little) that their squares"):
        prepare(load("a.npz"), seed=0, replicate=0)
    x[:, 2] = 1e-200
    np.savez(folder / "a.npz", x=x, y=CONTENTS["numbers"]["y"])
    assert (prepare(load("a.npz"), seed=0, replicate=0).train.batch(torch.arange(5))[0][:, 2] == 0).all()


@pytest.mark.parametrize("factor", [1e30, 1e-30])
def test_images_beyond_the_reach_of_squares(folder: Path, factor: float) -> None:
    x = (RNG.normal(1, 1, (60, 3, 5, 4)) * factor).astype("f4")
    np.savez(folder / "a.npz", x=x, y=CONTENTS["images"]["y"])
    with pytest.raises(DataError, match=r"the inputs (are so large|differ by so little) that their squares"):
        prepare(load("a.npz"), seed=0, replicate=0)
    x[:] = 0
    np.savez(folder / "a.npz", x=x, y=CONTENTS["images"]["y"])
    assert (prepare(load("a.npz"), seed=0, replicate=0).train.batch(torch.arange(5))[0] == 0).all()


@pytest.mark.parametrize("factor", [1e200, 1e-200])
def test_what_is_given_lies_within_float32(factor: float) -> None:
    x, y = torch.from_numpy(CONTENTS["numbers"]["x"]), torch.from_numpy(CONTENTS["numbers"]["y"])
    with pytest.raises(DataError, match=r"inputs of 'python:tuple' .* float32"):
        load((x * factor, y))


@pytest.mark.parametrize(
    ("y", "classes"),
    [
        (np.array([np.int64(1), np.float32(2), 3] * 20, dtype=object), ("1", "2", "3")),
        (np.array([np.True_, False] * 30, dtype=object), ("False", "True")),
        (np.array([10**25, 2, 3] * 20, dtype=object), ("2", "3", str(10**25))),
        (np.array(["a", "b", "c"] * 20, dtype=object), ("a", "b", "c")),
        (torch.tensor([0, 1, 2] * 20).to(torch.float8_e4m3fn), ("0", "1", "2")),
        (torch.tensor([0, 1, 2] * 20).to(torch.uint16), ("0", "1", "2")),
    ],
)
def test_labels_of_many_types(y: Any, classes: tuple[str, ...]) -> None:
    assert load((torch.from_numpy(CONTENTS["columns"]["x"]), y)).task.classes == classes


@pytest.mark.parametrize(
    ("y", "says"),
    [
        (np.array([1, "a", 2.5] * 20, dtype=object), r"of several kinds \(float and int and str\)"),
        (np.array([Fraction(n % 3) for n in range(60)]), "of type Fraction, neither numbers nor labels"),
        (np.array([1, 2, None] * 20, dtype=object), "hold missing values"),
        (np.array([10**400, 0.5, 3] * 20, dtype=object), r"beyond 1\.8e308"),
        (torch.full((60,), torch.nan), "hold 60 missing values"),
        (torch.zeros(60, device="meta"), r"is empty \(meta\)"),
        (torch.zeros(60).to_sparse(), "is sparse; make it dense"),
        (torch.zeros(60, dtype=torch.complex64), "neither numbers nor labels"),
    ],
)
def test_labels_that_are_none(y: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load((torch.from_numpy(CONTENTS["columns"]["x"]), y))


def test_a_dataset_with_a_target_of_nan_is_refused() -> None:
    items = [(torch.zeros(4), float("nan") if n == 3 else n / 7) for n in range(60)]
    with pytest.raises(DataError, match="has 1 targets that are missing or infinite"):
        load(items, collate=torch.utils.data.default_collate)


@pytest.mark.parametrize("packed", [False, True])
def test_memory_is_at_most_half_as_much_again_as_the_array(
    folder: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    x = RNG.integers(0, 9, (8000, 400)).astype("f4")
    (np.savez_compressed if packed else np.savez)(folder / "a.npz", x=x, y=np.arange(8000) % 3)
    size = x.nbytes
    del x
    monkeypatch.setattr(arrays, "_ONCE", 0)
    monkeypatch.setattr(npz, "_MAPPED", 2**20)
    for module, name in ((held, "BLOCK"), (npz, "BLOCK"), (scaling, "_WHOLE")):
        monkeypatch.setattr(module, name, 2**17)
    tracemalloc.start()
    try:
        prepared = prepare(load("a.npz"), seed=0, replicate=0)
        prepared.train.batch(torch.arange(100))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # beside the array itself some blocks, and a few numbers for each row: 64 bits of it, its class, its place
    assert peak < (1.2 * size if packed else 0) + 6_000_000 < 1.7 * size
