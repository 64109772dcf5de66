"""Pools: draws, edges, what lies beyond them, and search spaces that can't be."""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from thalweg import catalogue
from thalweg.catalogue.entry import Entry, Hyperparameter
from thalweg.errors import OptionError
from thalweg.initial import SCHEMES
from thalweg.racing import pools
from thalweg.racing.initializations import DEFAULT, SEARCHED, chosen
from thalweg.racing.ranges import Range, Space, ranges
from thalweg.run.spec import Setting

ENTRIES = {name: catalogue.get(name) for name in catalogue.names()}
SPACES = pools.spaces(ENTRIES, {})
SCHEDULES = ("constant", "cosine", "linear")


def choices(space: Space, schedules: Sequence[str] = SCHEDULES, **initializations: Space) -> pools.Choices:
    return pools.Choices(space=space, schedules=schedules, initializations=initializations or {DEFAULT: {}})


def adam(count: int, seed: int = 5) -> list[Setting]:
    return pools.first_wave(ENTRIES["adam"], choices(SPACES["adam"]), count, seed=seed)


@pytest.mark.parametrize("name", ENTRIES)
def test_a_pool_begins_with_the_librarys_defaults(name: str) -> None:
    first = pools.first_wave(ENTRIES[name], choices(SPACES[name]), 3, seed=0)[0]
    defaults = {hyper.name: hyper.default for hyper in ENTRIES[name].hyperparameters}
    assert dict(first.hyperparameters) == {key: defaults[key] for key in SPACES[name]}
    assert (first.optimizer, first.schedule) == (name, "constant")


def test_without_a_constant_schedule_the_defaults_take_the_first() -> None:
    pool = pools.first_wave(ENTRIES["sgd"], choices(SPACES["sgd"], ("cosine", "linear")), 1, seed=0)
    assert [setting.schedule for setting in pool] == ["cosine"]


@pytest.mark.parametrize("name", ENTRIES)
def test_draws_lie_inside_and_are_a_function_of_the_seed(name: str) -> None:
    def draw(seed: int) -> list[Setting]:
        return pools.first_wave(ENTRIES[name], choices(SPACES[name]), 40, seed=seed)

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)
    for setting in draw(1)[1:]:
        assert list(setting.hyperparameters) == list(SPACES[name])
        for key, (low, high) in SPACES[name].items():
            assert low <= setting.hyperparameters[key] <= high


def test_draws_fill_the_search_scale_evenly_schedules_too() -> None:
    drawn = adam(121)[1:]
    rates = [math.log10(float(setting.hyperparameters["lr"])) for setting in drawn]
    low, high = (math.log10(end) for end in SPACES["adam"]["lr"])
    assert np.histogram(rates, bins=8, range=(low, high))[0].tolist() == pytest.approx([15] * 8, abs=2)
    betas = [-math.log10(1 - float(setting.hyperparameters["beta2"])) for setting in drawn]
    low, high = (-math.log10(1 - end) for end in SPACES["adam"]["beta2"])
    assert np.histogram(betas, bins=5, range=(low, high))[0].tolist() == pytest.approx([24] * 5, abs=4)
    counts = [sum(setting.schedule == name for setting in drawn) for name in SCHEDULES]
    assert counts == pytest.approx([40] * 3, abs=6)


def test_a_larger_pool_begins_like_a_smaller_one_and_the_second_wave_goes_on() -> None:
    long = adam(16)
    assert adam(12) == long[:12]
    rest = pools.second_wave(ENTRIES["adam"], choices(SPACES["adam"]), 4, seed=5, drawn=12, edges={})
    assert rest == long[12:]


def test_at_an_edge_the_second_wave_lies_beyond_it() -> None:
    space = SPACES["adam"]
    rest = pools.second_wave(
        ENTRIES["adam"], choices(space), 8, seed=5, drawn=12, edges={"lr": "high", "beta1": "low"}
    )
    plain = pools.second_wave(ENTRIES["adam"], choices(space), 8, seed=5, drawn=12, edges={})
    for moved, kept in zip(rest, plain, strict=True):
        assert space["lr"][1] <= moved.hyperparameters["lr"] <= 10 * space["lr"][1]
        assert 0 <= moved.hyperparameters["beta1"] <= space["beta1"][0]
        assert moved.hyperparameters["beta2"] == kept.hyperparameters["beta2"]
        assert moved.schedule == kept.schedule


def test_values_read_well() -> None:
    for setting in adam(30)[1:]:
        assert (
            len(f"{setting.hyperparameters['lr']:e}".rstrip("0").split("e")[0].replace(".", "").rstrip("0"))
            <= 4
        )
        complement = 1 - float(setting.hyperparameters["beta1"])
        assert float(f"{complement:.3g}") == pytest.approx(complement, abs=1e-11)


@pytest.mark.parametrize(
    ("span", "place", "value"),
    [
        (Range(low=1e-4, high=1e-2, scale="log"), 0.25, 3.162e-4),
        (Range(low=0.9, high=0.999, scale="complement"), 0.5, 0.99),
        (Range(low=0.0, high=0.8, scale="linear"), 0.25, 0.2),
    ],
)
def test_a_place_on_the_search_scale_and_back(span: Range, place: float, value: float) -> None:
    assert span.value(place) == pytest.approx(value)
    assert span.place(value) == pytest.approx(place, abs=1e-4)
    assert span.value(0.0) == span.low
    assert span.value(1.0) == span.high


@pytest.mark.parametrize(
    ("span", "low", "high"),
    [
        (Range(low=1e-4, high=1e-2, scale="log"), 1e-5, 0.1),
        (Range(low=0.9, high=0.999, scale="complement"), 0.0, 0.9999),
        (Range(low=0.0, high=0.99, scale="complement"), 0.0, 0.999),
        (Range(low=0.1, high=0.4, scale="linear", least=0.0), 0.0, 0.7),
        (Range(low=-1.0, high=1.0, scale="linear"), -3.0, 3.0),
    ],
)
def test_beyond_is_a_decade_within_what_is_legal(span: Range, low: float, high: float) -> None:
    assert span.beyond("low") == pytest.approx(low)
    assert span.beyond("high") == pytest.approx(high)


def entry_of(**ranges: tuple[float, float, str]) -> Entry:
    """The catalogue's SGD with other hyperparameters."""
    import dataclasses

    hyper = tuple(
        Hyperparameter(name=name, default=low, low=low, high=high, scale=scale, searched=True)  # type: ignore[arg-type]
        for name, (low, high, scale) in ranges.items()
    )
    return dataclasses.replace(ENTRIES["sgd"], hyperparameters=hyper)


@pytest.mark.parametrize(
    ("lr", "expected"),
    [
        (1e-4, "low"),
        (1.4e-4, "low"),
        (1.5e-4, None),
        (0.07, None),
        (0.08, "high"),
        (0.2, "high"),
        (0.0, "low"),
    ],
)
def test_an_edge_is_a_twentieth_of_the_search_scale(lr: float, expected: str | None) -> None:
    entry = entry_of(lr=(1e-4, 1e-1, "log"))
    found = pools.edges(
        entry, Setting(optimizer="sgd", hyperparameters={"lr": lr}), choices({"lr": (1e-4, 1e-1)})
    )
    assert found.get("lr") == expected


def test_an_end_that_cannot_be_moved_is_no_edge() -> None:
    entry = entry_of(momentum=(0.0, 0.99, "complement"))
    space = {"momentum": (0.0, 0.99)}
    low, high = (Setting(optimizer="sgd", hyperparameters={"momentum": m}) for m in (0.0, 0.99))
    assert pools.edges(entry, low, choices(space)) == {}
    assert pools.edges(entry, high, choices(space)) == {"momentum": "high"}
    assert pools.extended(entry, choices(space), {"momentum": "high"}).space == {"momentum": (0.0, 0.999)}
    plain = choices(space, ("constant",))
    wave = pools.second_wave(entry, plain, 3, seed=0, drawn=1, edges={"momentum": "low"})
    assert wave == pools.second_wave(entry, plain, 3, seed=0, drawn=1, edges={})


def test_an_extended_space_has_its_own_edges() -> None:
    entry = entry_of(lr=(1e-4, 1e-1, "log"))
    wide = pools.extended(entry, choices({"lr": (1e-4, 1e-1)}), {"lr": "high"})
    assert wide.space == {"lr": (1e-4, 1.0)}
    at = Setting(optimizer="sgd", hyperparameters={"lr": 0.1})
    assert pools.edges(entry, at, wide) == {}


def test_a_persons_own_space_is_searched_in_the_catalogues_order() -> None:
    found = pools.spaces(ENTRIES, {"adam.eps": (1e-9, 1e-3), "sgd.lr": (0.5, 1)})
    assert found["adam"]["eps"] == (1e-9, 1e-3)
    assert found["sgd"]["lr"] == (0.5, 1.0)
    assert found["momentum"] == SPACES["momentum"]
    order = [hyper.name for hyper in ENTRIES["adam"].hyperparameters if hyper.name in found["adam"]]
    assert list(found["adam"]) == order


@pytest.mark.parametrize(
    ("key", "ends", "says"),
    [
        ("adma.lr", (1e-4, 1e-1), "did you mean 'adam'"),
        ("lr", (1e-4, 1e-1), "isn't in this race"),
        ("adam.lrr", (1e-4, 1e-1), "did you mean 'lr'"),
        ("adam.lr", (1e-1, 1e-4), "from a lower to a higher"),
        ("adam.lr", (1e-2, 1e-2), "from a lower to a higher"),
        ("adam.lr", (math.nan, 1.0), "from a lower to a higher"),
        ("adam.lr", (1e-3, math.inf), "from a lower to a higher"),
        ("adam.lr", (0.0, 1.0), "above 0"),
        ("adam.beta1", (0.5, 1.0), "under 1"),
        ("adam.beta1", (-0.5, 0.9), "at least 0"),
    ],
)
def test_a_space_that_cannot_be_is_refused_in_one_sentence(
    key: str, ends: tuple[float, float], says: str
) -> None:
    with pytest.raises(OptionError, match=says) as caught:
        pools.spaces(ENTRIES, {key: ends})
    assert "\n" not in str(caught.value)


OTHERS = {name: catalogue.get(name) for name in ("rprop", "quickprop", "lbfgs", "nesterov")}


@pytest.mark.parametrize(
    ("key", "ends", "says"),
    [
        ("sgd.dampening", (-0.1, 0.5), r"dampening is -0\.1, but must be at least 0 and at most 1"),
        ("sgd.lr", (-1.0, 0.5), r"goes from -1 to 0\.5: lr is -1\.0, but must be at least 0; give one"),
        ("rprop.etaminus", (0.5, 1.5), r"etaminus is 1\.5, but must be above 0 and below 1"),
        ("quickprop.growth", (0.5, 1.5), "growth is 0.5, but must be at least 1"),
        ("lbfgs.max_iter", (0, 3), "max_iter is 0.*a whole number, at least 1"),
        ("lbfgs.max_iter", (1.2, 3.7), "max_iter is 1.2.*a whole number, at least 1; give 1"),
        (
            "rprop.step_size_max",
            (1e-8, 1e-2),
            "step_size_max may be as low as 1e-08 and step_size_min as high",
        ),
    ],
)
def test_spaces_keep_to_what_is_legal(key: str, ends: tuple[float, float], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        pools.spaces({**ENTRIES, **OTHERS}, {key: ends})


@pytest.mark.parametrize("name", ["nesterov.momentum", "rprop.etaminus"])
def test_a_space_may_touch_what_is_not_legal_and_draws_keep_off_it(name: str) -> None:
    optimizer, _, number = name.partition(".")
    entry = OTHERS[optimizer]
    (space,) = pools.spaces({optimizer: entry}, {name: (0.0, 0.9)}).values()
    (hyper,) = (each for each in entry.hyperparameters if each.name == number)
    assert hyper.refusal(0.0) is not None
    span = ranges(entry.hyperparameters, {number: (0.0, 0.9)})[number]
    assert span.value(1e-6) > 0
    assert span.beyond("low") == 0
    for setting in pools.first_wave(entry, choices(space), 40, seed=1):
        assert entry.refusal(setting.hyperparameters) is None


@pytest.mark.parametrize("end", ["low", "high"])
@pytest.mark.parametrize("optimizer", catalogue.names())
def test_every_draw_beyond_every_end_is_legal(optimizer: str, end: Any) -> None:
    entry = catalogue.get(optimizer)
    every = {hyper.name: (hyper.low, hyper.high) for hyper in entry.hyperparameters}
    for hyper in entry.hyperparameters:
        if hyper.not_under:
            every[hyper.not_under] = (every[hyper.not_under][0], hyper.low)
    (space,) = pools.spaces(
        {optimizer: entry}, {f"{optimizer}.{n}": ends for n, ends in every.items()}
    ).values()
    drawn = choices(space)
    for _ in range(3):
        edges = dict.fromkeys(space, end)
        for setting in pools.second_wave(entry, drawn, 20, seed=2, drawn=1, edges=edges):
            assert entry.refusal(setting.hyperparameters) is None
        drawn = pools.extended(entry, drawn, edges)


def test_where_a_schedule_does_nothing_only_the_constant_one_is_drawn() -> None:
    entry, space = ENTRIES["rprop"], SPACES["rprop"]
    assert {s.schedule for s in pools.first_wave(entry, choices(space), 9, seed=0)} == {"constant"}
    more = pools.second_wave(entry, choices(space, ("cosine", "linear")), 9, seed=0, drawn=9, edges={})
    assert {s.schedule for s in more} == {"cosine"}


SEVERAL: dict[str, Space] = {
    DEFAULT: {},
    "he": {},
    "normalized": {"gain": (0.1, 3.0)},
    "sparse": {"k": (3, 60), "scale": (0.03, 3.0)},
}


def begun(count: int, **initializations: Space) -> list[dict[str, object]]:
    drawn = pools.first_wave(
        ENTRIES["adam"], choices(SPACES["adam"], **(initializations or SEVERAL)), count, seed=5
    )
    return [dict(setting.initialization) for setting in drawn]


def test_starting_points_are_drawn_evenly_with_their_own_numbers() -> None:
    first, *drawn = begun(161)
    assert first == {}
    assert [sum(each.get("scheme", DEFAULT) == name for each in drawn) for name in SEVERAL] == pytest.approx(
        [40] * 4, abs=6
    )
    sparse = [each for each in drawn if each.get("scheme") == "sparse"]
    assert all(set(each) == {"scheme", "k", "scale"} and type(each["k"]) is int for each in sparse)
    whole = [int(str(each["k"])) for each in sparse]
    assert min(whole) < 6
    assert max(whole) > 40
    assert sum(k < math.sqrt(3 * 60) for k in whole) == pytest.approx(len(whole) / 2, abs=6)
    assert all(each.keys() == {"scheme"} for each in drawn if each.get("scheme") == "he")
    gains = [float(str(each["gain"])) for each in drawn if each.get("scheme") == "normalized"]
    assert all(0.1 <= gain <= 3 for gain in gains)
    assert min(gains) < 0.3
    assert max(gains) > 1


def test_without_other_starting_points_pools_are_what_they_were() -> None:
    plain = pools.first_wave(ENTRIES["adam"], choices(SPACES["adam"]), 9, seed=5)
    more = pools.first_wave(ENTRIES["adam"], choices(SPACES["adam"], he={}), 9, seed=5)
    assert all(setting.initialization == {} for setting in plain)
    assert [setting.hyperparameters for setting in more] == [setting.hyperparameters for setting in plain]
    assert all(setting.initialization == {"scheme": "he"} for setting in more)


def test_without_the_models_own_the_defaults_begin_by_the_first_scheme() -> None:
    assert begun(1, sparse=SEVERAL["sparse"], he={})[0] == {"scheme": "sparse", "k": 15, "scale": 1.0}


def test_a_starting_points_number_has_edges_too_and_lies_beyond_them_in_the_second_wave() -> None:
    several = choices({"lr": (1e-4, 1e-1)}, **SEVERAL)
    entry = entry_of(lr=(1e-4, 1e-1, "log"))
    at = Setting(
        optimizer="sgd",
        hyperparameters={"lr": 1e-2},
        initialization={"scheme": "sparse", "k": 3, "scale": 2.9},
    )
    found = pools.edges(entry, at, several)
    assert found == {"sparse.k": "low", "sparse.scale": "high"}
    wide = pools.extended(entry, several, found)
    assert wide.initializations["sparse"] == {"k": (1, 60), "scale": (0.03, 30.0)}
    assert wide.initializations["normalized"] == SEVERAL["normalized"]
    assert wide.space == several.space
    drawn = pools.second_wave(entry, several, 60, seed=0, drawn=20, edges=found)
    sparse = [each.initialization for each in drawn if each.initialization.get("scheme") == "sparse"]
    assert len(sparse) > 8
    assert all(1 <= each["k"] <= 3 and 3.0 <= each["scale"] <= 30 for each in sparse)
    # fewer than one weight can't be
    one = Setting(optimizer="sgd", initialization={"scheme": "sparse", "k": 1, "scale": 0.5})
    assert "sparse.k" not in pools.edges(entry, one, wide)


def test_ranges_of_starting_points() -> None:
    names = chosen(["sparse", "normalized", "sparse"])
    assert names == ("sparse", "normalized")
    own = {"sparse.k": (2.0, 9.0), "adam.lr": (1e-4, 1e-2)}
    found = pools.initialization_spaces(names, ENTRIES, own)
    assert found == {"sparse": {"k": (2.0, 9.0), "scale": (0.03, 3.0)}, "normalized": {"gain": (0.1, 3.0)}}
    assert pools.spaces(ENTRIES, own)["adam"]["lr"] == (1e-4, 1e-2)


@pytest.mark.parametrize(
    ("key", "ends", "says"),
    [
        ("gaussian.scale", (1e-3, 1.0), r"write initializations=\['sparse', 'gaussian'\]"),
        ("sparse.scal", (1e-3, 1.0), "did you mean 'scale'"),
        ("sparse.k", (0.5, 9.0), r"k is 0\.5, but must be a whole number, at least 1"),
        ("sparse.scale", (0.0, 9.0), "above 0"),
    ],
)
def test_a_range_of_a_starting_point_that_cannot_be(key: str, ends: tuple[float, float], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        pools.initialization_spaces(["sparse"], ENTRIES, {key: ends})


@pytest.mark.parametrize(("names", "says"), [([], "is empty"), (["sprase"], "did you mean 'sparse'")])
def test_a_starting_point_that_there_is_not(names: list[str], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        chosen(names)


@pytest.mark.parametrize("name", SEARCHED)
def test_defaults_of_starting_points_are_the_schemes_own_and_lie_in_their_ranges(name: str) -> None:
    for number in SEARCHED[name]:
        assert number.low <= number.default <= number.high
        scheme = inspect.signature(SCHEMES[name]).parameters
        assert scheme[number.name].default == number.default
