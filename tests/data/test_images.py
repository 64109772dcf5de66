from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thalweg.data import load, prepare
from thalweg.errors import DataError

Same = Callable[..., object]
RNG = np.random.default_rng(0)


def draw(path: Path, *, mode: str = "RGB", size: tuple[int, int] = (6, 5)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (size[0], size[1], len(mode)) if len(mode) > 1 else size
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8), mode=None).convert(mode).save(path)


def fill(folder: Path, *, mode: str = "RGB", ending: str = "png", count: int = 8) -> None:
    for label in ("cat", "dog"):
        for number in range(count):
            draw(folder / label / f"{number}.{ending}", mode=mode)


@pytest.mark.parametrize(
    ("mode", "ending", "channels"),
    [("RGB", "png", 3), ("L", "png", 1), ("RGB", "JPG", 3), ("RGBA", "png", 3)],
)
def test_folders_of_classes(
    folder: Path, mode: str, ending: str, channels: int, same_as_script: Same
) -> None:
    fill(folder / "pets", mode=mode, ending=ending)
    source = load("images:pets")
    assert source.task.classes == ("cat", "dog")
    assert source.class_counts == [8, 8]
    assert source.name == "pets"
    same_as_script(source)
    assert prepare(source, seed=0, replicate=0).input_shape == (channels, 6, 5)


def test_one_colour_image_makes_all_colour(folder: Path) -> None:
    fill(folder, mode="L")
    draw(folder / "cat" / "colour.png")
    assert prepare(load(f"images:{folder}"), seed=0, replicate=0).input_shape == (3, 6, 5)


def test_train_and_test_folders(folder: Path, same_as_script: Same) -> None:
    fill(folder / "train")
    fill(folder / "test", count=3)
    source = load(f"images:{folder}")
    assert (source.rows, source.test_rows) == (16, 6)
    same_as_script(source)


def test_sizes_that_differ(folder: Path, same_as_script: Same) -> None:
    fill(folder)
    draw(folder / "dog" / "big.png", size=(9, 7))
    spec = f"images:{folder}"
    with pytest.raises(DataError, match=r"most are 6x5 .*big.png is 9x7; write images:.*@6x5 to bring"):
        load(spec)
    source = load(f"{spec}@4x3")
    same_as_script(source)
    assert prepare(source, seed=0, replicate=0).input_shape == (3, 4, 3)


def test_other_and_hidden_files_are_left_out(folder: Path, same_as_script: Same) -> None:
    fill(folder)
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "readme.md").write_text("x")
    draw(folder / ".cache" / "0.png")
    source = load(f"images:{folder}")
    assert source.rows == 16
    assert any(note.startswith("1 files are no .png") for note in source.notes)
    same_as_script(source)


def test_images_that_cannot_be_read(folder: Path) -> None:
    fill(folder)
    broken = folder / "cat" / "broken.png"
    spec = f"images:{folder}"
    for content, says in ((b"", "it is empty"), (b"no image", "is neither PNG nor JPEG")):
        broken.write_bytes(content)
        with pytest.raises(DataError, match=says):
            load(spec)
    whole = (folder / "cat" / "0.png").read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"broken.png is damaged"):
        load(spec)
    Image.fromarray(RNG.integers(0, 60_000, (6, 5), dtype=np.uint16)).save(broken)
    with pytest.raises(DataError, match=r"pixels of the kind 'I;16'"):
        load(spec)


def test_folder_without_images(folder: Path) -> None:
    with pytest.raises(DataError, match=r"has no images; images: needs a folder for each class"):
        load(f"images:{folder}")
    draw(folder / "only" / "0.png")
    with pytest.raises(DataError, match=r"is 'only' in every row"):
        load(f"images:{folder}")
    with pytest.raises(DataError, match=r"there is no folder 'nowhere'"):
        load("images:nowhere")
