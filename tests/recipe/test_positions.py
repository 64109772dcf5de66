"""Positions of keys, against tomllib's own reading of the text."""

import tomllib

import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.recipe.positions import positions

TEXT = (
    """# a comment with [brackets] and = signs
title = "a [table] # no"   # comment
"quoted key" . sub = 1
'single' = 'it"""
    + """ "quoted" '

[data]  # first
spec = "x"
long = \"\"\"
[not.a.table]
key = "no \\\\\\" \"\" end\"\"\"
literal = '''
spec = 3
'''
[ data . types ]
age = "number"
"b.c" = "ignore"
[optimizer]
betas = [0.9,  # comment, with ] and ,
  0.999, ]
inline = { a = 1, b.c = [ [1, 2], { d = 3 } ], "e f" = "}" }
date = 1979-05-27 07:32:00
[[stage]]
name = "one"
[[stage]]
name = "two"
[stage.inner]
x = 1
[[stage.part]]
y = 2
"""
)


def paths(value, prefix=()):
    if isinstance(value, dict):
        for key, item in value.items():
            yield (*prefix, key)
            yield from paths(item, (*prefix, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield (*prefix, index)
            yield from paths(item, (*prefix, index))


def test_every_key_has_the_place_where_it_stands():
    text = TEXT.replace("'single' = 'it \"quoted\" '", "'single' = 'it \"quoted\" '")
    found = positions(text)
    assert set(found) == set(paths(tomllib.loads(text)))
    lines = text.split("\n")
    for path, (line, column) in found.items():
        rest = lines[line - 1][column - 1 :]
        if isinstance(path[-1], str):
            assert rest.lstrip("\"'").startswith(path[-1])
    assert found["quoted key", "sub"] == (3, 16)
    assert lines[found["optimizer", "inline", "b", "c", 1, "d"][0] - 1].startswith("inline")
    assert found["optimizer", "betas", 1][1] == 3
    assert found["stage", 1, "name"][0] > found["stage", 0, "name"][0]
    assert found["stage", 1, "inner", "x"][0] > found["stage", 1, "inner"][0]


keys = st.text(min_size=1, max_size=6)
scalars = st.one_of(
    st.integers(-(2**40), 2**40), st.floats(allow_nan=False), st.booleans(), st.text(max_size=12)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3)
)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(keys, values, max_size=4))
def test_any_toml(document):
    text = tomli_w.dumps(document, multiline_strings=True)
    read = tomllib.loads(text)
    found = positions(text)
    assert set(found) == set(paths(read))
    ends = text.split("\n")
    assert all(
        1 <= line <= len(ends) and 1 <= column <= len(ends[line - 1]) for line, column in found.values()
    )


@pytest.mark.parametrize("text", ["", "\n\n", "# only a comment", "a=1", "a=1\r\nb=2\r\n"])
def test_small(text):
    assert set(positions(text)) == set(paths(tomllib.loads(text)))
