from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from thalweg.data import load, prepare
from thalweg.data.fresh import new_inputs
from thalweg.data.stored import ArrayPreparation, store
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
    assert any(note.startswith("1 file is no .png") for note in source.notes)
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


def test_new_images_become_the_inputs_that_training_had(folder: Path) -> None:
    for at, resized in (("", False), ("@4x3", True)):
        fill(folder / "pets")
        if resized:
            draw(folder / "pets" / "dog" / "big.png", size=(9, 7))
        source = load(f"images:pets{at}")
        prepared = prepare(source, seed=0, replicate=0)
        made = store(source, prepared.indices, None)
        assert isinstance(made, ArrayPreparation)
        kept = ArrayPreparation.model_validate_json(made.model_dump_json())
        kept.check()
        new = new_inputs(folder / "pets", kept)
        assert torch.equal(new.inputs[torch.from_numpy(prepared.indices["test"])], prepared.test.inputs)
        expected = [path.relative_to("pets").as_posix() for path in sorted(Path("pets").glob("*/*.png"))]
        assert new.files == expected
        assert torch.equal(new_inputs(f"images:pets{at}", kept).inputs, new.inputs)
        one = new_inputs("pets/dog/3.png", kept)
        assert one.files == ["3.png"]
        assert torch.equal(one.inputs[0], new.inputs[expected.index("dog/3.png")])


def test_new_images_may_lie_flat_or_deep_beside_other_files(folder: Path) -> None:
    kept = ArrayPreparation(
        shape=[1, 6, 5], scaling="channels", number=False, images="one size",
        mean=[[[[100.0]]]], scale=[[[[50.0]]]],
    )  # fmt: skip
    for name in ("new/b.png", "new/a.JPG", "new/c/d/e.png", "new/.hidden.png", "new/.git/f.png"):
        draw(folder / name, mode="L")
    draw(folder / "new" / "g.png")
    (folder / "new" / "notes.txt").write_text("x")
    (folder / "new" / "c" / "again").symlink_to(folder / "new")
    new = new_inputs("new", kept)
    assert new.files == ["a.JPG", "b.png", "c/d/e.png", "g.png"]
    assert new.notes == [
        "1 file is no .png, .jpg, .jpeg image: it is left out",
        "1 of 4 images have colours and are made grey, as all of training were",
    ]
    with Image.open("new/b.png") as image:
        assert torch.allclose(new.inputs[1, 0], (torch.tensor(np.asarray(image)) - 100.0) / 50.0)


def test_new_images_that_do_not_fit_are_refused(folder: Path) -> None:
    array: dict[str, Any] = {"shape": [1, 6, 5], "scaling": "as given", "number": False}
    images = ArrayPreparation(**array, images="one size")
    (folder / "empty").mkdir()
    draw(folder / "small" / "a.png", mode="L", size=(3, 4))
    (folder / "small" / "b.txt").write_text("x")
    for given, preparation, said in (
        ("empty", images, "the folder empty has no images: give one with .png, .jpg, .jpeg files in it"),
        (
            "small",
            images,
            r"small/a.png is 3x4 \(height x width\), but training had images of 6x5 and resized",
        ),
        ("images:small@3x4", images, r"training had images of 6x5 \(height x width\); write images:small"),
        (
            "small",
            ArrayPreparation(**array),
            "small would be read as images, but this model wasn't trained on",
        ),
        ("none.png", images, "there is no file 'none.png'"),
        ("small/b.txt", images, "give an image or a folder of images, a table"),
    ):
        with pytest.raises(DataError, match=said):
            new_inputs(given, preparation)
    with pytest.raises(ValueError, match="which no images have"):
        ArrayPreparation(shape=[6, 5], scaling="as given", number=False, images="resized").check()
