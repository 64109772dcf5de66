"""Where pixels come from, against closed forms: shifted and turned arrays, torch's own resizing, formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from thalweg.data.augmentation.bounds import Parameters
from thalweg.data.augmentation.geometry import kornia, matrices, warp

pytest.importorskip("kornia")

IMAGE = torch.rand(1, 2, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def parameters(**given: float) -> Parameters:
    """Parameters of one example that change nothing but what is given."""
    neutral: dict[str, Any] = dict.fromkeys(Parameters.__dataclass_fields__, 0.0)
    neutral |= {"zoom": 1.0, "width": 1.0, "window": 1.0, "contrast": 1.0, "saturation": 1.0, **given}
    made = {name: np.array([value]) for name, value in neutral.items()}
    made |= {name: made[name].astype(bool) for name in ("changed", "mirrored")}
    return Parameters(**made)


def warped(image: Tensor, *, lens: float | None = None, fill: Any = "edge", **given: float) -> Tensor:
    size = image.shape[-2], image.shape[-1]
    coefficient = None if lens is None else np.array([lens])
    return warp(image, matrices(parameters(**given), size), coefficient, fill=fill)


def close(one: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_nothing_given_is_the_identity() -> None:
    close(warped(IMAGE), IMAGE)


@pytest.mark.parametrize(("right", "down"), [(0, 3), (2, 0), (-4, 1)])
def test_a_translation_is_a_shifted_array(right: int, down: int) -> None:
    rows = (torch.arange(9) - down).clamp(0, 8)
    columns = (torch.arange(9) - right).clamp(0, 8)
    close(warped(IMAGE, right=right, down=down), IMAGE[:, :, rows][:, :, :, columns])


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_rotation_by_right_angles_is_torchs(quarters: int) -> None:
    close(warped(IMAGE, angle=quarters * np.pi / 2), torch.rot90(IMAGE, quarters, (-2, -1)))


def test_a_rotation_keeps_angles_where_images_are_no_squares() -> None:
    image = torch.rand(1, 1, 9, 5, dtype=torch.float64)
    turned = torch.rot90(image, 1, (-2, -1))[..., 2:7]
    close(warped(image, angle=np.pi / 2)[..., 2:7, :], turned)


def test_a_mirror_is_torchs() -> None:
    close(warped(IMAGE, mirrored=1.0), IMAGE.flip(-1))


@pytest.mark.parametrize("size", [(8, 8), (8, 12)])
def test_a_window_is_resized_as_torch_does(size: tuple[int, int]) -> None:
    """A window of half the sides at the upper left, against ``interpolate`` of the same pixels."""
    height, width = size
    image = torch.rand(1, 1, height, width, dtype=torch.float64)
    found = warped(image, window=0.5, window_right=-0.25, window_down=-0.25)
    cut = image[..., : height // 2, : width // 2]
    expected = functional.interpolate(cut, size=size, mode="bilinear", align_corners=False)
    # the last row and column of the window look beyond it here, and are clamped there
    close(found[..., :-1, :-1], expected[..., :-1, :-1])


def place_by_hand(x: float, y: float, given: dict[str, float], lens: float, size: tuple[int, int]) -> Any:
    """Where the pixel at ``(x, y)`` from the centre comes from: each change undone, the last one first."""
    height, width = size
    square = (x * x + y * y) / ((width / 2) ** 2 + (height / 2) ** 2)
    x, y = x * (1 + lens * square), y * (1 + lens * square)
    x, y = x - given["right"], y - given["down"]
    cosine, sine = np.cos(given["angle"]), np.sin(given["angle"])
    x, y = cosine * x - sine * y, sine * x + cosine * y
    x = x - np.tan(given["lean"]) * y
    x, y = x / given["width"], y * given["width"]
    x, y = x / given["zoom"], y / given["zoom"]
    x = -x if given["mirrored"] else x
    x, y = x * given["window"], y * given["window"]
    return x + given["window_right"] * width, y + given["window_down"] * height


@pytest.mark.parametrize("lens", [0.0, 0.2, -0.25])
@pytest.mark.parametrize("mirrored", [0.0, 1.0])
def test_all_together_are_each_undone_in_turn(lens: float, mirrored: float) -> None:
    """An image whose values are its own coordinates shows where each pixel comes from."""
    height, width = 21, 33
    given = {
        "right": 2.0, "down": -1.0, "angle": 0.3, "lean": 0.2, "zoom": 1.5, "width": 1.2, "window": 0.7,
        "window_right": 0.1, "window_down": -0.05, "mirrored": mirrored,
    }  # fmt: skip
    down, right = torch.meshgrid(
        torch.arange(height).double() - (height - 1) / 2,
        torch.arange(width).double() - (width - 1) / 2,
        indexing="ij",
    )
    found = warped(torch.stack([right, down])[None], lens=lens, **given)[0]
    inside = 0
    for row in range(height):
        for column in range(width):
            x, y = place_by_hand(
                float(right[row, column]), float(down[row, column]), given, lens, (height, width)
            )
            if abs(x) <= (width - 1) / 2 and abs(y) <= (height - 1) / 2:
                inside += 1
                assert found[:, row, column].tolist() == pytest.approx([x, y], abs=1e-9)
    assert inside > 0.8 * height * width


def test_the_lens_is_kornias_model() -> None:
    height, width, k = 13, 19, -0.2
    radius, centre = np.hypot(height, width) / 2, ((width - 1) / 2, (height - 1) / 2)
    camera = torch.tensor([[radius, 0, centre[0]], [0, radius, centre[1]], [0, 0, 1.0]], dtype=torch.float64)
    points = torch.cartesian_prod(torch.arange(width), torch.arange(height)).double()
    import kornia.geometry.calibration as calibration

    there = calibration.distort_points(points, camera, torch.tensor([k, 0, 0, 0], dtype=torch.float64))
    down, right = torch.meshgrid(torch.arange(height).double(), torch.arange(width).double(), indexing="ij")
    found = warped(torch.stack([right, down])[None], lens=k)[0]
    close(found[:, points[:, 1].long(), points[:, 0].long()].T, there)


def test_what_lies_beyond_the_edges() -> None:
    image = torch.arange(1.0, 5.0, dtype=torch.float64).reshape(1, 1, 1, 4)
    fills = {"edge": [1, 1, 1, 2], "reflect": [2, 1, 1, 2], "black": [-3, -3, 1, 2]}
    for fill, expected in fills.items():
        found = warp(
            image,
            matrices(parameters(right=2.0), (1, 4)),
            fill=fill,
            black=torch.tensor([-3.0]),  # type: ignore[arg-type]
        )
        close(found, torch.tensor(expected, dtype=torch.float64).reshape(1, 1, 1, 4))


def test_kornia_is_what_warps() -> None:
    """Our map from places to sources, inverted, is the matrix that kornia's own affine warp takes."""
    given = {"right": 1.0, "down": -2.0, "angle": 0.4, "lean": 0.1, "zoom": 1.2, "width": 0.9}
    ours = np.vstack([matrices(parameters(**given), (9, 9))[0], [0, 0, 1]])
    centre = np.array([[1, 0, 4], [0, 1, 4], [0, 0, 1.0]])
    forward = torch.from_numpy(centre @ np.linalg.inv(ours) @ np.linalg.inv(centre))[None, :2]
    theirs = kornia().geometry.transform.warp_affine(IMAGE, forward, (9, 9), padding_mode="border")
    close(warped(IMAGE, **given), theirs)
