"""Files that are damaged, lie about themselves or are no files: one sentence each, soon, within memory."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import signal
import socket
import struct
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thalweg.commands.app import run
from thalweg.data import held, load, npz, prepare
from thalweg.errors import DataError

Build = Callable[[Path], object]
Same = Callable[..., object]
RNG = np.random.default_rng(0)
X = RNG.normal(3, 2, (60, 4))
Y = np.array([0, 1, 2] * 20)
MEMORY = 40e6


@pytest.fixture(autouse=True)
def no_waiting() -> Iterator[None]:
    """What waits for ever fails instead."""

    def end(_number: int, _frame: object) -> None:
        raise AssertionError("this waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def refused(spec: str, says: str) -> None:
    """One sentence, and little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            load(spec)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert peak < MEMORY


# NumPy archives -----------------------------------------------------------------------------------------


def npy(array: np.ndarray, **changes: object) -> bytes:
    """An array's file, with other things in its header than are so."""
    out = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(array) | changes
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue() + array.tobytes()


def archive(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes | np.ndarray) -> None:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", compression) as made:
        warnings.simplefilter("ignore")
        for name, content in members.items():
            plain = "." in name or "/" in name
            data = content if isinstance(content, bytes) else npy(content)
            made.writestr(name if plain else f"{name}.npy", data)


def patched(path: Path, sign: bytes, offset: int, value: bytes) -> None:
    """Write over something in the first entry of an archive's directory."""
    content = bytearray(path.read_bytes())
    begin = content.index(sign) + offset
    content[begin : begin + len(value)] = value
    path.write_bytes(content)


def encrypted(path: Path) -> None:
    archive(path, x=X, y=Y)
    patched(path, b"PK\x01\x02", 8, b"\x01")
    patched(path, b"PK\x03\x04", 6, b"\x01")


def directory_lies(path: Path) -> None:
    archive(path, zipfile.ZIP_DEFLATED, x=X, y=Y)
    patched(path, b"PK\x01\x02", 24, struct.pack("<I", 2**31))


def directory_lies_of_packed(path: Path) -> None:
    archive(path, x=X, y=Y)
    patched(path, b"PK\x01\x02", 20, struct.pack("<II", 2**31, 2**31))


def wrong_checksum(path: Path) -> None:
    archive(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[300] ^= 1
    path.write_bytes(content)


def damaged_deflate(path: Path) -> None:
    archive(path, zipfile.ZIP_DEFLATED, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[60:90] = bytes(30)
    path.write_bytes(content)


def bomb(path: Path) -> None:
    archive(path, zipfile.ZIP_DEFLATED, x=npy(X) + bytes(6 * 10**7), y=Y)


def without_end(path: Path) -> None:
    archive(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:-30])


def link_to_itself(path: Path) -> None:
    path.symlink_to(path.name)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)


def structured() -> np.ndarray:
    return np.zeros(60, [("a", "f4"), ("b", "i4")])


BAD_ARCHIVES: dict[str, tuple[Build, str]] = {
    "a shape of 10^12": (lambda p: archive(p, x=npy(X, shape=(10**12, 4)), y=Y), "says that its shape is"),
    "a shape that overflows": (lambda p: archive(p, x=npy(X, shape=(2**40, 2**40)), y=Y), "its shape is"),
    "a shape below zero": (lambda p: archive(p, x=npy(X, shape=(-60, -4)), y=Y), "its shape is [-60, -4]"),
    "a shape that is smaller": (lambda p: archive(p, x=npy(X, shape=(3, 4)), y=Y), "which is 96 bytes, but"),
    "a shape of text": (lambda p: archive(p, x=npy(X, shape="60"), y=Y), "can't be read as a NumPy archive"),
    "a type that isn't": (lambda p: archive(p, x=npy(X, descr="<q9"), y=Y), "can't be read as a NumPy arch"),
    "a type of ten bytes": (lambda p: archive(p, x=npy(X, descr="|V8"), y=Y), "not numbers"),
    "code in the header": (
        lambda p: archive(p, x=npy(X).replace(b"{'descr'", b"exit(1)#", 1), y=Y),
        "can't be read as a NumPy archive",
    ),
    "a header of 4 GB": (
        lambda p: archive(p, x=b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + bytes(99), y=Y),
        "can't be read as a NumPy archive",
    ),
    "a version of the future": (
        lambda p: archive(p, x=b"\x93NUMPY\x09\x00" + bytes(99), y=Y),
        "named fields",
    ),
    "an empty member": (lambda p: archive(p, x=b"", y=Y), "can't be read as a NumPy archive"),
    "text for arrays": (lambda p: archive(p, **{"x.txt": b"1 2", "y.txt": b"1"}), "holds 0 arrays"),
    "text for the targets": (lambda p: archive(p, x=X, **{"y.txt": b"1"}), "holds 1 arrays"),
    "nothing in it": (lambda p: archive(p), "holds 0 arrays"),
    "encrypted": (encrypted, "is encrypted"),
    "a directory that lies": (directory_lies, "but the file isn't that large"),
    "a directory that lies of what is packed": (directory_lies_of_packed, "but the file isn't that large"),
    "a wrong checksum": (wrong_checksum, "can't be read as a NumPy archive (Bad CRC-32"),
    "damaged inside": (damaged_deflate, "can't be read as a NumPy archive"),
    "a bomb": (bomb, "which is 1920 bytes, but it has 60001920"),
    "truncated": (without_end, "can't be read as a NumPy archive"),
    "Python objects": (
        lambda p: np.savez(p, x=np.array([{}] * 60, dtype=object), y=Y),
        "holds Python objects, which aren't loaded",
    ),
    "named fields": (lambda p: np.savez(p, x=structured(), y=Y), "named fields"),
    "named fields as targets": (lambda p: np.savez(p, x=X, y=structured()), "named fields"),
    "one array": (lambda p: p.write_bytes(npy(X)), "holds one array"),
    "a gzip file": (lambda p: p.write_bytes(gzip.compress(npy(X))), "looks like a gzip file"),
    "a bzip2 file": (lambda p: p.write_bytes(bz2.compress(npy(X))), "looks like a bzip2 file"),
    "empty": (lambda p: p.touch(), "is empty"),
    "a folder": (lambda p: p.mkdir(), "is a folder"),
    "a FIFO": (os.mkfifo, "is a FIFO, not a file"),
    "a socket": (a_socket, "is a socket, not a file"),
    "a link to itself": (link_to_itself, "the link leads to itself"),
    "a link to nothing": (lambda p: p.symlink_to("gone.npz"), "there is no file"),
    "complex numbers": (lambda p: np.savez(p, x=X + 1j, y=Y), "are of type complex128, not numbers"),
    "dates": (lambda p: np.savez(p, x=np.zeros((60, 2), "M8[s]"), y=Y), "not numbers"),
    "dates as targets": (lambda p: np.savez(p, x=X, y=np.zeros(60, "M8[s]")), "neither numbers nor labels"),
    "one number as inputs": (lambda p: np.savez(p, x=np.array(1.0), y=Y), "holds no examples"),
    "no targets in columns": (lambda p: np.savez(p, x=X, y=X[:, :0]), "which holds none"),
    "text in two columns": (
        lambda p: np.savez(p, x=X, y=np.full((60, 2), "a")),
        "one label for each example",
    ),
    "targets of NaN": (lambda p: np.savez(p, x=X, y=np.full(60, np.nan)), "hold 60 missing values"),
    "one target of infinity": (
        lambda p: np.savez(p, x=X, y=np.where(Y == 1, np.inf, X[:, 0])),
        "targets of 'a.npz' hold 20 infinite values",
    ),
    "a test part of another shape": (
        lambda p: np.savez(p, x=X, y=Y, x_test=X[:9, :2], y_test=Y[:9]),
        "test examples have shape [2]",
    ),
    "targets for the test of another shape": (
        lambda p: np.savez(p, x=X, y=X[:, :2], x_test=X[:9], y_test=X[:9, :3]),
        "targets of the test part",
    ),
    "a test target of NaN": (
        lambda p: np.savez(p, x=X, y=X[:, 0], x_test=X[:9], y_test=np.full(9, np.nan)),
        "hold 9 missing values",
    ),
}


@pytest.mark.parametrize("what", BAD_ARCHIVES)
def test_hostile_archives(folder: Path, what: str) -> None:
    build, says = BAD_ARCHIVES[what]
    build(folder / "a.npz")
    refused("a.npz", says)


def test_a_name_that_is_too_long(folder: Path) -> None:
    refused(f"{'a' * 300}.npz", "give a shorter path")


GOOD_ARCHIVES: dict[str, Build] = {
    "text beside arrays": lambda p: archive(p, x=X, y=Y, **{"read.me": b"hello"}),
    "packed by bzip2": lambda p: archive(p, zipfile.ZIP_BZIP2, x=X, y=Y),
    "packed by lzma": lambda p: archive(p, zipfile.ZIP_LZMA, x=X, y=Y),
    "columns first": lambda p: np.savez(p, x=np.asfortranarray(X), y=Y),
    "big-endian": lambda p: np.savez(p, x=X.astype(">f4"), y=Y.astype(">i4")),
    "big-endian numbers to regress": lambda p: np.savez(p, x=X.astype(">i2"), y=X[:, 0].astype(">f8")),
    "half precision": lambda p: np.savez(p, x=X.astype("f2"), y=X[:, 1].astype("f2")),
    "images in half precision": lambda p: np.savez(p, x=RNG.normal(30, 5, (60, 1, 8, 8)).astype("f2"), y=Y),
    "long doubles": lambda p: np.savez(p, x=X.astype(np.longdouble), y=X[:, 1].astype(np.longdouble)),
    "booleans": lambda p: np.savez(p, x=X > 3, y=Y > 1),
    "unsigned": lambda p: np.savez(p, x=(X > 3).astype("u2"), y=Y.astype("u1")),
    "labels beyond int64": lambda p: np.savez(p, x=X, y=Y.astype("u8") + np.uint64(2**63 + 5)),
    "labels as fractions": lambda p: np.savez(p, x=X, y=Y / 2),
    "labels as whole fractions": lambda p: np.savez(p, x=X, y=Y.astype("f4")),
    "bytes as labels": lambda p: np.savez(p, x=X, y=np.array([b"a", b"b", b"c"] * 20)),
    "a column of targets": lambda p: np.savez(p, x=X, y=Y[:, None].astype(">i8")),
    "a link": lambda p: (np.savez("b.npz", x=X, y=Y), p.symlink_to("b.npz")),
}


@pytest.mark.parametrize("what", GOOD_ARCHIVES)
def test_unusual_archives_are_learnt_from(folder: Path, what: str, same_as_script: Same) -> None:
    GOOD_ARCHIVES[what](folder / "a.npz")
    source = load("a.npz")
    same_as_script(source)
    prepared = prepare(source, seed=0, replicate=0)
    inputs = prepared.train.inputs
    assert inputs is not None
    assert inputs.isfinite().all()
    assert inputs.abs().sum() > 0
    assert prepared.test.targets is not None


def test_text_beside_arrays_is_said(folder: Path) -> None:
    archive(folder / "a.npz", x=X, y=Y, **{"read.me": b"hello"})
    assert any("left out: 'read.me'" in note for note in load("a.npz").notes)


# The test part of an archive ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "target"),
    [
        (("x", "y", "x_test", "y_test"), None),
        (("X", "Y", "X_test", "Y_test"), None),
        (("x_train", "y_train", "x_test", "y_test"), None),
        (("images", "labels", "images_test", "labels_test"), None),
        (("images", "labels", "images_test", "labels_test"), "labels"),
        (("x", "y", "x_test", "y_test"), "y"),
    ],
)
def test_test_arrays_are_the_fixed_test_set(
    folder: Path, names: tuple[str, ...], target: str | None, same_as_script: Same
) -> None:
    arrays = (X, Y, X[:9] + 1, Y[:9])
    np.savez(folder / "a.npz", **dict(zip(names, arrays, strict=True)))
    source = load("a.npz", target=target)
    assert (source.rows, source.test_rows) == (60, 9)
    assert any(f"the test part is '{names[2]}' and '{names[3]}'" in note for note in source.notes)
    same_as_script(source)
    prepared = prepare(source, seed=0, replicate=0)
    assert prepared.test.targets is not None
    assert prepared.test.targets.tolist() == Y[:9].tolist()


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("style", ["{part}_{name}", "{name}_{part}"])
@pytest.mark.parametrize("by_name", [True, False])
def test_arrays_of_three_parts_in_any_order(
    folder: Path, style: str, by_name: bool, named: bool, same_as_script: Same
) -> None:
    # as in archives of published images, where the second array may be the inputs of another part
    target = style.format(part="train", name="labels") if named else None
    parts = {"train": (X, Y), "val": (X[:7] + 2, Y[:7]), "test": (X[:9] + 1, Y[:9])}
    arrays = {
        style.format(part=part, name=name): values[place]
        for place, name in enumerate(("images", "labels"))
        for part, values in parts.items()
    }
    names = sorted(arrays) if by_name else list(arrays)
    np.savez(folder / "a.npz", **{name: arrays[name] for name in names})
    source = load("a.npz", target=target)
    assert (source.rows, source.test_rows) == (60, 9)
    same_as_script(source)
    left = ", ".join(repr(name) for name in names if "val" in name)
    assert any(f"left out: {left}" in note for note in source.notes)
    prepared = prepare(source, seed=0, replicate=0)
    assert prepared.test.targets is not None
    assert prepared.test.targets.tolist() == Y[:9].tolist()


@pytest.mark.parametrize("half", ["x_test", "y_test"])
def test_half_a_test_part_is_left_out_and_said(folder: Path, half: str) -> None:
    np.savez(folder / "a.npz", x=X, y=Y, **{half: X[:9] if half == "x_test" else Y[:9]})
    source = load("a.npz")
    assert source.test_rows == 0
    assert any(f"left out: '{half}'" in note for note in source.notes)


@pytest.mark.parametrize("what", ["a shape of 10^12", "encrypted", "a FIFO", "targets of NaN"])
def test_the_command_says_it_and_exits_with_2(
    folder: Path, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build, says = BAD_ARCHIVES[what]
    build(folder / "a.npz")
    assert run(["race", "--data", "a.npz", "--out", "out"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert says in said
    assert said.count("\n") == 1
    assert not (folder / "out").exists()


# Large arrays ---------------------------------------------------------------------------------------------


def test_a_mapped_archive_gives_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = X.astype("f4")
    np.savez(folder / "a.npz", x=x, y=Y, x_test=x[:9], y_test=Y[:9])
    read = load("a.npz")
    monkeypatch.setattr(npz, "_MAPPED", 1)
    mapped = load("a.npz")
    assert isinstance(mapped.x.base, np.memmap)
    assert not isinstance(read.x.base, np.memmap)
    assert mapped.fingerprint == read.fingerprint
    assert np.array_equal(mapped.x, read.x)
    np.savez(folder / "b.npz", x=np.asfortranarray(x), y=Y)
    assert np.array_equal(load("b.npz").x, x)


def test_the_checksum_of_a_mapped_archive_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "_MAPPED", 1)
    wrong_checksum(folder / "a.npz")
    refused("a.npz", "Bad CRC-32")


def test_what_does_not_fit_into_memory_is_refused_before_it_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(folder / "a.npz", x=X, y=Y)
    monkeypatch.setattr(held, "free_bytes", lambda: 1000)
    refused("a.npz", "takes 1.92 kB of memory, and 1 kB are free")


# MNIST's format -------------------------------------------------------------------------------------------

PIXELS = RNG.integers(0, 256, (60, 4, 3), dtype=np.uint8)
CODES = {"u1": 8, "i1": 9, ">i2": 11, ">i4": 12, ">f4": 13, ">f8": 14}


def idx(array: np.ndarray, *, kind: str = "u1", shape: tuple[int, ...] | None = None) -> bytes:
    shape = array.shape if shape is None else shape
    return (
        bytes([0, 0, CODES[kind], len(shape)])
        + struct.pack(f">{len(shape)}I", *shape)
        + array.astype(kind).tobytes()
    )


IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def digits(folder: Path, images: bytes | None = None, labels: bytes | None = None, ending: str = "") -> None:
    folder.mkdir()
    (folder / f"{IMAGES}{ending}").write_bytes(idx(PIXELS) if images is None else images)
    (folder / LABELS).write_bytes(idx(Y) if labels is None else labels)


def without_labels(folder: Path, build: Build) -> None:
    digits(folder)
    (folder / LABELS).unlink()
    build(folder / LABELS)


BAD_DIGITS: dict[str, tuple[Build, str]] = {
    "sizes that overflow": (
        lambda f: digits(f, idx(PIXELS, shape=(2**32 - 1,) * 4)), "but its header says 3402823"),
    "sizes that overflow to what is there": (
        lambda f: digits(f, idx(PIXELS, shape=(2**31, 2**31, 4, 60))), "but its header says"),
    "more than is there": (lambda f: digits(f, idx(PIXELS, shape=(61, 4, 3))), "720 bytes of values, but"),
    "less than is there": (lambda f: digits(f, idx(PIXELS, shape=(59, 4, 3))), "720 bytes of values, but"),
    "an unknown type": (lambda f: digits(f, b"\0\0\x07\x03" + bytes(12)), "isn't in MNIST's IDX format"),
    "five dimensions": (lambda f: digits(f, b"\0\0\x08\x05" + bytes(20)), "isn't in MNIST's IDX format"),
    "no dimension": (lambda f: digits(f, b"\0\0\x08\0"), "isn't in MNIST's IDX format"),
    "nothing at all": (lambda f: digits(f, b"\0\0\x08\x03" + bytes(12)), "holds no examples"),
    "three bytes": (lambda f: digits(f, b"\0\0\x08"), "isn't in MNIST's IDX format"),
    "a header that ends": (lambda f: digits(f, b"\0\0\x08\x03\0\0"), "ends within its header"),
    "empty": (lambda f: digits(f, b""), "is empty"),
    "a PNG image": (lambda f: digits(f, b"\x89PNG\r\n"), "looks like a PNG image"),
    "a bomb": (
        lambda f: digits(f, gzip.compress(idx(PIXELS) + bytes(6 * 10**7)), ending=".gz"), "than the 720"),
    "a gzip file that claims a terabyte": (
        lambda f: digits(f, gzip.compress(idx(PIXELS, shape=(10**6, 1000, 1000))), ending=".gz"),
        "too few to unpack to that"),
    "a gzip file that claims a megabyte": (
        lambda f: digits(f, gzip.compress(idx(PIXELS, shape=(700, 4, 3))), ending=".gz"),
        "720 bytes of values, but its header says 8400"),
    "a truncated gzip file": (
        lambda f: digits(f, gzip.compress(idx(PIXELS))[:-30], ending=".gz"), "the gzip file is truncated"),
    "a gzip file of zeros": (lambda f: digits(f, bytes(40), ending=".gz"), "isn't a gzip file"),
    "a gzip file with another checksum": (
        lambda f: digits(f, gzip.compress(idx(PIXELS))[:-8] + bytes(8), ending=".gz"), "is damaged"),
    "a damaged gzip file": (
        lambda f: digits(f, gzip.compress(idx(PIXELS))[:12] + b"\xff" * 400, ending=".gz"), "is damaged"),
    "labels of NaN": (
        lambda f: digits(f, labels=idx(np.full(60, np.nan), kind=">f4")), "hold 60 missing values"),
    "labels of infinity": (
        lambda f: digits(f, labels=idx(np.where(Y == 1, np.inf, Y), kind=">f8")), "hold 20 infinite values"),
    "labels for others": (lambda f: digits(f, labels=idx(Y[:59])), "60 inputs but 59 targets"),
    "labels that are a FIFO": (lambda f: without_labels(f, os.mkfifo), "is a FIFO"),
    "labels that are a folder": (lambda f: without_labels(f, Path.mkdir), "is a folder"),
    "labels that link to themselves": (
        lambda f: without_labels(f, lambda p: p.symlink_to(p.name)), "the link leads to itself"),
    "a folder that links to itself": (lambda f: f.symlink_to(f.name), "the link leads to itself"),
    "a folder that is a FIFO": (os.mkfifo, "is a FIFO, but a folder is needed"),
    "a folder under a file": (lambda f: f.touch(), "is a file, but a folder is needed"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_DIGITS)
def test_hostile_digits(folder: Path, what: str) -> None:
    build, says = BAD_DIGITS[what]
    build(folder / "d")
    refused("idx:d", says)


GOOD_DIGITS: dict[str, tuple[Build, str, int]] = {
    "signed labels": (lambda f: digits(f, labels=idx(Y, kind="i1")), "classification", 3),
    "labels of 16 bits": (lambda f: digits(f, labels=idx(Y + 300, kind=">i2")), "classification", 3),
    "labels of 32 bits": (lambda f: digits(f, labels=idx(Y, kind=">i4")), "classification", 3),
    "whole numbers as fractions": (lambda f: digits(f, labels=idx(Y, kind=">f4")), "classification", 3),
    "fractions": (lambda f: digits(f, labels=idx(X[:, 0], kind=">f8")), "regression", 1),
    "images of fractions": (lambda f: digits(f, idx(X.reshape(60, 2, 2), kind=">f4")), "classification", 3),
    "images of 32 bits": (lambda f: digits(f, idx(PIXELS, kind=">i4")), "classification", 3),
    "rows of numbers": (lambda f: digits(f, idx(PIXELS.reshape(60, 12))), "classification", 3),
    "images in colour": (
        lambda f: digits(f, idx(RNG.integers(0, 256, (60, 3, 4, 5)))), "classification", 3),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD_DIGITS)
def test_unusual_digits_are_learnt_from(folder: Path, what: str, same_as_script: Same) -> None:
    build, kind, outputs = GOOD_DIGITS[what]
    build(folder / "d")
    source = load("idx:d")
    assert source.task.kind == kind
    same_as_script(source)
    assert prepare(source, seed=0, replicate=0).outputs == outputs


def test_test_images_without_labels_are_left_out_and_said(folder: Path) -> None:
    digits(folder / "d")
    (folder / "d" / "t10k-images-idx3-ubyte").write_bytes(idx(PIXELS))
    source = load("idx:d")
    assert source.test_rows == 0
    assert any("t10k-images-idx3-ubyte is left out" in note for note in source.notes)


# Images ---------------------------------------------------------------------------------------------------


def picture(mode: str = "RGB", size: tuple[int, int] = (5, 6)) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def pets(folder: Path, content: bytes | Build = b"", name: str = "odd.png") -> None:
    """Eight images of each of two classes, and something else among them."""
    for label in ("cat", "dog"):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            picture().save(folder / label / f"{number}.png")
    if isinstance(content, bytes):
        (folder / "cat" / name).write_bytes(content)
    else:
        content(folder / "cat" / name)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    found = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", found)


def png(width: int, height: int, *more: bytes, depth: int = 8, colour: int = 0) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes((min(width, 9) + 1) * min(height, 9))))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + pixels + chunk(b"IEND", b"")


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 5 6\n%%EndComments\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="5" height="6"></svg>'
NEITHER = "is neither PNG nor JPEG, whatever its name says"
BAD_PETS: dict[str, tuple[bytes | Build, str]] = {
    "EPS": (EPS, NEITHER),
    "SVG": (SVG, NEITHER),
    "GIF": (saved(picture(), "GIF"), NEITHER),
    "animated GIF": (saved(picture(), "GIF", save_all=True, append_images=[picture()]), NEITHER),
    "BMP": (saved(picture(), "BMP"), NEITHER),
    "TIFF": (saved(picture(), "TIFF"), NEITHER),
    "PPM": (saved(picture(), "PPM"), NEITHER),
    "ICO": (saved(picture(), "ICO"), NEITHER),
    "PDF": (b"%PDF-1.4\n", NEITHER),
    "text": (b"no image", NEITHER),
    "empty": (b"", "it is empty"),
    "eight bytes of PNG": (b"\x89PNG\r\n\x1a\n", "odd.png"),
    "half a PNG": (saved(picture(), "PNG")[:60], "is damaged"),
    "half a JPEG": (saved(picture(size=(50, 60)), "JPEG")[:400], "is damaged"),
    "the beginning of a JPEG": (b"\xff\xd8\xff\xe0", "odd.png"),
    "a wrong checksum": (
        saved(picture(), "PNG")[:40] + b"\0" + saved(picture(), "PNG")[41:], "is damaged"),
    "another pixel count": (png(5, 6, depth=8, colour=2), "is damaged"),
    "a billion pixels": (png(99_999, 99_999), "pixels; make it smaller"),
    "more pixels than PIL likes": (png(10_000, 9_999), "pixels; make it smaller"),
    "no pixels": (png(0, 6), "odd.png"),
    "text that is a bomb": (
        png(5, 6, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**7)))), "is damaged"),
    "16 bits": (saved(Image.fromarray(RNG.integers(0, 60_000, (6, 5), dtype=np.uint16)), "PNG"), "'I;16'"),
    "another size": (saved(picture(size=(7, 9)), "PNG"), "odd.png is 9x7"),
    "a folder": (Path.mkdir, "is a folder, not a file"),
    "a FIFO": (os.mkfifo, "is a FIFO, not a file"),
    "a link to itself": (lambda p: p.symlink_to(p.name), "Too many levels of symbolic links"),
    "a link to nothing": (lambda p: p.symlink_to("gone"), "No such file"),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD_PETS)
def test_hostile_images(folder: Path, what: str) -> None:
    content, says = BAD_PETS[what]
    pets(folder / "p", content)
    refused("images:p", says)


def test_no_other_program_reads_an_image(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import subprocess

    def never(*_: object, **__: object) -> None:
        raise AssertionError("a program is run for an image")

    monkeypatch.setattr(subprocess, "Popen", never)
    pets(folder / "p", EPS)
    Image.init()  # every format that PIL knows
    with pytest.raises(DataError, match="neither PNG nor JPEG"):
        load("images:p")


@pytest.mark.parametrize(
    ("size", "says"),
    [
        ("@99999x99999", "they can have 1 to"),
        ("@0x10", "they can have 1 to"),
        ("@1x99999999999999999999", "they can have 1 to"),
        ("@-3x3", "there is no folder"),
    ],
)
def test_hostile_sizes(folder: Path, size: str, says: str) -> None:
    pets(folder / "p", saved(picture(), "PNG"))
    refused(f"images:p{size}", says)


def test_many_large_images_are_refused_before_memory_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets(folder / "p", saved(picture(), "PNG"))
    monkeypatch.setattr(held, "free_bytes", lambda: 10**9)
    refused("images:p@9000x9000", "17 images of 9000x9000 pixels takes 4.13 GB of memory")


def test_class_folders_that_are_not_text(folder: Path) -> None:
    pets(folder / "p", saved(picture(), "PNG"))
    try:
        os.mkdir(os.fsencode(folder / "p") + b"/caf\xe9")
    except OSError:
        pytest.skip("this file system has names in UTF-8 alone")
    picture().save(os.fsdecode(os.fsencode(folder / "p") + b"/caf\xe9/0.png"))
    refused("images:p", "isn't named by text in UTF-8; rename it")


def animated() -> bytes:
    return saved(picture(), "PNG", save_all=True, append_images=[picture()])


GOOD_PETS: dict[str, tuple[Callable[[], bytes], str]] = {
    "palette": (lambda: saved(picture("P"), "PNG"), "odd.png"),
    "palette with a colour that is clear": (lambda: saved(picture("P"), "PNG", transparency=3), "odd.png"),
    "palette with shades of clear": (
        lambda: saved(picture("P"), "PNG", transparency=bytes(range(200))), "odd.png"),
    "alpha": (lambda: saved(picture("RGBA"), "PNG"), "odd.png"),
    "grey with alpha": (lambda: saved(picture("LA"), "PNG"), "odd.png"),
    "grey": (lambda: saved(picture("L"), "PNG"), "odd.png"),
    "one bit": (lambda: saved(picture("1"), "PNG"), "odd.png"),
    "CMYK": (lambda: saved(picture("CMYK"), "JPEG"), "odd.jpg"),
    "progressive": (lambda: saved(picture(), "JPEG", progressive=True), "odd.jpeg"),
    "a JPEG named PNG": (lambda: saved(picture(), "JPEG"), "odd.png"),
    "a PNG named JPEG": (lambda: saved(picture(), "PNG"), "ODD.JPG"),
    "animated": (animated, "odd.png"),
}  # fmt: skip


@pytest.mark.parametrize("what", GOOD_PETS)
def test_unusual_images_are_learnt_from(folder: Path, what: str, same_as_script: Same) -> None:
    make, name = GOOD_PETS[what]
    pets(folder / "p", make(), name)
    source = load("images:p")
    assert source.rows == 17
    with warnings.catch_warnings():
        # PIL warns of some palettes, and the script lets it
        warnings.filterwarnings("ignore", "Palette images", UserWarning)
        same_as_script(source)


@pytest.mark.parametrize(
    "spec", ["a\0.csv", "a\0.npz", "idx:a\0", "images:a\0@8x8", "a\0.py:f", "a\0/b", "a\0"]
)
def test_a_name_with_a_character_that_is_in_no_path(folder: Path, spec: str) -> None:
    with pytest.raises(DataError, match="holds a NUL character"):
        load(spec)
