from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.data import load, prepare
from thalweg.errors import DataError, OptionError

Same = Callable[..., object]
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (60, 4))
Y = np.array([0, 1, 2] * 20)


@pytest.mark.parametrize("name", ["digits", "breast-cancer", "wine", "iris", "diabetes"])
def test_builtins_equal_their_script(name: str, same_as_script: Same) -> None:
    source = load(name)
    same_as_script(source)
    assert source.name == name
    assert source.fingerprint == load(name).fingerprint
    assert len(source.fingerprint) == 32


def test_builtins_bring_their_target() -> None:
    with pytest.raises(DataError, match=r"'wine' brings its own target, so target='x' doesn't apply"):
        load("wine", target="x")
    with pytest.raises(DataError, match=r"column types are for tables"):
        load("wine", types={"x": "number"})
    with pytest.raises(DataError, match=r"collate function is for a Dataset"):
        load("wine", collate=list)
    with pytest.raises(OptionError, match=r"^task is 'foo'"):
        load("wine", task="foo")


def test_columns_are_standardised_by_the_training_part(folder: Path) -> None:
    np.savez(folder / "a.npz", x=X, y=Y)
    source = load("a.npz")
    prepared = prepare(source, seed=0, replicate=0)
    train, test = prepared.indices["train"], prepared.indices["test"]
    expected = (X[test] - X[train].mean(0)) / X[train].std(0)
    torch.testing.assert_close(prepared.test.inputs, torch.tensor(expected, dtype=torch.float32))
    assert prepared.input_shape == (4,)
    assert prepared.outputs == 3


@pytest.mark.parametrize("shape", [(60, 5, 5), (60, 6, 5, 3), (60, 3, 6, 5)])
def test_images_are_standardised_by_channel(
    folder: Path, shape: tuple[int, ...], same_as_script: Same
) -> None:
    x = RNG.integers(0, 256, shape, dtype=np.uint8)
    np.savez(folder / "a.npz", x=x, y=Y)
    source = load("a.npz")
    same_as_script(source)
    prepared = prepare(source, seed=0, replicate=0)
    first = x[:, None] if x.ndim == 3 else x if x.shape[1] == 3 else np.moveaxis(x, 3, 1)
    assert prepared.input_shape == first.shape[1:]
    known = first[prepared.indices["train"]].astype(np.float64)
    mean, std = known.mean((0, 2, 3), keepdims=True), known.std((0, 2, 3), keepdims=True)
    expected = torch.tensor((first[prepared.indices["test"]] - mean) / std, dtype=torch.float32)
    torch.testing.assert_close(prepared.test.inputs, expected)


@pytest.mark.parametrize(
    "arrays",
    [
        {"x": X, "y": Y},
        {"X": X.astype(np.float32), "Y": Y.astype(np.uint8)},
        {"first": X, "second": np.array(["a", "b", "c"] * 20)},
        {"x": X, "y": X[:, 0].astype(np.float32)},
        {"x": X, "y": Y[:, None] + 5},
        {"x": X[:, 0], "y": X[:, 1]},
        {"x": X.reshape(60, 2, 2), "y": Y},
        {"x": X > 3, "y": Y},
        {"x": np.hstack([X, np.ones((60, 1))]), "y": Y},
        {"x": X, "y": X[:, :2]},
        {"x_train": X, "y_train": Y, "x_test": X[:9], "y_test": Y[:9]},
        {"x_train": X, "y_train": Y + 3, "x_test": X[:9], "y_test": Y[:9] + 3},
        {"x_train": X[:, 0], "y_train": X[:, 1], "x_test": X[:9, 0], "y_test": X[:9, 1]},
    ],
)
def test_archives_equal_their_script(
    folder: Path, arrays: dict[str, np.ndarray], same_as_script: Same
) -> None:
    np.savez_compressed(folder / "a.npz", **arrays)
    source = load("a.npz")
    assert source.fixed_test == ("x_test" in arrays)
    same_as_script(source)


@pytest.mark.parametrize("fixed", [False, True])
def test_one_hot_targets_of_archives_are_classes(folder: Path, same_as_script: Same, fixed: bool) -> None:
    y = np.eye(3, dtype=np.float32)[np.arange(60) % 3]
    parts = {"x": X, "y": y, **({"x_test": X[:9], "y_test": y[:9]} if fixed else {})}
    np.savez(folder / "a.npz", **parts)
    source = load("a.npz")
    assert source.task.classes == ("0", "1", "2")
    assert "the targets are one-hot: the place of the 1 is the class" in source.notes
    same_as_script(source)
    assert load("a.npz", task="custom").task.kind == "custom"


def test_target_names_an_array(folder: Path) -> None:
    np.savez(folder / "a.npz", label=Y, pixels=X)
    assert load("a.npz", target="label").inputs == "4 columns"
    with pytest.raises(DataError, match=r"no array 'lable'; did you mean 'label'"):
        load("a.npz", target="lable")


def test_missing_values_of_arrays(folder: Path, same_as_script: Same) -> None:
    x, y = X.copy(), X[:, 0].copy()
    x[3, 1] = x[4, 1] = x[5, 2] = np.nan
    y[6] = np.nan
    np.savez(folder / "a.npz", x=x, y=y)
    with pytest.raises(
        DataError, match=r"inputs of 'a.npz' hold 3 missing values in column 1 \(2\), 2 \(1\)"
    ):
        load("a.npz")
    dropped = load("a.npz", missing="drop")
    assert dropped.rows == 56
    same_as_script(dropped)
    filled = load("a.npz", missing="median")
    assert filled.rows == 59
    same_as_script(filled)
    np.savez(folder / "b.npz", x=X.reshape(60, 2, 2), y=y)
    same_as_script(load("b.npz", missing="drop"))
    x[:, 3] = np.nan
    np.savez(folder / "a.npz", x=x, y=y)
    with pytest.raises(DataError, match=r"column 3 of .* has no values at all"):
        load("a.npz", missing="median")
    with pytest.raises(DataError, match=r"every row of 'a.npz' has missing values"):
        load("a.npz", missing="drop")


def test_missing_values_of_a_test_part(folder: Path, same_as_script: Same) -> None:
    test = X[:9].copy()
    test[2, 1] = np.nan
    parts = {"x_train": X, "y_train": X[:, 0], "x_test": test, "y_test": X[:9, 0].copy()}
    np.savez(folder / "a.npz", **parts)
    for missing in (None, "drop"):
        with pytest.raises(DataError, match=r"the test part of 'a.npz' hold 1 missing values"):
            load("a.npz", missing=missing)
    source = load("a.npz", missing="median")
    same_as_script(source)
    assert prepare(source, seed=0, replicate=0).test.inputs.isfinite().all()
    parts["y_test"][0] = np.nan
    np.savez(folder / "a.npz", **parts)
    with pytest.raises(DataError, match=r"has 1 rows without a target"):
        load("a.npz", missing="median")


def test_infinite_values_of_arrays(folder: Path) -> None:
    x = X.copy()
    x[0, 2] = -np.inf
    np.savez(folder / "a.npz", x=x, y=Y)
    with pytest.raises(DataError, match=r"hold 1 infinite values in column 2 \(1\)"):
        load("a.npz", missing="median")


def test_notes_on_arrays(folder: Path) -> None:
    x = np.vstack([X, X[:1]])
    x[:, 3] = 1
    np.savez(folder / "a.npz", x=x, y=np.append(Y, Y[0]))
    said = " | ".join(load("a.npz").notes)
    assert "1 columns hold one value only (number 3)" in said
    assert "1 row repeats another one exactly" in said


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": X}, "holds 1 arrays"),
        ({"x": X, "y": Y[:-1]}, "has 60 inputs but 59 targets"),
        ({"x": np.array(["a"] * 60), "y": Y}, "are of type <U1, not numbers"),
        ({"x": X[:0], "y": Y[:0]}, "holds no examples"),
        ({"x": X, "y": np.array(1)}, "one targets"),
        ({"x": X, "y": Y * 1j}, "neither numbers nor labels"),
        ({"x_train": X, "y_train": Y, "x_test": X[:, :2], "y_test": Y}, r"test examples have shape \[2\]"),
        ({"x_train": X, "y_train": Y, "x_test": X, "y_test": Y + 1}, "the test part has the label '3'"),
    ],
)
def test_arrays_that_do_not_fit(folder: Path, arrays: dict[str, np.ndarray], says: str) -> None:
    np.savez(folder / "a.npz", **arrays)
    with pytest.raises(DataError, match=says):
        load("a.npz")


def test_archives_that_are_none(folder: Path) -> None:
    path = folder / "a.npz"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"isn't the NumPy archive that its name says; save"):
        load("a.npz")
    path.write_bytes(b"PK\x03\x04 broken")
    with pytest.raises(DataError, match=r"can't be read as a NumPy archive"):
        load("a.npz")
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"is empty"):
        load("a.npz")
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(DataError, match=r"holds one array"):
        load("a.npz")
    np.savez(path, x=np.array([{}], dtype=object), y=Y)
    with pytest.raises(DataError, match=r"holds Python objects, which aren't loaded"):
        load("a.npz")
    np.savez(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match=r"can't be read as a NumPy archive"):
        load("a.npz")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY broken")
        archive.writestr("y.npy", b"\x93NUMPY broken")
    with pytest.raises(DataError, match=r"the array 'x' of a.npz has named fields, or is damaged"):
        load("a.npz")


# MNIST's format ---------------------------------------------------------------------------------------

FASHION = Path("/usr/share/datasets/fashion-mnist")


def idx(array: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, zipped: bool, test: bool = True, labels: np.ndarray = Y) -> None:
    images = RNG.integers(0, 256, (60, 4, 3), dtype=np.uint8)
    contents = {"train-images-idx3-ubyte": idx(images), "train-labels-idx1-ubyte": idx(labels)}
    if test:
        contents |= {"t10k-images-idx3-ubyte": idx(images[:12]), "t10k-labels-idx1-ubyte": idx(labels[:12])}
    for name, content in contents.items():
        path = folder / (name + ".gz" if zipped else name)
        path.write_bytes(gzip.compress(content) if zipped else content)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("test", [False, True])
def test_idx_equals_its_script(folder: Path, zipped: bool, test: bool, same_as_script: Same) -> None:
    write_idx(folder, zipped=zipped, test=test)
    source = load(f"idx:{folder}")
    assert source.fixed_test == test
    assert source.test_rows == (12 if test else 0)
    same_as_script(source)
    prepared = prepare(source, seed=0, replicate=0)
    assert prepared.input_shape == (1, 4, 3)
    assert [len(e) for e in (prepared.train, prepared.validation, prepared.test)] == (
        [48, 12, 12] if test else [36, 12, 12]
    )


def test_idx_labels_that_skip_numbers(folder: Path, same_as_script: Same) -> None:
    write_idx(folder, zipped=False, labels=Y * 2 + 1)
    source = load(f"idx:{folder}")
    assert source.task.classes == ("1", "3", "5")
    same_as_script(source)


def test_idx_bad_input(folder: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder 'nowhere'"):
        load("idx:nowhere")
    with pytest.raises(DataError, match=r"names no folder; write idx:DIR"):
        load("idx:")
    with pytest.raises(DataError, match=r"has no train-images-idx3-ubyte"):
        load(f"idx:{folder}")
    write_idx(folder, zipped=True)
    images = folder / "train-images-idx3-ubyte.gz"
    whole = images.read_bytes()
    images.write_bytes(whole[:50])
    with pytest.raises(DataError, match=r"the gzip file is truncated"):
        load(f"idx:{folder}")
    images.write_bytes(gzip.compress(b"\x89PNG..."))
    with pytest.raises(DataError, match=r"isn't in MNIST's IDX format: it looks like a PNG image"):
        load(f"idx:{folder}")
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(DataError, match=r"has 719 bytes of values, but its header says 720"):
        load(f"idx:{folder}")
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:9]))
    with pytest.raises(DataError, match=r"ends within its header"):
        load(f"idx:{folder}")
    (folder / "file").touch()
    with pytest.raises(DataError, match=r"is a file, but a folder is needed"):
        load("idx:file")


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's dataset-fashion-mnist isn't installed")
def test_fashion_mnist() -> None:
    source = load(f"idx:{FASHION}")
    assert (source.rows, source.test_rows, source.name) == (60_000, 10_000, "fashion-mnist")
    assert source.class_counts == [6000] * 10


def test_unknown_data(folder: Path) -> None:
    with pytest.raises(DataError, match=r"there is no data 'diggits'; did you mean 'digits'\?"):
        load("diggits")
    (folder / "a.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"'a.xlsx' has an ending that says no known format; known: .csv"):
        load("a.xlsx")
    (folder / "mine.py").write_text("def f(): ...\n")
    with pytest.raises(DataError, match=r"write 'mine.py:function'"):
        load("mine.py")
    with pytest.raises(DataError, match=r"there is no file 'b.xlsx'; did you mean 'a.xlsx'"):
        load("b.xlsx")


@pytest.mark.parametrize("shape", [(60, 3), (60, 5, 2), (60, 1, 4, 4)])
@pytest.mark.parametrize(("factor", "says"), [(1e200, "so large that"), (1e-300, "by so little that")])
def test_arrays_near_the_ends_of_the_range_are_refused(
    folder: Path, shape: tuple[int, ...], factor: float, says: str
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=shape)
    np.savez("far.npz", x=x * factor, y=rng.normal(size=60))
    with pytest.raises(DataError, match=f"the inputs .*{says}.*give them in another unit"):
        prepare(load("far.npz"), seed=0, replicate=0)
    # a constant is no such thing, whatever it is
    for value in (0.0, 1e-300, 7.0):
        still = x.copy()
        still[:, 0] = value
        np.savez("still.npz", x=still, y=rng.normal(size=60))
        prepare(load("still.npz"), seed=0, replicate=0)
