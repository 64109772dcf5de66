"""What the page of each finding says by itself: picture, thresholds as the code has them, measured gain.

A threshold is given by the function or the name that holds it and, within a function, by the expression that
it stands in: ``_`` is the number, ``...`` is anything. So a page can't say another number than the code.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from thalweg.diagnosis import CAUSES, MECHANISMS

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "docs" / "images" / "findings"
RESULTS = ROOT / "hospital" / "results" / "results.jsonl"
# of the score of a test set: less is the same, as in the hospital
SAME = 0.01


@dataclass(frozen=True)
class Threshold:
    """A number of the code.

    Attributes:
        said: what is compared with it; ``{}`` stands where the number does.
        place: ``module:name`` below ``thalweg.diagnosis``, a function or a constant.
        pattern: the expression in the function; ``""`` of a constant.
        nth: which of several such places, from 1; of a constant that holds several numbers, which.
        form: how the number is written.
    """

    said: str
    place: str
    pattern: str = ""
    nth: int = 1
    form: str = "{:g}"

    @property
    def value(self) -> Any:
        """The number."""
        module, _, name = self.place.partition(":")
        if not self.pattern:
            found = getattr(importlib.import_module(f"thalweg.diagnosis.{module}"), name, None)
            if found is None:
                raise LookupError(
                    f"thalweg.diagnosis.{module} has no {name}; say in THRESHOLDS where it is now"
                )
            return found[self.nth - 1] if isinstance(found, tuple) else found
        places = list(matches(self.pattern, function(module, name)))
        if len(places) < self.nth:
            raise LookupError(
                f"{self.place} has {len(places)} places like {self.pattern!r}, not {self.nth}; say in "
                "THRESHOLDS where the number stands now"
            )
        return places[self.nth - 1]

    @property
    def sentence(self) -> str:
        """What is compared with it, with the number."""
        value = self.value
        if isinstance(value, tuple):
            steps = ", ".join(f"{weight:g} from {least:,g} on" for least, weight in reversed(value))
            return self.said.replace("{}", steps)
        return self.said.replace("{}", self.form.format(value).replace("%", " %"))


@cache
def function(module: str, name: str) -> ast.AST:
    """Return the tree of a function or method."""
    found: Any = importlib.import_module(f"thalweg.diagnosis.{module}")
    for part in name.split("."):
        if not hasattr(found, part):
            raise LookupError(f"thalweg.diagnosis.{module} has no {name}; say in THRESHOLDS where it is now")
        found = inspect.getattr_static(found, part)
    found = found.fget if isinstance(found, property) else inspect.unwrap(found)
    return ast.parse(textwrap.dedent(inspect.getsource(found)))


def matches(pattern: str, tree: ast.AST) -> Iterator[Any]:
    """Give the literals that stand for ``_`` in a pattern, from top to bottom of a tree.

    >>> list(matches("x > _", ast.parse("if x > 3 or y > 4: pass")))
    [3]
    >>> list(matches("max(_, ...)", ast.parse("max(0.5, 2 * z)")))
    [0.5]
    """
    wanted = ast.parse(pattern, mode="eval").body
    found = []
    for node in ast.walk(tree):
        held: list[Any] = []
        if isinstance(node, ast.expr) and _alike(wanted, node, held) and len(held) == 1:
            found.append((node.lineno, node.col_offset, held[0]))
    yield from (value for _, _, value in sorted(found, key=lambda each: each[:2]))


def _alike(wanted: Any, node: Any, held: list[Any]) -> bool:
    if isinstance(wanted, ast.Name) and wanted.id == "_":
        try:
            held.append(ast.literal_eval(node))
        except ValueError:
            return False
        return True
    if isinstance(wanted, ast.Constant) and wanted.value is ...:
        return True
    if type(wanted) is not type(node):
        return False
    if isinstance(wanted, ast.AST):
        names = [name for name in wanted._fields if name not in ("ctx", "kind")]
        return all(_alike(getattr(wanted, name), getattr(node, name), held) for name in names)
    if isinstance(wanted, list):
        return len(wanted) == len(node) and all(_alike(a, b, held) for a, b in zip(wanted, node, strict=True))
    return bool(wanted == node)


def _t(said: str, place: str, pattern: str = "", nth: int = 1, form: str = "{:g}") -> Threshold:
    return Threshold(said, place, pattern, nth, form)


THRESHOLDS: Mapping[str, Sequence[Threshold]] = {
    "output-activation": (),
    "output-units": (),
    "hidden-activation": (
        _t(
            "functions that are flat at the ends, in one layer: weight {}",
            "signals:_hidden",
            "_ if deep == 1 else ...",
        ),
        _t("in two layers: weight {}", "signals:_hidden", "_ if deep == 2 else ..."),
        _t("in more: weight {}", "signals:_hidden", "... if deep == 2 else _"),
        _t(
            "units of a layer that are zero for all examples at the start: over {}",
            "signals:_hidden",
            "signal.dead > _",
            form="{:.0%}",
        ),
    ),
    "loss-function": (),
    "learning-rate-high": (
        _t("weight where the loss broke or jumped: {}", "pace:suspect_pace", "_ if broken or ... else ..."),
        _t("weight else: {}", "pace:suspect_pace", "... if broken or ... else _"),
        _t(
            "steps of the second half whose loss jumped: over {}",
            "pace:suspect_pace",
            "jumps > _",
            form="{:.0%}",
        ),
        _t(
            "a jump goes over the median of that half by {} of the first loss",
            "pace:_jumps",
            "middle + _ * first",
            form="{:.0%}",
        ),
    ),
    "learning-rate-low": (
        _t("weight: {}", "pace:suspect_pace", "... if still else _", nth=2),
        _t("weight where no parameter moved: {}", "pace:suspect_pace", "_ if still else ..."),
        _t("not moved is a parameter that changed by less than {} of its size", "pace:_STILL", form="{:.1%}"),
    ),
    "optimizer": (
        _t("weight: {}", "pace:suspect_pace", "... if whole else _"),
        _t(
            "weight of an optimizer for whole gradients on batches: {}",
            "pace:suspect_pace",
            "_ if whole else ...",
        ),
    ),
    "epochs-few": (
        _t("weight where skill was still growing: {}", "pace:suspect_pace", "_ if rising and ... else ..."),
        _t("and where the training has fewer steps than {}", "pace:suspect_pace", "steps < _", form="{:,}"),
        _t("weight else: {}", "pace:suspect_pace", "... if rising and ... else _"),
        _t("growing is a skill that won over {} in the last third", "pace:_rising", "grown > max(_, ...)"),
        _t("or a loss that fell by over {} of itself", "pace:_rising", "_ * abs(early)", form="{:.0%}"),
    ),
    "batch-large": (
        _t("examples in a batch: over {} times the usual size", "pace:_batches", "_ * _USUAL_BATCH"),
        _t("the usual size: {}", "pace:_USUAL_BATCH"),
        _t("and steps an epoch: at most {}", "pace:_batches", "steps_an_epoch <= _", nth=1),
        _t("or examples in a batch: at least {}", "pace:_batches", "size >= _"),
    ),
    "batch-small": (
        _t("examples in a batch: at most {}", "pace:_batches", "size <= _"),
        _t("of at least {} times the usual size in all", "pace:_batches", "count >= _ * _USUAL_BATCH"),
        _t("the usual size: {}", "pace:_USUAL_BATCH"),
    ),
    "input-scale": (
        _t(
            "largest size of a feature, root of mean square: weight {}",
            "data_checks:_input_scale",
            "(high, _)",
        ),
        _t(
            "largest spread over the smallest (of many features: over the median): weight {}",
            "data_checks:_input_scale",
            "(ratio, _)",
        ),
        _t(
            "distance of the mean from zero in spreads, median: weight {}",
            "data_checks:_input_scale",
            "(offset, _)",
        ),
        _t("one over the largest size: weight {}", "data_checks:_input_scale", "(1 / max(high, 1e-30), _)"),
        _t(
            "a number that stands for gaps lies from the median further than {} spreads",
            "data_checks:_standing_in",
            "... > _ * float(rest.std())",
        ),
    ),
    "target-scale": (
        _t("size of the targets, root of mean square: weight {}", "data_checks:_target_scale", "(size, _)"),
        _t(
            "one over their spread: weight {}",
            "data_checks:_target_scale",
            "(1 / max(numbers.spread, 1e-30), _)",
        ),
        _t(
            "largest spread of a column over the smallest: weight {}",
            "data_checks:_target_scale",
            "(ratio, _)",
        ),
    ),
    "input-values": (
        _t("share of numbers that are finite: below {}", "data_checks:_values", "numbers.finite == _"),
    ),
    "labels": (
        _t(
            "skill of nearest neighbours on validation data over that on training data: more than {}",
            "data_checks:_labels",
            "max(_, 3 * known.error)",
        ),
        _t("and more than {} of its errors", "data_checks:_labels", "max(0.12, _ * known.error)"),
    ),
    "split-mismatch": (
        _t(
            "skill of nearest neighbours across the parts, of that within them: below {}",
            "data_checks:_split",
            "min(_ * within, ...)",
            form="{:.0%}",
        ),
        _t("and lower than it by {} of its errors", "data_checks:_split", "within - _ * known.error"),
        _t(
            "shift of the inputs' means, in spreads, median of the features: over {}",
            "data_checks:_shifted_inputs",
            "max(_, 6 / math.sqrt(count))",
        ),
        _t(
            "ratio of the inputs' spreads, median: over {}, or one over it",
            "data_checks:_shifted_inputs",
            "abs(ratio) > math.log(_)",
        ),
    ),
    "initialization": (
        _t(
            "spread of weights, times the root of a unit's inputs: over {}",
            "signals:_first_weights",
            "large > _",
        ),
        _t("or below {}", "signals:_first_weights", "0 < small < _"),
        _t(
            "spread of the last layer's outputs over that of the first's: over {}",
            "signals:_first_weights",
            "growth > _",
        ),
        _t("or below {}", "signals:_first_weights", "growth < _"),
        _t(
            "units of a layer that are zero for all examples: over {}",
            "signals:_first_weights",
            "signal.dead > _",
            form="{:.0%}",
        ),
        _t(
            "values of a layer where its function is flat: over {}",
            "signals:_first_weights",
            "signal.flat > _",
            form="{:.0%}",
        ),
    ),
    "capacity": (
        _t("units of the narrowest layer: at most {}", "structure:_capacity", "max(_, needed // 3)"),
        _t("or the outputs that are needed over {}", "structure:_capacity", "needed // _"),
    ),
    "depth": (
        _t("layers with weights, one after another: at least {}", "structure:_depth", "len(plain) < _"),
    ),
    "regularization": (
        _t(
            "dropout, as a share of the units: from {} on it is strong",
            "structure:_regularization",
            "max(chances) >= _",
            form="{:.0%}",
        ),
        _t(
            "and from {} on worth a trial",
            "structure:_regularization",
            "max(chances) >= _",
            nth=2,
            form="{:.0%}",
        ),
        _t(
            "weight decay: from {} on it is strong",
            "structure:_regularization",
            "decay >= (... if decoupled else _)",
        ),
        _t(
            "decoupled weight decay: from {} on",
            "structure:_regularization",
            "decay >= (_ if decoupled else ...)",
        ),
    ),
    "frozen": (),
    "order": (
        _t(
            "variance of a batch's mean target, over that by chance: over {}",
            "data_checks:_order",
            "ratio > _",
        ),
        _t(
            "certain from {} of the size of a batch on",
            "data_checks:_order",
            "ratio > _ * share",
            nth=2,
            form="{:.0%}",
        ),
    ),
    "batch-norm": (
        _t("examples in a batch: at most {}", "structure:_norms", "size <= _"),
        _t("momentum, the share of the newest batch: below {}", "structure:_norms", "_ <= p.momentum <= ..."),
        _t("or above {}", "structure:_norms", "... <= p.momentum <= _"),
    ),
    "vanishing-gradient": (
        _t(
            "gradient of the first layer over that of the last, at the start: below {}",
            "signals:Signal.vanishing",
            "self.ratio < _",
        ),
    ),
    "exploding-gradient": (
        _t(
            "largest norm of a gradient over the median, as a mechanism: over {}",
            "mechanisms:_on_the_way",
            "max(finite) > _ * middle",
        ),
        _t("as a cause: over {}", "pace:suspect_pace", "spikes > _"),
        _t("as a cause, in recurrent nets: over {}", "pace:suspect_pace", "spikes > _", nth=2),
    ),
    "dying-relu": (
        _t(
            "units of a layer that are zero for all examples at the end: over {}",
            "mechanisms:_at_the_end",
            "dead > _",
            form="{:.0%}",
        ),
    ),
    "saturation": (
        _t(
            "values of a layer where its function is flat, at the end: over {}",
            "mechanisms:_at_the_end",
            "still > _",
            form="{:.0%}",
        ),
    ),
    "symmetric-units": (
        _t("units that are copies: at least one in {} of a layer", "mechanisms:_copies", "max(2, of / _)"),
        _t(
            "copies are units with equal weights, whose gradients agree to {} of the largest",
            "signals:_EQUAL",
        ),
    ),
    "nonfinite-loss": (_t("size of the loss: over {}", "trial:_loop", "abs(value) > _"),),
    "oscillating-loss": (
        _t(
            "highest loss less lowest, in the second half: over {} of the first loss",
            "mechanisms:_on_the_way",
            "high - low > _ * abs(losses[0])",
            form="{:.0%}",
        ),
        _t(
            "way of the loss over what it got ahead: over {} times",
            "mechanisms:_on_the_way",
            "way > _ * max(net, 1e-12)",
        ),
        _t("of a recorded curve, each jump: {} of the way", "recorded:_JUMP", form="{:.0%}"),
    ),
    "slow-convergence": (
        _t("skill that was won in the last third: over {}", "mechanisms:_on_the_way", "grown > _"),
        _t(
            "of a recorded curve, share of the fall in the last fifth: at least {}",
            "recorded:_STILL",
            form="{:.0%}",
        ),
    ),
    "constant-output": (
        _t(
            "spread of the outputs over the examples, of their size: at most {}",
            "trial:constant",
            "_ * max(1e-8, ...)",
        ),
    ),
    "underfitting": (_t("skill on training data: below {}", "mechanisms:_on_the_way", "mine < _"),),
    "overfitting": (
        _t(
            "skill on training data less that on others: over {}",
            "mechanisms:_on_the_way",
            "mine - theirs > _",
        ),
        _t("of a recorded curve, validation loss over its lowest: {} times", "recorded:_RISE"),
    ),
    "saddle": (
        _t(
            "smallest eigenvalue with its error, in shares of the largest size: below {}",
            "curved:_ends",
            "low.value + low.error < _ * sharpest",
            form="{:.0%}",
        ),
        _t(
            "standing still is a loss that changed by less than {} in the last third, or by chance",
            "curved:_stands",
            "_ * abs(float(before.mean()))",
            form="{:.0%}",
        ),
    ),
    "ill-conditioned": (
        _t(
            "curvature along the steepest direction over that along the flatter one: at least {}",
            "curved:_UNEVEN",
            form="{:,g}",
        ),
        _t(
            "share of the loss that could be won along the flatter one: at least {}",
            "curved:_MATTERS",
            form="{:.0%}",
        ),
    ),
    "cliff": (
        _t("norm of a gradient over the median of those before: over {}", "mechanisms:_CLIFF"),
        _t(
            "rise of the loss behind it, in shares of the first loss: over {}",
            "mechanisms:_FALL",
            form="{:.0%}",
        ),
    ),
    "gradient-noise": (
        _t("examples in a batch: at most {}", "curved:_SMALL"),
        _t(
            "lower end of the noise scale's interval: over {} batches",
            "curved:_noise",
            "scale.low > _ * size",
        ),
    ),
    "imbalance": (
        _t(
            "examples of the most frequent class over those of the rarest: at least {}",
            "data_checks:advice",
            "float(there.max() / there.min()) >= _",
        ),
    ),
    "output-bias": (
        _t(
            "loss of the first predictions over that of the best constant ones, in nats: at least {}",
            "output_bias:_NATS",
        ),
        _t("of numbers, in variances of the targets: at least {}", "output_bias:_VARIANCES"),
    ),
}
"""What is compared with what, by code; nothing where a finding follows from the calls alone."""


def block(code: str) -> str:
    """Return what the page of a finding says by itself."""
    kind = "A cause" if code in CAUSES else "A mechanism"
    meaning = {**CAUSES, **MECHANISMS}[code]
    place = PICTURES / f"{code}.svg"
    shown = alternative(place)
    parts = [
        f"{kind}: {meaning}.",
        "",
        f"![{shown}](../images/findings/{code}.svg)",
        "",
        f"*The training: {shown.partition('. ')[0]}.*",
        "",
        "## From where on it counts",
        "",
    ]
    parts += [f"- {each.sentence}" for each in THRESHOLDS[code]] or [
        "There is no threshold: what is computed is what is said."
    ]
    parts += ["", "## What the change gained", "", measured(code)]
    return "\n".join(parts) + "\n"


def alternative(place: Path) -> str:
    """Return what a picture shows, in words, which is its title."""
    if not place.exists():
        return "it hasn't been drawn yet"
    title = ElementTree.parse(place).getroot().find("{http://www.w3.org/2000/svg}title")
    assert title is not None
    assert title.text
    return title.text.replace("[", "(").replace("]", ")")


@cache
def _rows() -> tuple[dict[str, Any], ...]:
    if not RESULTS.exists():
        return ()
    return tuple(json.loads(line) for line in RESULTS.read_text(encoding="utf-8").splitlines())


def measured(code: str) -> str:
    """Say what the hospital measured of the remedy of a finding."""
    tried = [row["gain"] for row in _rows() if row.get("gain", {}).get("code") == code]
    seen = sum(any(f["code"] == code for f in row["findings"]) for row in _rows())
    if not tried:
        what = "Only a person can make its change"
        if code in MECHANISMS:
            what = "It is said beside a cause, whose change mends it"
        return (
            f"{what}; the [hospital](../hospital.md) tried none. It was said of {seen} of its {len(_rows())} "
            "trainings."
        )
    names = ("unchanged", "remedied", "generic")
    rows = {name: [sum(each[name]) / len(each[name]) for each in tried] for name in names}
    better = sum(a > b + SAME for a, b in zip(rows["remedied"], rows["unchanged"], strict=True))
    generic = sum(a > b - SAME for a, b in zip(rows["remedied"], rows["generic"], strict=True))
    middle = {name: sorted(values)[len(values) // 2] for name, values in rows.items()}
    count = f"{len(tried)} training{'' if len(tried) == 1 else 's'}"
    seeds = len(tried[0]["remedied"])
    return (
        f"In {count} of the [hospital](../hospital.md), each over {seeds} seeds, the score on a test set "
        f"went from {middle['unchanged']:.2f} to {middle['remedied']:.2f} (medians), at equal gradient "
        f"evaluations. It was better than no change in {better} of {len(tried)}, and at least as good as "
        f"Adam at 1e-3 on scaled inputs in {generic} of {len(tried)}, which reached {middle['generic']:.2f}."
    )
