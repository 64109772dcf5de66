"""The documents say what the code says: generated parts, the fields of results.json, the rows of sources."""

from __future__ import annotations

import importlib
import importlib.util
import re
from types import ModuleType
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from scripts import ROOT, script
from thalweg import catalogue, claims
from thalweg.data.augmentation import AugmentationSettings
from thalweg.racing import results
from thalweg.strategies.table import STRATEGIES

SVG = "{http://www.w3.org/2000/svg}"
RECORDS = {
    name: record
    for name in results.__all__
    if isinstance(record := getattr(results, name), type) and issubclass(record, BaseModel)
}


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return script("docs/generate.py")


@pytest.fixture(scope="module")
def paths() -> ModuleType:
    return script("docs/paths.py")


def test_generated_parts_are_up_to_date(generate: ModuleType) -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, text in generate.pages().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: make docs"


def test_the_pictures_of_the_rooms_are_up_to_date() -> None:
    stale = [
        path.relative_to(ROOT).as_posix()
        for path, text in script("docs/rooms.py").pictures().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, "run: make docs"


def test_the_picture_of_the_rooms_leaves_out_what_follows_from_others() -> None:
    drawn = script("docs/rooms.py")
    drawn.names = lambda: ["a", "b", "c", "d"]
    above = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a"}}
    assert drawn.direct(above) == {"a": set(), "b": {"a"}, "c": {"b"}, "d": {"a"}}
    assert drawn.layers({**above, "d": {"a", "c"}}) == {"a": 0, "b": 1, "c": 2, "d": 3}


def test_the_architecture_is_short_and_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 2000
    rooms = {path.name for path in (ROOT / "src" / "thalweg").iterdir()} | {"tests", "docs"}
    named = [one for one in re.findall(r"`([\w/]+(?:\.py|/))`", text) if one.partition("/")[0] in rooms]
    assert len(named) > 20
    gone = [
        one for one in named if not (ROOT / one).exists() and not (ROOT / "src" / "thalweg" / one).exists()
    ]
    assert gone == []


def test_the_reference_has_every_public_function_and_class() -> None:
    text = (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")
    assert "`train_loop(training: Training, points: Sequence[int], recorder: Recorder) -> None`: " in text
    assert re.search(r"^- `class RunList\(train: Train, groups: .*\)`: Groups of runs", text, re.MULTILINE)
    assert not re.search(r"`: ?$", text, re.MULTILINE), "a public name without a docstring"


def optimizers() -> dict[str, str]:
    """Return title to text of the sections of optimizers."""
    text = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    parts = re.split(r"^### ", text.split("\n## The optimizers\n")[1].split("\n## ")[0], flags=re.MULTILINE)
    return dict(part.split("\n", 1) for part in parts[1:])


def test_every_optimizer_has_a_section_and_nothing_else_has() -> None:
    assert sorted(optimizers()) == sorted(catalogue.get(name).title for name in catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_a_section_says_everything(name: str) -> None:
    entry = catalogue.get(name)
    section = optimizers()[entry.title]
    for said in (f"`{name}`", f"`{entry.family}`", entry.summary, entry.source, f"(images/paths/{name}.svg)"):
        assert said in section
    spans = re.findall(r"^`(.+)`(?:<br>)?$", section, re.MULTILINE)
    assert ";  ".join(spans) == entry.formula
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| ([^|]+) \| (no|\S+ to \S+) \|", section, re.MULTILINE)
    assert [row[0] for row in rows] == [one.name for one in entry.hyperparameters]
    for row, one in zip(rows, entry.hyperparameters, strict=True):
        assert float(row[1]) == pytest.approx(one.default, rel=1e-5)
        assert row[2].startswith(one.rule)
        assert (row[3] != "no") == one.searched


def test_the_table_of_contents_leads_to_headings() -> None:
    text = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    }
    links = set(re.findall(r"\]\(#([^)]+)\)", text))
    assert links <= headings
    assert len(links) > len(catalogue.names())


def panels(name: str) -> dict[str, Element]:
    """Return the panels of an optimizer's picture: what they say of themselves, by surface."""
    tree = ElementTree.parse(ROOT / "docs" / "images" / "paths" / f"{name}.svg")
    return {panel.attrib["id"]: panel for panel in tree.getroot().findall(f"{SVG}svg")}


def test_every_picture_is_an_optimizers() -> None:
    files = (ROOT / "docs" / "images" / "paths").iterdir()
    assert sorted(path.name for path in files) == sorted(f"{name}.svg" for name in catalogue.names())


@pytest.mark.parametrize("name", catalogue.names())
def test_a_picture_shows_the_path_that_is_taken(name: str, paths: ModuleType) -> None:
    # Not byte by byte: another processor may round differently, and contours and long paths with it.
    entry, shown = catalogue.get(name), panels(name)
    root = ElementTree.parse(paths.FOLDER / f"{name}.svg").getroot()
    texts = [text.text or "" for text in root.iter(f"{SVG}text")]
    assert texts[0] == root.findtext(f"{SVG}title", "").removesuffix(" on three surfaces") == entry.title
    assert (paths.FOLDER / f"{name}.svg").stat().st_size < 40_000
    assert list(shown) == [scene.name for scene in paths.scenes()]
    for scene in paths.scenes():
        panel = shown[scene.name]
        assert ("data-lr" in panel.attrib) == (entry.step_kind == "gradient")
        rates = (float(panel.get("data-lr", "nan")),)
        walk = paths.walk(entry, scene, rates)
        (left, right), _ = scene.surface.bounds
        end = [float(number) for number in panel.attrib["data-end"].split()]
        assert walk.points[-1] == pytest.approx(end, abs=0.02 * (right - left))
        assert walk.steps == pytest.approx(int(panel.attrib["data-steps"]), rel=0.1, abs=1)
        assert any(f": {panel.attrib['data-steps']} step" in text for text in texts)
        (line,) = (path for path in panel.findall(f"{SVG}path") if path.get("class") == "path")
        start, moves = re.fullmatch(r"M(-?\d+ -?\d+)l(.*)", line.attrib["d"]).groups()  # type: ignore[union-attr]
        numbers = np.array([int(number) for number in f"{start} {moves}".split()]).reshape(-1, 2)
        assert len(numbers) == int(panel.attrib["data-steps"]) + 1
        drawn = numbers.sum(0) / (10 * 236) * (right - left)
        assert drawn[0] + left == pytest.approx(end[0], abs=0.01 * (right - left))


@pytest.mark.parametrize("name", ["sgd", "rprop"])
def test_the_rate_of_a_picture_is_the_best(name: str, paths: ModuleType) -> None:
    scene = paths.scenes()[0]
    stated = float(panels(name)[scene.name].attrib["data-lr"])
    assert stated in paths.RATES

    def rank(rate: float) -> tuple[bool, float]:
        walk = paths.walk(catalogue.get(name), scene, (rate,))
        return not walk.arrived, walk.steps if walk.arrived else walk.value

    assert min(paths.RATES, key=rank) == stated


def test_a_path_ends_where_it_arrives_for_good(paths: ModuleType) -> None:
    bowl = paths.scenes()[0]
    walk = paths.walk(catalogue.get("sgd"), bowl, (0.01,))
    matrix = torch.tensor(bowl.surface.matrix)
    x = bowl.surface.initial()
    for count in range(walk.steps + 1):
        assert walk.points[count].tolist() == pytest.approx(x.tolist(), rel=1e-9)
        value = float(bowl.surface(x))
        assert (value <= paths.CLOSE) == (count == walk.steps) or not walk.arrived
        x = x - 0.01 * (matrix @ x)
    assert walk.value == pytest.approx(value)


def sections() -> dict[str, list[str]]:
    """Return record name to the fields in the first column of its table."""
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    found = {}
    for part in re.split(r"^### ", text, flags=re.MULTILINE)[1:]:
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        found[part.split("`")[1]] = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    return found


def test_every_record_of_results_has_a_section() -> None:
    assert set(sections()) == set(RECORDS)


@pytest.mark.parametrize("name", RECORDS)
def test_every_field_of_results_is_explained(name: str) -> None:
    fields = sections()[name]
    assert len(fields) == len(set(fields))
    assert set(fields) == set(RECORDS[name].model_fields)


def test_sources_have_a_row_for_every_id_and_their_code_exists() -> None:
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    rows = {row[0]: row[1] for row in re.findall(r"^\| \*\*(\w+)\*\* \|([^|]*)\|", text, re.MULTILINE)}
    numbers = {
        "E": (1, 2, 3, 4),
        "O": range(1, 17),
        "R": range(1, 10),
        "I": range(1, 10),
        "D": (1, 2, 3, 4),
        "A": range(1, 9),
        "P": range(1, 9),
        "X": range(1, 14),
    }
    assert list(rows) == [f"{family}{number}" for family, each in numbers.items() for number in each]
    for identity, places in rows.items():
        named = re.findall(r"`([\w.]+):(\w+)`", places)
        assert named, f"{identity} names no code"
        for module, name in named:
            assert hasattr(importlib.import_module(f"thalweg.{module}"), name), f"{identity}: {module}:{name}"


def test_every_source_is_covered_by_a_claim_or_a_page() -> None:
    """Each ID is of a claim, of an optimizer's card, or of a part of a page that says which it is about."""
    text = (ROOT / "docs" / "sources.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"^\| \*\*(\w+)\*\*", text, re.MULTILINE))
    covered = {identity for name in claims.names() for identity in claims.get(name).sources}
    cards = (ROOT / "docs" / "optimizers.md").read_text(encoding="utf-8")
    for line in re.findall(r"^Source: (.*)$", cards, re.MULTILINE):
        covered |= set(re.findall(r"\b[EORIDAPX]\d+\b", line))
    for page in ("stages", "training", "diagnosis", "curvature"):
        parts = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        for first, last in re.findall(r"\b([EORIDAPX]\d+)(?:-[EORIDAPX](\d+))?\b", parts):
            covered |= {f"{first[0]}{number}" for number in range(int(first[1:]), int(last or first[1:]) + 1)}
    assert wanted - covered == set()


def test_every_strategy_has_a_card_with_its_settings() -> None:
    text = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    cards = dict(re.findall(r"^### ([a-z-]+)\n(.*?)(?=^##)", text, re.MULTILINE | re.DOTALL))
    assert list(cards) == list(STRATEGIES)
    for name, (_, settings) in STRATEGIES.items():
        missing = [field for field in settings.model_fields if f"`{field}`" not in cards[name]]
        assert not missing, f"{name} has settings that its card doesn't tell of"


def test_the_picture_of_augmentation_shows_every_change() -> None:
    shown = dict(script("docs/augmentation.py").CHANGES)
    around = {"chance", "fill", "black", "white"}
    changes = set(AugmentationSettings.model_fields) - around
    assert changes == set(shown) - {"all, mildly"}
    assert changes <= set(shown["all, mildly"])
    assert (ROOT / "docs" / "images" / "augmentation.jpg").stat().st_size < 120_000
