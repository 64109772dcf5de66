"""The lists of mutations fit the source as it is, and one that no test catches is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from mutants.place import Mutant, MutantError, find, read
from mutants.run import outcomes, passes

ROOT = Path(__file__).parent.parent
MUTANTS = read(ROOT / "mutants")

SOURCE = '''"""É: columns of the syntax tree count bytes, not characters."""

RATES = {"é": 0.1, "b": 0.1}


def rate(k):
    def inner(k):
        return k + 1

    return 0.1 / inner(k)  # é 0.1


class Mean:
    def add(self, value):
        é = value; self.count += 1
        self.total = self.total + value
'''
TEST = "from thalweg.means import rate\n\n\ndef test_rate():\n    assert rate(0) == 0.1\n"


def mutant(symbol: str, source: str, becomes: str, nth: int | None = None, room: str = "means") -> Mutant:
    return Mutant(room=room, symbol=symbol, source=source, becomes=becomes, tests=("tests",), nth=nth)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    package = tmp_path / "src" / "thalweg"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "means.py").write_text(SOURCE, encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_means.py").write_text(TEST)
    return package


@pytest.mark.parametrize("room", sorted({each.room for each in MUTANTS}))
def test_each_mutant_has_one_place_and_tests(room: str) -> None:
    for each in MUTANTS:
        if each.room == room:
            find(each, ROOT / "src" / "thalweg")
            assert each.tests, each
            for test in each.tests:
                assert (ROOT / test.partition("::")[0]).exists(), each


def test_no_mutant_stands_twice() -> None:
    assert len({(each.symbol, each.source, each.becomes, each.nth) for each in MUTANTS}) == len(MUTANTS)


@pytest.mark.parametrize(
    ("made", "line", "before", "after"),
    [
        (mutant("rate", "0.1/inner(k)", "0.1 * inner(k)"), 10, "0.1 / inner(k)", "(0.1 * inner(k))"),
        (mutant("rate.inner", "k + 1", "k"), 8, "k + 1", "(k)"),
        (mutant("RATES", "0.1", "0.2", nth=2), 3, '"b": 0.1', '"b": (0.2)'),
        (mutant("Mean.add", "self.count += 1", "pass"), 15, "self.count += 1", "pass"),
    ],
)
def test_a_mutation_changes_its_place_alone(
    package: Path, made: Mutant, line: int, before: str, after: str
) -> None:
    place = find(made, package)
    assert place.line == line
    assert place.mutated == SOURCE.replace(before, after, 1)


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (mutant("rate", "0.2", "1"), "stands nowhere"),
        (mutant("rat", "0.1", "1"), "stands nowhere"),
        (mutant("RATES", "0.1", "0.2"), "stands there 2 times"),
        (mutant("RATES", "0.1", "0.2", nth=3), "nth is 3, and that stands there 2 times"),
        (mutant("rate", "0.1", "0.1"), "nothing changes"),
        (mutant("rate", "0.1", "else"), "no Python"),
        (mutant("rate", "0.1 +", "0.1"), "not one expression or statement"),
    ],
)
def test_what_can_not_be_made_is_told(package: Path, made: Mutant, words: str) -> None:
    with pytest.raises(MutantError, match=words):
        find(made, package)


def test_a_symbol_of_two_rooms_is_that_of_its_list(package: Path) -> None:
    (package / "others.py").write_text(SOURCE, encoding="utf-8")
    assert find(mutant("rate", "0.1", "1"), package).path.name == "means.py"
    assert find(mutant("rate", "0.1", "1", room="others"), package).path.name == "others.py"
    with pytest.raises(MutantError, match=r"stands in means\.py, others\.py"):
        find(mutant("rate", "0.1", "1", room="sums"), package)


def test_a_list_with_a_wrong_key_is_refused(tmp_path: Path) -> None:
    (tmp_path / "means.toml").write_text('[[mutant]]\nsymbol = "rate"\nsource = "0.1"\nto = "1"\n')
    with pytest.raises(MutantError, match=r"means\.toml: .*'to'"):
        read(tmp_path)


def test_caught_and_survived(package: Path, tmp_path: Path) -> None:
    root = package.parent.parent
    passed, output = passes(["tests"], root=root, folder=tmp_path / "whole", jobs=2)
    assert passed, output
    made = [
        mutant("rate", "0.1", "0.2"),
        mutant("Mean.add", "self.count += 1", "self.count -= 1"),
        mutant("RATES", "0.1", "undefined", nth=1),
        # one as long as the other: bytecode of the first may not be taken for that of the second
        mutant("rate", "0.1 / inner(k)", "0.2 / inner(k)"),
        mutant("rate", "0.1 / inner(k)", "0.1 * inner(k)"),
    ]
    ends = outcomes(made, root=root, folder=tmp_path / "mutants", jobs=1)
    assert [outcome.end for outcome in ends] == ["caught", "survived", "caught", "caught", "survived"]
    assert (package / "means.py").read_text(encoding="utf-8") == SOURCE
