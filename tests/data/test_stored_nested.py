"""Several inputs of new data: as training had them, from Python and from files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from thalweg import data
from thalweg.data.fresh import new_inputs
from thalweg.data.stored import store
from thalweg.data.stored_nested import NestedPreparation
from thalweg.errors import DataError
from thalweg.objectives.nests import leaves

ROWS = 40
RNG = np.random.default_rng(0)
IDS = RNG.integers(0, 7, (ROWS, 3))
SIZE = RNG.normal(size=ROWS)
SEEN = RNG.normal(size=(ROWS, 3)) > 0
LABELS = np.arange(ROWS) % 2
NAMED = {"ids": IDS, "size": SIZE, "seen": SEEN}


def kept(given: Any) -> NestedPreparation:
    """What is written beside a model that was trained on such inputs, read again."""
    source = data.load((given, LABELS))
    prepared = data.prepare(source, seed=0, replicate=0)
    made = store(source, prepared.indices, None)
    assert isinstance(made, NestedPreparation)
    again = NestedPreparation.model_validate_json(made.model_dump_json())
    again.check()
    assert again.features == prepared.input_shape
    # training's own rows become the very same tensors
    rows = prepared.indices["test"]
    new, notes = again.apply(_rows(given, rows))
    assert notes == []
    assert _alike(new, prepared.test.inputs)
    return again


def _rows(given: Any, rows: Any) -> Any:
    if isinstance(given, dict):
        return {name: _rows(part, rows) for name, part in given.items()}
    if isinstance(given, tuple | list):
        return type(given)(_rows(part, rows) for part in given)
    return given[rows]


def _alike(one: Any, other: Any) -> bool:
    def form(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: form(part) for name, part in value.items()}
        return [type(value), *map(form, value)] if isinstance(value, tuple | list) else None

    pairs = list(zip(leaves(one), leaves(other), strict=True))
    return form(one) == form(other) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(
    "given",
    [
        NAMED,
        (IDS, SIZE),
        [IDS, SEEN],
        {"text": {"ids": IDS, "seen": SEEN}, "pair": (SIZE, IDS)},
        {"x": IDS},
        {0: IDS, 1: SIZE},
        {"half": torch.tensor(SIZE).half(), "wide": torch.tensor(SIZE), "byte": torch.tensor(IDS).byte()},
        {"wave": SIZE + 1j * SIZE, "column": SIZE[:, None]},
    ],
    ids=["dict", "tuple", "list", "nested", "alone", "numbers", "types", "complex"],
)
def test_new_data_become_what_training_had(given: Any) -> None:
    kept(given)


def test_an_archive_has_an_array_for_each(folder: Path) -> None:
    both = {"text": {"ids": IDS, "seen": SEEN}, "size": SIZE}
    # the order in the file is another, the types are those of somebody else, and targets may be there
    np.savez(
        "new.npz",
        size=SIZE.astype(np.float32),
        y=LABELS,
        **{"text.seen": SEEN.astype(int), "text.ids": IDS * 1.0},
    )
    found = new_inputs("new.npz", kept(both))
    assert _alike(found.inputs, kept(both).apply(both)[0])
    assert found.notes == []
    np.savez("more.npz", **NAMED, other=SIZE)
    assert new_inputs("more.npz", kept(NAMED)).notes == [
        "more.npz has 'other', which training didn't use: left out"
    ]


@pytest.mark.parametrize("names", [(), ("first", "second"), ("1", "0"), ("b", "a", "label")])
def test_an_archive_has_inputs_in_order(folder: Path, names: tuple[str, ...]) -> None:
    arrays = [IDS, SIZE, LABELS]
    named = dict(zip(names, arrays, strict=False))
    np.savez("new.npz", **named) if names else np.savez("new.npz", IDS, SIZE)
    swapped = names == ("1", "0")
    if swapped:
        np.savez("new.npz", **{"1": SIZE, "0": IDS})
    found = new_inputs("new.npz", kept((IDS, SIZE)))
    assert _alike(found.inputs, kept((IDS, SIZE)).apply((IDS, SIZE))[0])


@pytest.mark.parametrize("made", [pl.DataFrame, lambda columns: pl.DataFrame(columns).lazy()])
def test_a_table_has_a_column_for_each(folder: Path, made: Callable[[Any], Any]) -> None:
    columns = {"user": IDS[:, 0], "size": SIZE, "y": LABELS}
    trained = kept({"user": IDS[:, 0], "size": SIZE[:, None]})
    wanted, _ = trained.apply({"user": IDS[:, 0], "size": SIZE[:, None]})
    assert _alike(trained.apply(made(columns))[0], wanted)
    pl.DataFrame(columns).write_csv("new.csv")
    found = new_inputs("new.csv", trained)
    assert _alike(found.inputs, wanted)
    assert found.notes == []


@pytest.mark.parametrize("kind", ["parquet", "ndjson"])
def test_a_table_may_hold_lists(folder: Path, kind: str) -> None:
    frame = pl.DataFrame({name: part.tolist() for name, part in NAMED.items()})
    getattr(frame, f"write_{kind}")(f"new.{kind}")
    found = new_inputs(f"new.{kind}", kept(NAMED))
    assert _alike(found.inputs, kept(NAMED).apply(NAMED)[0])
    assert _alike(kept(NAMED).apply(frame)[0], found.inputs)
    short = frame.with_columns(ids=pl.when(pl.int_range(pl.len()) == 3).then([1]).otherwise(pl.col("ids")))
    with pytest.raises(
        DataError, match=r"'ids' of the data can't be made an array .*; give rows of one length"
    ):
        kept(NAMED).apply(short)


def test_one_input_needs_no_name(folder: Path) -> None:
    trained = kept({"x": IDS})
    wanted, _ = trained.apply({"x": IDS})
    assert _alike(trained.apply(torch.tensor(IDS))[0], wanted)
    np.savez("new.npz", IDS)
    assert _alike(new_inputs("new.npz", trained).inputs, wanted)


def test_lengths_may_be_others_and_what_is_missing_is_noted() -> None:
    longer = np.concatenate([IDS, IDS], 1)
    size = np.where(np.arange(ROWS) < 3, np.inf, SIZE)
    made, notes = kept(NAMED).apply({"ids": longer, "size": size, "seen": SEEN[:, :2], "labels": LABELS})
    assert made["ids"].shape == (ROWS, 6)
    assert notes == ["the input 'size' of the data holds 3 missing or infinite values"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"ids": IDS, "size": SIZE}, "the data has no 'seen', which training used; it holds 'ids', 'size'"),
        ((IDS, SIZE, SEEN), "the data is a tuple of 3, but training had inputs by name"),
        (IDS, "but training had inputs by name .'ids', 'size', 'seen'.; give a mapping of arrays"),
        ({**NAMED, "ids": IDS[:, 0]}, r"the input 'ids' of the data has the shape \[40\], but training had"),
        (
            {**NAMED, "ids": IDS + 0.5},
            "'ids' of the data holds fractions or missing values, but training had",
        ),
        ({**NAMED, "ids": np.where(IDS > 5, np.nan, IDS)}, "'ids' of the data holds fractions or missing"),
        ({**NAMED, "seen": IDS}, "'seen' of the data holds 6, but training had bool, which is from 0 to 1"),
        ({**NAMED, "size": SIZE + 1j}, "'size' of the data holds complex numbers, but training had float32"),
        ({**NAMED, "size": list("ab" * 20)}, "'size' of the data holds <U1 values, not numbers"),
        ({**NAMED, "ids": [[1, 2, 3], [1]] * 20}, "'ids' of the data can't be made an array"),
        ({**NAMED, "size": SIZE[1:]}, "'size' of the data has 39 examples, but 'ids' has 40; give all"),
        ({name: part[:0] for name, part in NAMED.items()}, "the data holds no examples"),
        ({**NAMED, "ids": 3}, r"the input 'ids' of the data has the shape \[\]"),
    ],
)
def test_what_does_not_fit_is_said_in_one_sentence(given: Any, said: str) -> None:
    with pytest.raises(DataError, match=said) as error:
        kept(NAMED).apply(given)
    assert "\n" not in str(error.value)


def test_what_does_not_fit_in_order_and_within() -> None:
    with pytest.raises(DataError, match="is a tuple of 3, but training had 2 in order; give as many"):
        kept((IDS, SIZE)).apply((IDS, SIZE, SEEN))
    with pytest.raises(DataError, match=r"is a dict .*, but training had 2 in order; give a tuple of arrays"):
        kept((IDS, SIZE)).apply({"a": IDS, "b": SIZE})
    with pytest.raises(DataError, match="'text' of the data has no 'seen', which training used"):
        kept({"text": {"ids": IDS, "seen": SEEN}, "size": SIZE}).apply({"text": {"ids": IDS}, "size": SIZE})


def test_files_that_do_not_fit_say_which_do(folder: Path) -> None:
    np.savez("new.npz", ids=IDS)
    with pytest.raises(DataError, match=r"new.npz has no 'size', 'seen', which training used; it holds"):
        new_inputs("new.npz", kept(NAMED))
    with pytest.raises(
        DataError, match=r"new.npz hasn't the 2 inputs in order that training had; it holds 'ids'"
    ):
        new_inputs("new.npz", kept((IDS, SIZE)))
    Path("new.png").write_bytes(b"\x89PNG")
    with pytest.raises(DataError, match="give an NPZ archive with an array for each input, 'ids', 'size'"):
        new_inputs("new.png", kept(NAMED))
    Path("new.txt").write_text("x")
    with pytest.raises(DataError, match="an array for each input, 'a', 'b', or a table with such columns"):
        new_inputs("new.txt", kept({"a": SIZE, "b": SIZE}))


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["ids"]},
        {"names": ["ids", "ids", "seen"]},
        {"form": "tuple"},
        {"names": [], "inputs": []},
        {"inputs": [{"dtype": "load", "shape": []}] * 3},
        {"inputs": [{"dtype": "float32", "shape": [-1]}] * 3},
    ],
)
def test_what_no_training_writes_is_refused(change: dict[str, Any]) -> None:
    written = kept(NAMED).model_dump()
    with pytest.raises(ValueError, match="inputs"):
        NestedPreparation.model_validate(written | change).check()
