from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from thalweg.data import load, prepare
from thalweg.data.stored import TablePreparation, store
from thalweg.errors import DataError

Same = Callable[..., object]
X, Y = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(40) % 2


class Pairs(Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Any:
        return self.items[position]


SOURCES = """
import numpy as np, polars as pl, torch
from torch.utils.data import Dataset, TensorDataset
x = torch.arange(120.0).reshape(40, 3) % 7
y = torch.arange(40) % 2

class Images(Dataset):
    def __len__(self):
        return 40
    def __getitem__(self, i):
        return np.full((4, 5, 3), i, dtype=np.uint8), ("even", "odd")[i % 2]

def tensors(): return x, y
def regression(): return x, x.sum(1) / 3
def arrays(): return x.double().numpy(), y.numpy()
def labels(): return x.numpy(), np.array(["a", "b"] * 20)
def four(): return x[:30], y[:30], x[30:], y[30:]
def two_pairs(): return (x[:30], y[:30]), (x[30:], y[30:])
def tokens(): return x.long(), y
def several(): return x, x[:, :2]
def dataset(): return TensorDataset(x, y)
def pair(): return Images(), Images()
def lazy(): return frame().lazy()
def frame(): return pl.DataFrame({"a": x[:, 0].numpy(), "t": ["p", "q", "r", "s"] * 10, "y": y.numpy()})
def arguments(a): ...
def fails(): return 1 / 0
def nothing(): return None
def three(): return x, y, y
"""


@pytest.mark.parametrize(
    "name",
    [
        "tensors",
        "regression",
        "arrays",
        "labels",
        "four",
        "two_pairs",
        "tokens",
        "several",
        "dataset",
        "pair",
        "Images",
    ],
)
def test_functions_in_a_file_equal_their_script(folder: Path, name: str, same_as_script: Same) -> None:
    (folder / "mine.py").write_text(SOURCES)
    source = load(f"mine.py:{name}")
    assert source.name == name
    same_as_script(source)


@pytest.mark.parametrize("name", ["frame", "lazy"])
def test_frames_in_a_file_equal_their_script(folder: Path, name: str, same_as_script: Same) -> None:
    (folder / "mine.py").write_text(SOURCES)
    same_as_script(load(f"mine.py:{name}", target="y"))
    with pytest.raises(DataError, match=r"needs target,"):
        load(f"mine.py:{name}")


def test_functions_in_a_module(folder: Path, monkeypatch: pytest.MonkeyPatch, same_as_script: Same) -> None:
    (folder / "own_module_of_data.py").write_text(SOURCES)
    monkeypatch.syspath_prepend(str(folder))
    same_as_script(load("own_module_of_data:tensors"))


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("mine.py:fails", r"raises ZeroDivisionError in line \d+ of mine.py"),
        ("mine.py:arguments", r"raises TypeError: arguments\(\) missing"),
        ("mine.py:nothing", "gives a NoneType; data can be tensors or arrays"),
        ("mine.py:three", "gives a tuple of 3; data can be"),
        ("mine.py:tensor", "did you mean 'tensors'"),
        ("other.py:tensors", "there is no file 'other.py'"),
    ],
)
def test_functions_that_give_no_data(folder: Path, spec: str, says: str) -> None:
    (folder / "mine.py").write_text(SOURCES)
    with pytest.raises(DataError, match=says):
        load(spec)


def test_two_pairs_are_training_and_test_whatever_their_shapes() -> None:
    # of one shape each, they could be stacked to inputs and targets of two rows
    column, numbers = X[:30, 0], X[:30, 1]
    for source in (
        load(((column, numbers), (column + 1, numbers))),
        load((column, numbers, column + 1, numbers)),
    ):
        assert (source.rows, source.test_rows) == (30, 30)
        prepared = prepare(source, seed=0, replicate=0)
        assert prepared.test.inputs.flatten().tolist() == (column + 1).tolist()


def test_own_tensors_are_taken_as_given() -> None:
    source = load((X * 100, X[:, 0] * 50))
    prepared = prepare(source, seed=0, replicate=0)
    assert torch.equal(prepared.train.inputs, X[prepared.indices["train"]] * 100)
    assert torch.equal(prepared.train.targets, X[prepared.indices["train"], 0] * 50)
    assert (prepared.task.center, prepared.task.scale) == (0.0, 1.0)
    assert sum("taken as given" in note for note in source.notes) == 2
    assert source.script(0, 0) is None


@pytest.mark.parametrize(
    ("inputs", "dtype"),
    [
        (X.double(), torch.float32),
        (X.bfloat16(), torch.float32),
        (X.half(), torch.float32),
        (X.clone().requires_grad_(), torch.float32),
        (X.long(), torch.int64),
        (X > 0, torch.float32),
    ],
)
def test_types_of_own_tensors(inputs: torch.Tensor, dtype: torch.dtype) -> None:
    prepared = prepare(load((inputs, Y)), seed=0, replicate=0)
    assert prepared.train.inputs.dtype == dtype
    rows = prepared.indices["train"]
    assert torch.equal(prepared.train.inputs, inputs.detach()[rows].to(dtype))


def test_datasets_are_read_once(folder: Path) -> None:
    for data in (
        Pairs(list(zip(X, Y, strict=True))),
        list(zip(X, Y.tolist(), strict=True)),
        TensorDataset(X, Y),
    ):
        prepared = prepare(load(data), seed=0, replicate=0)
        rows = prepared.indices["train"]
        assert torch.equal(prepared.train.inputs, X[rows])
        assert torch.equal(prepared.train.targets, Y[rows])


def test_pair_of_datasets_keeps_its_test() -> None:
    source = load((TensorDataset(X, Y), TensorDataset(X[:7], Y[:7])))
    assert source.test_rows == 7
    assert torch.equal(prepare(source, seed=0, replicate=0).test.inputs, X[:7])


def test_frames_of_pandas() -> None:
    pandas = pytest.importorskip("pandas", reason="pandas isn't installed")
    table = pandas.DataFrame(
        {
            "a": np.arange(40) / 7,
            "t": ["p", None] * 20,
            "day": pandas.date_range("2020-01-01", periods=40),
            "y": ["no", "yes"] * 20,
        }
    )
    source = load(table, target="y", missing="median")
    assert dict(source.columns) == {"a": "number", "t": "category", "day": "number"}
    twin = pl.DataFrame({name: table[name].tolist() for name in ("a", "day", "y")} | {"t": ["p", None] * 20})
    other = load(twin.select("a", "t", "day", "y"), target="y", missing="median")
    one, two = (prepare(each, seed=0, replicate=0) for each in (source, other))
    assert torch.equal(one.train.inputs, two.train.inputs)
    kept = store(source, one.indices, "median")
    assert isinstance(kept, TablePreparation)
    inputs, _ = kept.apply(table.iloc[one.indices["test"]])
    assert torch.equal(inputs, one.test.inputs)
    with pytest.raises(DataError, match="several columns called '1'"):
        load(pandas.DataFrame([[0, 0, 0]] * 40, columns=[1, "1", "y"]), target="y")


def sequences(count: int = 40) -> list[tuple[torch.Tensor, int]]:
    return [(torch.full((2 + i % 3, 4), float(i)), i % 2) for i in range(count)]


def pad(items: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
    inputs, labels = zip(*items, strict=True)
    return pad_sequence(list(inputs), batch_first=True), torch.tensor(labels)


def test_sequences_go_through_collate() -> None:
    source = load(Pairs(sequences()), collate=pad)
    assert source.task.kind == "classification"
    assert source.class_counts == [20, 20]
    prepared = prepare(source, seed=0, replicate=0)
    assert prepared.train.inputs is None
    assert len(prepared.train) == 24
    rows = prepared.indices["train"][[5, 0]]
    inputs, targets = prepared.train.batch(torch.tensor([5, 0]))
    expected = pad([sequences()[row] for row in rows])
    assert torch.equal(inputs, expected[0])
    assert torch.equal(targets, expected[1])
    assert torch.equal(prepared.train.targets, torch.tensor(prepared.indices["train"] % 2))
    assert source.script(0, 0) is None


def test_batches_of_nested_inputs() -> None:
    def nest(items: list[Any]) -> Any:
        inputs, labels = pad(items)
        return {"x": inputs, "more": [(inputs, "word")]}, labels

    prepared = prepare(load(sequences(), collate=nest), seed=0, replicate=0, device="cpu")
    inputs, _ = prepared.test.batch(torch.tensor([0]))
    assert inputs["more"][0][1] == "word"
    assert prepared.input_shape == ()


def test_custom_targets_through_collate() -> None:
    items = [(torch.arange(5), torch.arange(5) + i) for i in range(20)]
    source = load(Pairs(items), collate=torch.utils.data.default_collate)
    assert source.task.kind == "custom"
    prepared = prepare(source, seed=0, replicate=0)
    assert prepared.train.targets is None
    assert prepared.train.batch(torch.tensor([1, 2]))[1].shape == (2, 5)


def test_collate_with_a_test_part() -> None:
    prepared = prepare(load((Pairs(sequences()), Pairs(sequences(6))), collate=pad), seed=0, replicate=0)
    assert len(prepared.test) == 6
    assert prepared.test.batch(torch.tensor([3]))[0].unique().tolist() == [3.0]


def test_labels_of_a_dataset_are_not_read_one_by_one() -> None:
    class Labelled(Pairs):
        targets = (torch.arange(40) % 2).tolist()

        def __getitem__(self, position: int) -> Any:
            raise AssertionError("read")

    assert load(Labelled(sequences()), collate=pad).class_counts == [20, 20]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(())


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            Pairs(sequences()),
            r"inputs in the Dataset .* differ in shape, \[2, 4\] and \[3, 4\]; give a collate",
        ),
        (Pairs([]), "is empty"),
        (Pairs([1, 2, 3]), "item 0 of the Dataset .* is a int, not a pair"),
        (DataLoader(TensorDataset(X, Y)), "a DataLoader \\(give its Dataset\\)"),
        (Stream(), "without length or positions"),
        ((X, Y[:3]), "40 inputs but 3 targets"),
        ((X, [1, [2]]), "can't be made an array"),
        ((X.to_sparse(), Y), "is sparse"),
        ((torch.full_like(X, torch.inf), Y), "infinite values"),
        ((torch.full_like(X, torch.nan), Y), "missing values"),
        ((X, np.array(["a", None] * 20, dtype=object)), "targets .* hold missing values"),
        ((X, torch.zeros(40, dtype=torch.long)), "is '0' in every row"),
        (3, "gives a int"),
    ],
)
def test_objects_that_cannot_be_used(data: Any, says: str) -> None:
    with pytest.raises(DataError, match=says):
        load(data)


def test_options_that_do_not_apply() -> None:
    with pytest.raises(DataError, match=r"a target can be named for a table"):
        load((X, Y), target="y")
    with pytest.raises(DataError, match=r"column types can be named for a table"):
        load((X, Y), types={"y": "number"})
    with pytest.raises(DataError, match=r"a collate function is for a Dataset"):
        load((X, Y), collate=pad)
    with pytest.raises(DataError, match=r"missing='median' is for columns"):
        load((torch.full_like(X, torch.nan), Y), missing="median")


@pytest.mark.parametrize(
    ("collate", "says"),
    [
        (lambda items: 1 / 0, "collate raises on 8 items: ZeroDivisionError"),
        (lambda items: 3, "what collate gives has to be a pair"),
        (lambda items: (X, [1]), "whose targets are a tensor"),
        (lambda items: (X, pad(items)[1] + 1), "aren't those of the items, as class numbers from 0 to 1"),
    ],
)
def test_collate_functions_that_do_not_fit(collate: Any, says: str) -> None:
    source = load(sequences(), collate=collate)
    with pytest.raises(DataError, match=says):
        prepare(source, seed=0, replicate=0)


def test_item_that_raises() -> None:
    class Broken(Pairs):
        def __getitem__(self, position: int) -> Any:
            if position == 7:
                raise KeyError("seven")
            return X[position], int(Y[position])

    with pytest.raises(DataError, match=r"raises at item 7: KeyError in line \d+ of test_own.py: 'seven'"):
        load(Broken([0] * 40))


def test_one_hot_targets_are_classes() -> None:
    x = np.arange(120.0).reshape(60, 2)
    y = np.eye(3)[np.arange(60) % 3]
    for given in (y, y.astype(bool), torch.from_numpy(y).long()):
        source = load((x, given))
        assert source.task.classes == ("0", "1", "2")
        assert "the targets are one-hot: the place of the 1 is the class" in source.notes
    assert load((x, y), task="custom").task.kind == "custom"
    soft = y * 0.9 + 0.05
    assert load((x, soft)).task.kind == "custom"
