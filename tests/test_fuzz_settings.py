"""Whatever people type: one line that says what is wrong, or the right answer."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from _fuzz import JSON, QUICK, SLOW, TEXT, refusal, says_one_line
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from benchmark import config
from benchmark.experiment.schedule import Schedule, parse_band
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, registry
from benchmark.plugins.settings import read_value
from benchmark.text import notation


@pytest.fixture(autouse=True, scope="module")
def discovered() -> None:
    """Every plug-in."""
    discovery.discover()


# --- words on the command line ----------------------------------------------------------------
KEYS = [field.name for field in dataclasses.fields(config.Settings)]
WORD = st.builds("{}={}".format, st.sampled_from(KEYS) | TEXT, TEXT) | TEXT


@SLOW
@given(st.lists(WORD, max_size=3))
def test_any_words_make_a_grid_or_one_line(words: list[str]) -> None:
    assert says_one_line(lambda: config.build_grid(config.compose_settings(words)).cells())


@SLOW
@example("seeds", "1" * 30)
@example("seeds", "1" * 12)
@given(st.sampled_from(["tasks", "strategies", "seeds", "until", "budget_in", "rounds", "initial", "validation"]), TEXT)
def test_any_value_of_a_setting_makes_a_grid_or_one_line(key: str, value: str) -> None:
    assert says_one_line(lambda: config.build_grid(config.compose_settings([f"{key}={value}"])).cells())


ENTRY = {"task": "digits", "strategies": ["random"], "seeds": 1, "initial": 5, "budget": 5, "rounds": 1}


@QUICK
@example("seeds", 10**12)
@given(st.sampled_from(list(config.EXPERIMENT_FIELDS)), JSON)
def test_any_value_in_a_grid_file_makes_a_grid_or_one_line(key: str, value: object) -> None:
    chosen = dataclasses.replace(DEFAULTS, experiments={"x": ENTRY | {key: value}})
    assert says_one_line(lambda: config.build_grid(chosen).cells())


@QUICK
@given(JSON)
def test_any_label_is_parsed_or_refused_in_one_line(value: object) -> None:
    assert says_one_line(lambda: notation.parse_label(value))
    assert says_one_line(lambda: Spec.read("strategy", value))


DEFAULTS = config.compose_settings([])
NAMED = st.text("abcdefghij_", min_size=1, max_size=8).map("a{}".format)
BARE = st.text("abcXYZ0129._-+/é ", max_size=8).map(str.strip)


@QUICK
@given(NAMED, st.dictionaries(NAMED, BARE, max_size=4))
def test_a_label_is_read_back(name: str, values: dict[str, str]) -> None:
    inside = ",".join(f"{key}={value}" for key, value in values.items())
    assert notation.parse_label(f" {name}[{inside}] ") == (name, values)


def named(*, root: str = "x", other: str | None = None, free: Any = 0, like: str = "") -> None:
    """Stands for a plug-in with parameters that are text."""


def exact(value: Any) -> Any:
    """Text that is not read as anything else, as `bind` reads what stands in no quotes."""
    return notation.QuotedText(value) if isinstance(value, str) else value


ODD = (
    st.text("ab,=[]{}'\"\\\\ :~\n")
    | st.sampled_from(["null", "true", "3", "1e-3", "O'Brien", "a,b", "", " ", "é"])
    | st.text()
)


@settings(QUICK, max_examples=400)
@given(ODD, ODD | st.none(), ODD | st.none() | st.integers() | st.booleans())
def test_any_text_has_a_spelling_wherever_a_label_stands(root: str, other: str | None, free: Any) -> None:
    """Alone, in a list on the command line, and as a parameter of another plug-in."""
    plugin = registry.Plugin("task", "named", named, 1)
    values = {"root": root, "other": other, "free": free, "like": ""}
    label = plugin.label({key: exact(value) for key, value in values.items()})
    assert plugin.bind(notation.parse_label(label)[1]) == values
    assert plugin.label(notation.parse_label(f" {label}\t")[1]) == label
    assert read_value("tasks", f"[a,{label} , b[c=1]]", list) == ["a", label, "b[c=1]"]
    assert read_value("tasks", label, list) == [label]
    outer = plugin.label({"like": exact(label), "other": exact(root)})
    assert plugin.bind(notation.parse_label(outer)[1]) == values | {
        "free": 0,
        "root": "x",
        "like": label,
        "other": root,
    }


VALUES = {
    "isal": {"k": st.integers(1, 10**6), "reference": st.sampled_from(["file", "test", "held_out", "train"])},
    "coreset": {"metric": st.sampled_from(["euclidean", "cosine"])},
    "discriminative": {"lr": st.floats(), "epochs": st.integers(), "num_queries": st.integers(), "x": st.none()},
    "learning_loss": {name: st.integers() | st.floats() for name in ("weight", "margin")},
}


@settings(QUICK, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.data())
def test_a_spec_read_from_its_label_is_the_same(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(VALUES)))
    given = {key: data.draw(values) for key, values in VALUES[name].items() if data.draw(st.booleans())}
    try:
        spec = Spec.read("strategy", {name: given})
    except ValueError:
        assume(False)
    again = Spec.read("strategy", spec.label)
    assert (again, again.values, again.label) == (spec, spec.values, spec.label)


SIZES = st.integers(-1, 10**9)
UNTIL = st.just("") | st.from_regex(r"\A[A-Za-z_]\w{0,8} {1,2}\d{1,9}(\.\d{1,9})? \+- \d{1,9}(\.\d{1,9})?\Z") | TEXT


@QUICK
@given(SIZES, SIZES, SIZES, SIZES, st.sampled_from(["images", "boxes", "pints"]), UNTIL)
def test_a_schedule_is_one_line_or_reads_back_and_names_a_folder(
    initial: int, budget: int, rounds: int, validation: int, budget_in: Any, until: str
) -> None:
    def build() -> Schedule:
        return Schedule(initial, budget, rounds, validation, budget_in, until)

    words = refusal(build)
    if words is not None:
        assert "\n" not in words
        return
    schedule = build()
    assert Schedule(**schedule.identity()) == schedule
    assert set(schedule.label) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-")
    assert schedule.label not in ("", ".", "..")


@QUICK
@given(UNTIL)
def test_a_band_is_read_or_refused_in_one_line(until: str) -> None:
    words = refusal(lambda: parse_band(until))
    assert words is None or "\n" not in words
    if words is None:
        metric, value, width = parse_band(until)
        assert parse_band(f"{metric} {value:f} +- {width:f}") == (metric, value, width)
