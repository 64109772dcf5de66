"""Real data that comes with scikit-learn."""

from __future__ import annotations

import numpy as np

from thalweg.data.arrays import ArraySource, from_arrays

__all__ = ["BUILTIN", "read_builtin"]

BUILTIN = {
    "digits": "1797 handwritten digits of 8x8 pixels, ten classes",
    "breast-cancer": "569 tumours, 30 measurements, malignant or benign",
    "wine": "178 wines, 13 measurements, three cultivars",
    "iris": "150 flowers, 4 measurements, three species",
    "diabetes": "442 patients, 10 measurements; regression of the disease's progress",
}


def read_builtin(name: str, *, task: str | None = None) -> ArraySource:
    """Load one of :data:`BUILTIN`.

    Raises:
        DataError: the task doesn't fit.

    >>> read_builtin("iris").rows
    150
    """
    # takes a second to import, which other data don't need
    from sklearn import datasets

    loader = f"load_{name.replace('-', '_')}"
    bunch = getattr(datasets, loader)()
    if name == "digits":
        x = bunch.images[:, None]
        reading: tuple[str, ...] = (f"digits = {loader}()", "x, y = digits.images[:, None], digits.target")
    else:
        x = bunch.data
        reading = (f"x, y = {loader}(return_X_y=True)",)
    classes = tuple(str(c) for c in bunch.target_names) if hasattr(bunch, "target_names") else ()
    return from_arrays(
        np.asarray(x), bunch.target, spec=name, name=name, task=task, reading=reading,
        imports=(f"from sklearn.datasets import {loader}",), classes=classes,
    )  # fmt: skip
