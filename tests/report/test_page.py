# ruff: noqa: RUF001
from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import pytest
from bokeh.models import Label

from report.synthetic import SEVEN, make
from thalweg.errors import RunDirectoryError
from thalweg.racing.results import Results
from thalweg.report import dots, render, write
from thalweg.report.numbers import ScoreFormat
from thalweg.report.palette import looks

SECTIONS = (
    "leaderboard", "runs", "pairs", "cost", "curves", "goal", "rates", "tuning", "divergence", "elimination",
    "recipe", "setup",
)  # fmt: skip
FORTY = [f"optimizer-{i}" for i in range(40)]
NASTY = (
    "<script>alert(1)</script>",
    "</script>",
    "--><!--",
    'a" onload="alert(1)',
    "$$x^2$$",
    "{{ 7*7 }}",
    "x" * 300,
)


class Reader(html.parser.HTMLParser):
    """Collects what a browser would see: ids, addresses, tags, and text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.tags: list[str] = []
        self.scripts: list[str] = []
        self.words: list[str] = []
        self._inside = ""
        self.feed(page)
        self.close()
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._inside = tag if tag in ("script", "style") else self._inside
        for name, value in attrs:
            if name == "id" and value:
                self.ids.append(value)
            if name in ("src", "href", "action", "data", "poster", "srcset"):
                self.addresses.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_endtag(self, tag: str) -> None:
        self._inside = "" if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif not self._inside:
            self.words.append(data)


def check_whole(page: str) -> Reader:
    """What holds of every report."""
    reader = Reader(page)
    assert set(SECTIONS) <= set(reader.ids)
    assert len(reader.ids) == len(set(reader.ids))
    assert not [a for a in reader.addresses if not a.startswith(("#", "data:"))]
    assert not re.search(
        r"@import|url\((?!['\"]?(data:|#))", re.search(r"<style>(.*?)</style>", page, re.S)[1]
    )
    assert not reader.handlers
    assert "None" not in reader.text.split()
    assert "nan" not in reader.text.split()
    return reader


def test_verdict_comes_first(results: Results, page: str):
    reader = check_whole(page)
    begin = reader.text.index(results.verdict.sentence)
    for warning in results.warnings:
        assert begin < reader.text.index(warning.text) < reader.text.index("Leaderboard Each")


def test_everything_is_there(results: Results, page: str):
    text = check_whole(page).text
    for needed in (
        results.command,
        "it gives exactly the same numbers, to the last digit.",
        results.engine.reason,
        results.verdict.work.method[1:],
        results.verdict.work.budget,
        "in_features=64",
        'name = "adamw"',
        "import torch",
        "1 of 10 runs diverged: no mean",
        "r4/rmsprop/c0 (split 5, at step 301)",
        "Off: every setting was run to its last step",
        "At equal compute",
        "At equal time",
        "lr 7.94×10⁻⁴ to 1.26",
    ):
        assert needed in text, needed


def test_every_picture_is_embedded(page: str):
    # ten shared by all optimizers, and a learning-rate picture for each
    wanted = 4 + 1 + 3 + 3 + len(SEVEN)
    assert len(re.findall(r"data-root-id=", page)) == wanted
    assert page.count("Bokeh.set_log_level") + page.count("root.Bokeh") > 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"regression": True, "goal": False}, "There is no goal"),
        ({"eliminate": True}, "settings stopped early"),
        ({"eliminate": True, "withdrawn": True}, "verdict is withdrawn: The audit found a regret of 0.004"),
        ({"names": ["adam"]}, "Which of 1 optimizer, each"),
        ({"names": ["adam"], "diverged_confirmation": "adam"}, "there is no verdict"),
        ({"seconds_axis": False}, "There is no verdict at equal time"),
        ({"splits": 1, "confirm": 1, "trials": 1}, "1 split, 1 seed each"),
        ({"names": FORTY, "splits": 1, "confirm": 1, "trials": 2}, "the best 8"),
    ],
)  # fmt: skip
def test_all_kinds_of_races(options: dict[str, object], text: str):
    results = make(**{"names": SEVEN[4:], "splits": 3, "trials": 5, **options})
    reader = check_whole(render(results))
    assert text in reader.text
    assert "There is no recipe beside this report." in reader.text


def test_nothing_reached_the_goal(results: Results):
    plan = results.plan.model_copy(update={"goal": 0.9999})
    missed = {"steps": None, "passes": None, "work": None}
    optimizers = [
        o.model_copy(
            update={"runs": [r.model_copy(update={"goal": r.goal.model_copy(update=missed)}) for r in o.runs]}
        )
        for o in results.optimizers[:2]
    ]
    timing = results.timing.model_copy(
        update={"seconds_to_goal": {o.name: [None] * len(o.runs) for o in optimizers}}
    )
    changed = results.model_copy(update={"plan": plan, "optimizers": optimizers, "timing": timing})
    assert "No confirmation run of any optimizer reached it." in check_whole(render(changed)).text


def test_everything_diverged(results: Results):
    def died(optimizer):
        runs = [
            r.model_copy(update={"score": None, "validation": None, "diverged_at": 5}) for r in optimizer.runs
        ]
        trials = [t.model_copy(update={"validation": None, "diverged_at": 3}) for t in optimizer.trials]
        curves = [
            c.model_copy(
                update={k: [None] * len(c.steps) for k in ("train_loss", "validation_loss", "validation")}
            )
            for c in optimizer.curves
        ]
        nothing = [None] * len(optimizer.best_of_k.k)
        return optimizer.model_copy(
            update={
                "runs": runs,
                "trials": trials,
                "curves": curves,
                "mean": None,
                "low": None,
                "high": None,
                "default_validation": [None] * 5,
                "tuned_validation": [None] * 5,
                "best_of_k": optimizer.best_of_k.model_copy(
                    update={"median": nothing, "low": nothing, "high": nothing}
                ),
            }
        )

    optimizers = [died(o) for o in results.optimizers[:2]]
    timing = results.timing.model_copy(
        update={"scores_at_equal_seconds": {o.name: [None] * 10 for o in optimizers}, "step_seconds": {}}
    )
    text = check_whole(render(results.model_copy(update={"optimizers": optimizers, "timing": timing}))).text
    assert text.count("10 of 10 runs diverged: no mean") == 2


def test_sentences_are_set_apart(page: str):
    text = check_whole(page).text
    assert "0.45.Method" not in text
    assert "0.45. Method: " in text


def test_names_of_users_are_escaped(page: str):
    ordinary = Reader(page)
    nasty = make(NASTY, classes=NASTY, target=NASTY[0], diverged_confirmation=NASTY[0], trials=3)
    data = nasty.data.model_copy(update={"name": NASTY[1], "spec": NASTY[0], "notes": list(NASTY)})
    nasty = nasty.model_copy(update={"data": data, "command": f"race --data '{NASTY[1]}'"})
    reader = check_whole(render(nasty, recipe=NASTY[0], script=NASTY[1]))
    assert reader.tags.count("script") == ordinary.tags.count("script")
    assert "alert(1)" in reader.text
    assert "{{ 7*7 }}" in reader.text
    assert not [script for script in reader.scripts if "<script>alert" in script]
    assert not [
        tag for tag in reader.tags if tag in ("img", "iframe", "object", "link") and tag not in ordinary.tags
    ]


def test_same_colour_everywhere(page: str):
    """The colour of an optimizer in the tables is the one in the pictures."""
    drawn = json.loads(
        re.search(r"const docs_json = '(.*?)';\n", page, re.S)[1]
        .encode().decode("unicode_escape").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    )  # fmt: skip
    sources = [m for m in _models(drawn) if m.get("name") == "ColumnDataSource"]
    colours: dict[str, set[str]] = {}
    for source in sources:
        data = dict(source["attributes"]["data"]["entries"])
        for name, colour in zip(data.get("name", ()), data.get("colour", ()), strict=False):
            colours.setdefault(name, set()).add(colour)
    assert set(colours) == set(SEVEN)
    assert all(len(found) == 1 for found in colours.values())
    for name, found in colours.items():
        swatch = re.search(rf'<span class="who" title="{name}(?:: [^"]*)?"><svg.*?stroke="(#\w+)"', page)
        assert swatch is not None
        assert {swatch[1]} == found


def _models(node: object) -> list[dict]:
    if isinstance(node, list):
        return [m for part in node for m in _models(part)]
    if isinstance(node, dict):
        own = [node] if node.get("type") == "object" else []
        return own + [m for part in node.values() for m in _models(part)]
    return []


def test_size_is_reasonable(page: str):
    assert len(page) < 3_000_000


def test_write_reads_the_directory(tmp_path: Path):
    results = make(SEVEN[:2], trials=2)
    (tmp_path / "results.json").write_text(results.model_dump_json())
    (tmp_path / "winner.toml").write_text("[optimizer]\nname = 'the-winner'\n")
    path = write(tmp_path)
    assert path == tmp_path / "report.html"
    text = check_whole(path.read_text(encoding="utf-8")).text
    assert "name = 'the-winner'" in text
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "results.json", "winner.toml"]


def test_write_of_an_unfinished_race(tmp_path: Path):
    events = [
        {
            "event": "begun",
            "key": "begun",
            "value": {"command": "thalweg race --data <x>", "started": "2025-01-01"},
        },
        {"event": "runs", "key": "r0/screen1/0", "value": {"outcomes": [{}] * 7}, "elapsed": 75.0},
    ]
    torn = '{"event": "runs", "key": "r0/scr'
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events) + torn)
    (tmp_path / "config.toml").write_text('data = "<b>digits</b>"\n')
    reader = Reader(write(tmp_path).read_text(encoding="utf-8"))
    for needed in ("isn’t finished", "1 screen 7", "1 min 15 s", "race --data <x>", 'data = "<b>digits</b>"'):
        assert needed in reader.text
    assert "b" not in reader.tags
    assert not [a for a in reader.addresses if not a.startswith(("#", "data:"))]


def test_write_refuses_what_is_no_race(tmp_path: Path):
    with pytest.raises(RunDirectoryError, match=r"neither results\.json nor events\.jsonl"):
        write(tmp_path)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="not a results file"):
        write(tmp_path)


def test_write_says_when_it_cannot(tmp_path: Path):
    (tmp_path / "results.json").write_text(make(["adam"], trials=2, splits=1).model_dump_json())
    (tmp_path / "report.html").mkdir()
    with pytest.raises(RunDirectoryError, match=r"report\.html can't be written"):
        write(tmp_path)


@pytest.mark.parametrize("regression", [False, True])
def test_what_a_strip_is_stands_outside_of_the_picture(regression: bool) -> None:
    """Within it a label would lie on the dots of the first row."""
    made = make(("adam", "sgd"), regression=regression, diverged_confirmation="adam")
    plot = dots.every_run(made, list(made.optimizers), looks(["adam", "sgd"]), ScoreFormat.of(made))
    assert plot is not None
    assert not plot.select({"type": Label})
    (axis,) = plot.above
    assert list(axis.major_label_overrides.values()) == ["diverged"]
    assert axis.ticker.ticks == list(axis.major_label_overrides)


def test_metrics_are_written_as_one_writes_them_and_promises_as_anybody_reads_them() -> None:
    page = render(make(("adam", "sgd"), regression=True))
    words = re.sub(r"<script.*?</script>|<pre>.*?</pre>|<dl>.*?</dl>", "", page, flags=re.DOTALL)
    assert "RMSE" in words
    assert "rmse" not in words
    assert "it gives exactly the same numbers, to the last digit." in page
    assert "the engine promises" not in page
