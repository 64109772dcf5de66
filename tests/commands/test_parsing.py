"""Comma lists, ranges and column types."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.commands import parsing
from thalweg.errors import OptionError


def test_names() -> None:
    assert parsing.names(None) is None
    assert parsing.names("") == []
    assert parsing.names(" a ,b,, c.py:d ") == ["a", "b", "c.py:d"]


def test_nothing_given_is_none() -> None:
    assert parsing.spaces([]) is None
    assert parsing.column_types([]) is None


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_space_keeps_every_bit(low: float, high: float) -> None:
    assert parsing.spaces([f"file.py:rule.lr={low!r}:{high!r}"]) == {"file.py:rule.lr": (low, high)}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (parsing.spaces, parsing.column_types):
        with contextlib.suppress(OptionError):
            assert read([text])


@pytest.mark.parametrize(
    "text", ["", "=1:2", "adam=1:2", ".lr=1:2", "adam.=1:2", "adam.lr=1", "adam.lr=1:2:3"]
)
def test_space_says_how_it_is_written(text: str) -> None:
    with pytest.raises(OptionError, match=r"write NAME\.HYPER=LOW:HIGH"):
        parsing.spaces([text])


@pytest.mark.parametrize("text", ["", "zip"])
def test_type_says_how_it_is_written(text: str) -> None:
    with pytest.raises(OptionError, match="write COLUMN=category"):
        parsing.column_types([text])


def test_types_are_read_with_any_name() -> None:
    asked = ["zip=category", "a=b=number", "net weight=ignore", "=ignore"]
    assert parsing.column_types(asked) == {
        "zip": "category",
        "a=b": "number",
        "net weight": "ignore",
        "": "ignore",
    }
    assert parsing.column_types(["a=number", "a=number"]) == {"a": "number"}
    with pytest.raises(OptionError, match="column 'a' is a number and that it is a category; say one"):
        parsing.column_types(["a=number", "a=category"])
