"""Objects by name: what is found, and the one sentence for what isn't."""

from __future__ import annotations

import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from thalweg.errors import DataError, RuleError, UserError
from thalweg.settings.plugins import is_file_spec, load_object


@pytest.fixture(autouse=True)
def _clean_imports(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("thalweg_file_") or name in ("beside", "pack", "pack.inner", "broken_module"):
            del sys.modules[name]


def write(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(spec: str, error: type[UserError] = RuleError, what: str = "optimizer") -> str:
    with pytest.raises(error) as caught:
        load_object(spec, what, error)
    message = str(caught.value)
    assert "\n" not in message
    assert spec in message
    assert what in message
    return message


def test_file_and_module_objects_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "class Box:\n    inside = 7\ndef f():\n    return 3\n")
    assert load_object(f"{path}:f")() == 3  # type: ignore[operator]
    assert load_object(f"{path}:Box.inside") == 7
    monkeypatch.chdir(tmp_path)
    assert load_object("mine.py:f") is load_object(f"{path}:f")
    (tmp_path / "pack").mkdir()
    write(tmp_path, "from pack import inner\n", "pack/__init__.py")
    write(tmp_path, "value = 5\n", "pack/inner.py")
    assert load_object("pack.inner:value") == 5


def test_a_file_runs_once_for_each_content(tmp_path: Path) -> None:
    path = write(tmp_path, "class A: pass\n")
    first = load_object(f"{path}:A")
    assert load_object(f"{path}:A") is first
    path.write_text("class A: new = True\n", encoding="utf-8")
    second = load_object(f"{path}:A")
    assert second is not first
    assert second.new  # type: ignore[attr-defined]


def test_code_beside_the_file_can_be_imported_at_once_and_later(tmp_path: Path) -> None:
    write(tmp_path, "x = 2\n", "beside.py")
    path = write(tmp_path, "import beside\ndef later():\n    import beside\n    return beside.x\n")
    assert load_object(f"{path}:later")() == 2  # type: ignore[operator]


def test_objects_of_files_pickle_and_dataclasses_work(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n@dataclass\nclass P:\n    x: 'int'\n"
    made = load_object(f"{write(tmp_path, text)}:P")(4)  # type: ignore[operator]
    assert pickle.loads(pickle.dumps(made)) == made


def test_specs_that_name_no_object() -> None:
    assert "file.py:name" in refused("nothing")
    assert "'mine.py:name'" in refused("mine.py:")
    assert "neither" in refused("a b:c")


def test_missing_files_and_modules(tmp_path: Path) -> None:
    write(tmp_path, "")
    assert "did you mean 'mine.py'?" in refused(f"{tmp_path}/mime.py:f")
    assert "looked in" in refused(f"{tmp_path}/nowhere/else.py:f")
    assert "no module 'no_such_module_here'" in refused("no_such_module_here:f", DataError, "data")
    assert "no module 'torch.optimal'" in refused("torch.optimal:SGD")
    (tmp_path / "folder.py").mkdir()
    assert "can't be read" in refused(f"{tmp_path}/folder.py:f")


def test_missing_names_show_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path, "def my_rule(): pass\n")
    assert "did you mean 'my_rule'?" in refused(f"{path}:my_rul")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 1\ny = undefined\n", "NameError in line 2: name 'undefined' is not defined"),
        ("def f(:\n    pass\n", "SyntaxError in line 1"),
        ("import sys\n\nsys.exit('bye')\n", "SystemExit in line 3: bye"),
        ("def g():\n    raise ValueError\n\ng()\n", "ValueError in line 2"),
        ("import json\njson.loads('{')\n", "JSONDecodeError in line 2"),
        ("import no_such_thing\n", "ModuleNotFoundError in line 1: No module named 'no_such_thing'"),
        ("raise ValueError('two\\nlines')\n", "ValueError in line 1: two lines"),
    ],
)
def test_files_that_raise(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)
    message = refused(f"{path}:f")
    assert said in message
    assert message.startswith("mine.py can't be run")
    assert said in refused(f"{path}:f"), "asked again, it says the same"


def test_modules_that_raise_name_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "\n1 / 0\n", "broken_module.py")
    monkeypatch.chdir(tmp_path)
    message = refused("broken_module:f")
    assert re.search(r"ZeroDivisionError in line 2 of .*broken_module\.py: division by zero", message)


def test_an_interrupt_is_not_swallowed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load_object(f"{write(tmp_path, 'raise KeyboardInterrupt')}:f")


def test_file_specs_are_told_from_others() -> None:
    assert is_file_spec("a/b.py:c")
    assert not any(is_file_spec(s) for s in ("a.b:c", "adam", "a.py", "idx:folder"))
