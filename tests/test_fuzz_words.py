"""Words of the command line and YAML files: a grid or records, or one line that says what does not fit."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from _fuzz import SIZES, TEXT, corpus, damaged, folder, judged, mutated
from hypothesis import strategies as st

from benchmark import config
from benchmark.analysis.options import parse_options
from benchmark.analysis.settings import setting_types
from benchmark.experiment.own_data import OwnDataDefaults
from benchmark.plugins import discovery
from benchmark.plugins.paths import CONFIGS, grid_names


@pytest.fixture(autouse=True, scope="module")
def discovered() -> None:
    """Every plug-in."""
    discovery.discover()


KEYS = [*config.Settings.__dataclass_fields__]
VALUES = ["digits", "random", "[random,margin]", "1", "2", "[0,1]", "3", "true", "cpu", "quick", "null"]
PAIR = "{}={}".format
WORD = st.builds(PAIR, st.sampled_from(KEYS), st.sampled_from(VALUES) | TEXT) | TEXT
LIKELY = st.sampled_from(
    ["seeds=2", "strategies=random", "tasks=digits", "rounds=3", "budget=5", "out=x", "device=cpu"]
)
OWN = yaml.safe_load((CONFIGS / "own_data.yaml").read_text(encoding="utf-8"))
YAMLS = [
    "",
    "[" * 3000,
    "a: *b",
    "!!python/object/apply:os.getcwd []",
    "a: &a [*a]",
    "\t",
    "{",
    "a: b: c",
    "? x",
    "--- 1\n--- 2",
]
FOLDERS = [
    "x",
    "a,b",
    "[a,b]",
    '["a,b"]',
    "~",
    "~nobody/x",
    "published",
    "/dev/null",
    "/dev/zero",
    "\0",
    "..",
    "x" * 500,
]


def words_judged(data: st.DataObject) -> str:
    """Odd words of a run."""
    words = data.draw(st.lists(WORD | LIKELY, min_size=1, max_size=3))
    return judged(
        lambda: config.build_grid(config.compose_settings(words)).cells(), lambda cells, lines: bool(cells), ""
    )


def defaults_judged(data: st.DataObject) -> str:
    """An odd own_data.yaml."""
    with folder() as root:
        path = root / "own_data.yaml"
        text = yaml.safe_dump(mutated(data, OWN)) if data.draw(st.integers(0, 3)) else data.draw(st.sampled_from(YAMLS))
        path.write_bytes(damaged(data, text.encode("utf-8", "surrogatepass")))

        def check(defaults: OwnDataDefaults, lines: list[str]) -> bool:
            assert set(defaults.strategies_for(frozenset({"classify"}))) <= set(defaults.strategies)
            assert all(size >= 0 for pool in (1, 10, 10**6) for size in defaults.schedule_sizes(pool, {}, 0).values())
            return True

        return judged(lambda: OwnDataDefaults.read(path), check, path)


def question_judged(data: st.DataObject) -> str:
    """Odd words of an analysis command."""
    verb = data.draw(st.sampled_from(["savings", "tables"]))
    keys = list(setting_types(verb))
    pairs = data.draw(
        st.lists(st.tuples(st.sampled_from(keys), st.sampled_from(FOLDERS) | TEXT), max_size=3)
        | st.just([("records", "published"), ("task", "")])
    )
    words = [f"{key}={value}" for key, value in pairs]

    def build() -> Any:
        options = parse_options(words, verb)
        return options.read_experiments(), options.published_paths, options.output_folder

    return judged(build, lambda result, lines: bool(result[0]), "")


@SIZES
def test_words_of_a_run_are_cells_or_one_line(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    grids = {name: config.compose_grid(name) for name in grid_names()}  # Hydra's composition depends on the name alone
    monkeypatch.setattr(config, "compose_grid", lambda name: copy.deepcopy(grids[name]))
    corpus("words of a run", number, words_judged)


@SIZES
def test_own_data_yaml_is_read_or_refused(number: int) -> None:
    corpus("own_data.yaml", number, defaults_judged)


@SIZES
def test_words_of_an_analysis_are_records_or_one_line(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    corpus("records= and out=", number, question_judged)
