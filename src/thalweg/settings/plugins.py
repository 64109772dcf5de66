"""A person's own code by name: ``file.py:name`` and ``package.module:name`` to the object itself.

Optimizers, models, data, losses and metrics may all be given this way, so the words of what can go
wrong are chosen here once: each failure is one sentence that says which file, which line, which error.
Nothing is run, and no package imported, before :mod:`thalweg.settings.trust` has said that it may.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType

from thalweg.errors import RuleError, TrustError, UserError, nearest
from thalweg.settings import trust

__all__ = ["is_file_spec", "load_object"]

_MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")


def is_file_spec(spec: str) -> bool:
    """Say whether ``spec`` reads ``file.py:name`` (whether or not there is such a file).

    >>> is_file_spec("rules/mine.py:my_rule"), is_file_spec("torch.optim:RAdam"), is_file_spec("adam")
    (True, False, False)
    """
    return spec.rpartition(":")[0].endswith(".py")


def load_object(spec: str, what: str = "optimizer", error: type[UserError] = RuleError) -> object:
    """Import the object that ``file.py:name`` or ``package.module:name`` names.

    A file is run once for each content it has: asked for again it gives the same object, and after an
    edit the new one. The file's folder (for a module: the working directory) is put at the end of
    ``sys.path``, so that what lies beside the code can be imported by it, at once or later.

    Args:
        spec: path of a Python file or dotted name of a module, a colon, and a name in it; dots in the
            name go to attributes of the object.
        what: what the object is to be, for the messages.
        error: the class of the errors.

    Raises:
        UserError: of class ``error``: the spec has no colon or no name, the file or module isn't there,
            it raises when it is run, or it has no such name.
        TrustError: a run directory names it, and nobody here has run it before; or it has changed.

    >>> load_object("torch.optim:SGD").__name__
    'SGD'
    >>> load_object("math:floo")
    Traceback (most recent call last):
    thalweg.errors.RuleError: math has no 'floo' for the optimizer 'math:floo'; did you mean 'floor'?
    """
    place, _, name = spec.rpartition(":")
    if not place or not name:
        raise error(
            f"{what} {spec!r} names no object; write 'file.py:name' or 'package.module:name', "
            f"for example {(spec.rstrip(':') or 'file.py') + ':name'!r}"
        )
    code = trust.admit(spec, what)
    if place.endswith(".py"):
        module = _load_file(Path(place), spec, what, error, code)
    else:
        module = _load_module(place, spec, what, error)
    found: object = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            known = [n for n in vars(found) if not n.startswith("_")] if hasattr(found, "__dict__") else []
            raise error(f"{place} has no {name!r} for the {what} {spec!r}; {nearest(part, known)}") from None
    return found


def _reachable(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _load_file(
    path: Path, spec: str, what: str, error: type[UserError], code: trust.Code | None
) -> ModuleType:
    try:
        source = path.read_bytes()
    except FileNotFoundError:
        near = nearest(path.name, [p.name for p in path.parent.glob("*.py")]) if path.parent.is_dir() else ""
        hint = (
            near
            if near.startswith("did you")
            else f"looked in {path.parent.absolute()}: put it there, or say this where it lies"
        )
        raise error(f"there is no file {str(path)!r} for the {what} {spec!r}; {hint}") from None
    except OSError as problem:
        raise error(f"{path} can't be read for the {what} {spec!r} ({problem.strerror})") from problem
    if not trust.same_bytes(code, source):
        raise TrustError(f"{path} changed while it was read for the {what} {spec!r}; run again")
    path = path.resolve()
    content = hashlib.blake2b(str(path).encode() + b"\0" + source, digest_size=6).hexdigest()
    # The content is in the name: a file that was edited is another module, and objects of the old one
    # stay what they were.
    name = f"thalweg_file_{content}_{re.sub(r'[^0-9a-zA-Z_]', '_', path.stem)}"
    if name in sys.modules:
        return sys.modules[name]
    _reachable(path.parent)
    module = ModuleType(name)
    module.__file__ = str(path)
    module.__spec__ = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module
    try:
        exec(compile(source, str(path), "exec"), vars(module))
    except (Exception, SystemExit) as problem:
        del sys.modules[name]
        raise error(
            f"{path.name} can't be run for the {what} {spec!r}: {_account(problem, path)}"
        ) from problem
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _load_module(place: str, spec: str, what: str, error: type[UserError]) -> ModuleType:
    if not _MODULE.fullmatch(place):
        raise error(f"{place!r} in the {what} {spec!r} is neither a .py file nor the name of a module")
    _reachable(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as problem:
        missing = problem.name or place
        if place == missing or place.startswith(missing + "."):
            raise error(
                f"there is no module {missing!r} for the {what} {spec!r}; install it, run from the folder "
                f"that holds it, or write 'file.py:name'"
            ) from None
        raise error(
            f"{place} can't be imported for the {what} {spec!r}: {_account(problem, None)}"
        ) from problem
    except (Exception, SystemExit) as problem:
        raise error(
            f"{place} can't be imported for the {what} {spec!r}: {_account(problem, None)}"
        ) from problem


def _account(problem: BaseException, path: Path | None) -> str:
    """Say the error and the line to blame: the deepest one in ``path``, or the deepest at all."""
    said = str(problem)
    if isinstance(problem, SyntaxError):
        line, where = problem.lineno, problem.filename
        said = problem.msg
    else:
        frames = traceback.extract_tb(problem.__traceback__)
        own = [f for f in frames if path is not None and f.filename == str(path)]
        last = (own or frames)[-1]
        line, where = last.lineno, last.filename
    message = " ".join(said.split())
    kind = type(problem).__name__
    elsewhere = "" if path is not None and where == str(path) else f" of {where}"
    return f"{kind} in line {line}{elsewhere}" + (f": {message}" if message else "")
