"""The report: ``results.json`` of a run directory in, one HTML file out that fetches nothing."""

from __future__ import annotations

import functools
import importlib.resources
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bokeh
import jinja2
from bokeh.document import Document
from bokeh.embed import components
from bokeh.plotting import figure
from bokeh.resources import Resources
from markupsafe import Markup

from thalweg.errors import OptionError, RunDirectoryError, UserError, option
from thalweg.racing.results import Results
from thalweg.report import curves, dots, tables, training, transfer
from thalweg.report.numbers import ScoreFormat, count, duration, finished, general, shorten
from thalweg.report.palette import looks, swatch
from thalweg.report.sensitivity import RATE, sensitivity, starting_point_rows, starting_points
from thalweg.run.directory import RunDirectory, write_whole
from thalweg.run.directory.kinds import held, kind_at
from thalweg.run.directory.writing import reason
from thalweg.run.summaries import metric_label, repeated

if TYPE_CHECKING:
    from thalweg.diagnosis.targets import DiagnosedTarget

__all__ = [
    "embed",
    "page_of",
    "render",
    "render_training",
    "render_transfer",
    "render_unfinished",
    "write",
    "write_diagnosis",
]

_WIDE = 10


def write(directory: Path) -> Path:
    """Write ``report.html`` for a run directory and return its path.

    Of a training it reads ``config.toml``, ``events.jsonl`` and, once it is finished, ``results.json``. Of a
    race it reads ``results.json``, and ``winner.toml`` and ``winner.py`` if they are there; never the model's
    code. Of a race that isn't finished it reads ``config.toml`` and ``events.jsonl`` and says how far
    it is. Of a transfer it reads ``results.json``. The file is replaced whole or not at all.

    Args:
        directory: of a race, a training, finished or not, or a transfer.

    Raises:
        RunDirectoryError: there is no run in ``directory``, its results or events are damaged, or the
            report can't be written there.
    """
    directory = Path(directory)
    config = kind_at(directory)
    instead = {"sweep": "its table.csv is all it found", "claims": "its gallery.html shows them"}
    if config.get("kind") in instead:
        raise RunDirectoryError(
            f"{directory} holds {held(config)}, of which there is no report; {instead[config['kind']]}"
        )
    if config.get("kind") == "transfer":
        html = render_transfer(directory)
    elif training.is_training(directory):
        html = _from_events(render_training, directory)
    elif os.path.exists(directory / "results.json"):
        results = Results.read(directory / "results.json")
        recipe, script = _text(directory / "winner.toml"), _text(directory / "winner.py")
        html = render(results, recipe=recipe, script=script)
    elif os.path.exists(directory / "events.jsonl"):
        html = _from_events(render_unfinished, directory)
    else:
        raise RunDirectoryError(
            f"{directory} holds neither results.json nor events.jsonl; give the directory of a run"
        )
    target = directory / "report.html"
    try:
        _refuse_what_is_no_report(target, directory)
        write_whole(target, html.encode())
    except OSError as error:
        raise RunDirectoryError(
            f"{target} can't be written ({reason(error)}); free some space, or make the directory writable"
        ) from error
    return target


def _from_events(render: Callable[[Path], str], directory: Path) -> str:
    """Events and config have no schema that is checked as they are read: any JSON may stand there."""
    try:
        return render(directory)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as problem:
        told = str(problem).partition("\n")[0]
        raise RunDirectoryError(
            f"{directory} can't be reported on: its config.toml, events.jsonl or results.json isn't what "
            f"thalweg writes there ({type(problem).__name__}: {told}); restore these files from a copy"
        ) from problem


def _refuse_what_is_no_report(target: Path, directory: Path) -> None:
    """In a stranger's directory the report may be a link to any file of this person."""
    if not target.is_symlink() or not target.is_file():
        return
    real = target.resolve()
    if real.is_relative_to(directory.resolve()):
        return
    with real.open("rb") as file:
        begins = file.read(15)
    if begins and begins.lower() != b"<!doctype html>":
        raise RunDirectoryError(
            f"{target} is a link to {real}, which is no report and would be overwritten; remove the link"
        )


def render(results: Results, *, recipe: str | None = None, script: str | None = None) -> str:
    """Return the report of a finished race as one HTML page.

    Args:
        results: what the race found.
        recipe: text of ``winner.toml``, if there is one.
        script: text of ``winner.py``, if there is one.
    """
    score = ScoreFormat.of(results)
    order = tables.ranked(results)
    look = looks(
        [*results.plan.optimizers, *(o.name for o in order if o.name not in results.plan.optimizers)]
    )
    pictures: dict[str, figure | None] = {"runs": dots.every_run(results, order, look, score)}
    pictures["equal_seconds"] = dots.equal_seconds(results, order, look, score)
    pictures["step_seconds"] = dots.step_seconds(results, order, look)
    pictures["defaults"] = dots.defaults_against_tuned(results, order, look, score)
    pictures["best_of_k"] = curves.best_of_k(results, order, look)
    pictures |= {f"curve_{k}": p for k, p in curves.learning_curves(results, order, look).items()}
    pictures |= {f"goal_{k}": p for k, p in curves.goal_profiles(results, order, look).items()}
    rates = sensitivity(results, order, look, score)
    # Names are anybody's text, so keys of pictures are numbers.
    pictures |= {f"rate_{i}": rates[o.name] for i, o in enumerate(order) if o.name in rates}
    starts = starting_points(results, order, look, score)
    pictures |= {f"start_{i}": plot for i, plot in enumerate(starts.values())}
    bokeh_script, drawn = embed({k: p for k, p in pictures.items() if p is not None})
    return page_of(
        "race.html.jinja",
        bokeh_script=bokeh_script,
        r=results,
        order=order,
        many=len(order) > _WIDE,
        score=score,
        pictures=drawn,
        rates=[(o, drawn[f"rate_{i}"]) for i, o in enumerate(order) if f"rate_{i}" in drawn],
        unrated=[o.name for o in order if o.name not in rates],
        rate_name=RATE,
        starts=starting_point_rows(results, score),
        start_pictures=[drawn[f"start_{i}"] for i in range(len(starts))],
        swatches={name: swatch(each) for name, each in look.items()},
        shown=curves.at_first(order),
        facts=tables.facts(results, score),
        beside_stages=tables.beside_stages(results),
        leaderboard=tables.leaderboard(results, order, score),
        cost=tables.cost(results, order, score),
        long_steps=tables.has_long_steps(results),
        forward_backward=general(results.timing.forward_backward, 3),
        matrices=[
            (axis, tables.matrix(axis, order, score))
            for axis in (results.verdict.work, results.timing.verdict)
            if axis is not None
        ],
        winners=tables.winners(order, score),
        compute=tables.compute(order),
        eliminated=tables.eliminated(results),
        audits=tables.audits(results, score),
        spaces=tables.spaces(results),
        setup=tables.setup(results),
        general_warnings=[w for w in results.warnings if w.optimizer is None],
        own_warnings=[w for w in results.warnings if w.optimizer is not None],
        recipe=recipe,
        script=script,
    )


def render_unfinished(directory: Path) -> str:
    """Return a page that says how far a race in ``directory`` is, from its configuration and events."""
    run = RunDirectory.read(directory)
    events = run.events()
    begun: dict[str, Any] = next(
        (e["value"] for e in events if e.get("event") == "begun" and "value" in e), {}
    )
    return page_of(
        "unfinished.html.jinja",
        directory=directory.resolve().name,
        resume=option("resume", True),
        out=option("out"),
        command=begun.get("command"),
        started=begun.get("started"),
        stages=tables.stages_so_far(events),
        stopped=sum(len(e.get("value", ())) for e in events if e.get("event") == "eliminated"),
        elapsed=duration(max((float(e.get("elapsed", 0.0)) for e in events), default=0.0)),
        config=_text(directory / "config.toml"),
    )


def render_training(directory: Path) -> str:
    """Return a page about a training in ``directory``, as far as it has come."""
    found = training.read(directory)
    bokeh_script, drawn = embed(drawings) if (drawings := training.pictures(found)) else (Markup(""), {})
    return page_of("training.html.jinja", bokeh_script=bokeh_script, pictures=drawn, t=found)


def render_transfer(directory: Path) -> str:
    """Return a page about what was measured for a transfer."""
    found = transfer.read(directory)
    bokeh_script, drawn = embed(transfer.pictures(found))
    return page_of("transfer.html.jinja", bokeh_script=bokeh_script, pictures=drawn, t=found)


def write_diagnosis(found: DiagnosedTarget, place: Path) -> None:
    """Write a page about a diagnosis.

    Raises:
        OptionError: it can't be written.
    """
    # which no report of a run needs
    from thalweg.report import diagnosis

    page = diagnosis.read_diagnosis(found)
    drawn = diagnosis.pictures_of_diagnosis(page)
    bokeh_script, places = embed(drawn) if drawn else (Markup(), {})
    text = page_of("diagnosis.html.jinja", bokeh_script=bokeh_script, pictures=places, d=page)
    try:
        write_whole(place, text.encode())
    except OSError as problem:
        raise OptionError(f"{place} can't be written ({reason(problem)}); give another place") from problem


def embed(pictures: dict[str, figure]) -> tuple[Markup, dict[str, Markup]]:
    """Return one script with all pictures and bokeh itself, and a place for each picture."""
    document = Document()
    # unfrozen, bokeh walks through all models anew for each picture that is added
    with document.models.freeze():
        for picture in pictures.values():
            document.add_root(picture)
    script, places = components(pictures)
    library = Resources(mode="inline", components=["bokeh"]).render_js()
    return Markup(library + script), {key: Markup(place) for key, place in places.items()}


def page_of(template: str, **values: Any) -> str:
    """Return a page made of a template of the report; what isn't markup is escaped."""
    return _templates().get_template(template).render(bokeh_version=bokeh.__version__, **values)


@functools.cache
def _templates() -> jinja2.Environment:
    """The templates, each compiled once in a process."""
    texts = importlib.resources.files("thalweg.report") / "templates"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (texts / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"sentence": finished, "metric_label": metric_label, "repeated": repeated}
    environment.filters |= {"count": count, "general": general, "shorten": shorten, "duration": duration}
    environment.globals["style"] = Markup((texts / "style.css").read_text(encoding="utf-8"))
    return environment


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None
