"""A task that the grid does not have gets strategies that it serves and a schedule by the size of its pool."""

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import pytest
from _cells import FAULTY
from typer.testing import CliRunner

from benchmark import config
from benchmark.cli import commands
from benchmark.experiment.grid import Grid
from benchmark.experiment.own_data import SIZES, OwnDataDefaults
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.plugins.paths import CONFIGS

DEFAULTS = OwnDataDefaults.read(CONFIGS / "own_data.yaml")
FOLDER = "image_folder[root=x]"


@pytest.fixture(autouse=True)
def discovered() -> None:
    discovery.discover(FAULTY)


def grid(*words: str, pool: int | None = 366, recorded: Any = None) -> Grid:
    """The grid of these words, where every task has a pool of that size; None: none may be asked for."""

    def num_pool(task: Spec) -> int:
        assert pool is not None
        return pool

    return config.build_grid(config.compose_settings(words), num_pool, recorded or {})


def names(built_grid: Grid) -> list[str]:
    return [strategy.label for strategy in built_grid.experiments[0].strategies]


@pytest.mark.parametrize(
    ("task", "strategies"),
    [
        (FOLDER, ["random", "entropy", "margin", "coreset", "badge"]),
        ("tiny_imagenet", ["random", "entropy", "margin", "coreset", "badge"]),
        ("image_folder[root=x,dropout=0.1]", ["random", "entropy", "margin", "coreset", "badge"]),
        ("voc[root=x]", ["random", "entropy", "margin", "coreset"]),
        ("cityscapes", ["random", "entropy", "margin", "coreset"]),
        ("shelf", ["random", "entropy", "margin"]),
    ],
)
def test_strategies_that_the_task_serves(task: str, strategies: list[str]) -> None:
    """None of the grid's, and so nothing about `bald`, which nobody asked for."""
    built_grid = grid(f"tasks=[{task}]")
    assert names(built_grid) == strategies
    assert built_grid.cells()
    assert f"strategies=[{','.join(strategies)}] seeds=3" in built_grid.remarks[0]


def test_the_schedule_of_the_grid_is_not_inherited() -> None:
    built_grid = grid(f"tasks=[{FOLDER}]")
    assert built_grid.experiments[0].schedule == Schedule(initial=20, budget=20, rounds=5, validation=0)
    assert built_grid.remarks == (
        "image_folder[root=x] is not in grid=quick; what you did not set: "
        "threads=1 strategies=[random,entropy,margin,coreset,badge] seeds=3 initial=20 budget=20 rounds=5 validation=0 "
        "(a pool of 366 images)",
    )


@pytest.mark.parametrize(
    ("pool", "step", "rounds"),
    [
        (1, 1, 1),
        (2, 1, 2),
        (4, 1, 4),
        (12, 1, 5),
        (100, 10, 5),
        (366, 20, 5),
        (5011, 200, 5),
        (50_000, 1000, 5),
        (10**7, 1000, 5),
    ],
)
def test_a_schedule_by_the_size_of_the_pool(pool: int, step: int, rounds: int) -> None:
    schedule = grid(f"tasks=[{FOLDER}]", pool=pool).experiments[0].schedule
    assert (schedule.initial, schedule.budget, schedule.rounds, schedule.validation) == (step, step, rounds, 0)
    schedule.check_pool_size(pool)


def test_it_fits_every_pool_and_keeps_what_is_given() -> None:
    draw = random.Random(0)
    for pool in [*range(1, 300), *(draw.randrange(300, 10**6) for _ in range(100))]:
        given = {name: draw.randrange(1, pool + 1) for name in SIZES[:3] if draw.random() < 0.4}
        sizes = DEFAULTS.schedule_sizes(pool, given, 0)
        assert given.items() <= sizes.items()
        if not given or given.keys() == {"initial"} or given == {"budget": sizes["initial"]}:
            Schedule(**sizes).check_pool_size(pool)


@pytest.mark.parametrize(
    ("words", "schedule"),
    [
        (["initial=100"], (100, 100, 3, 0)),
        (["budget=30"], (30, 30, 5, 0)),
        (["initial=50", "budget=10"], (50, 10, 5, 0)),
        (["rounds=2"], (20, 20, 2, 0)),
        (["validation=200"], (20, 20, 5, 200)),
        (["strategies=[random,isal]"], (20, 20, 5, 20)),
        (["strategies=[random,isal]", "validation=7"], (20, 20, 5, 7)),
        (["budget_in=boxes", "budget=500"], (20, 500, 5, 0)),
        (["one_pass=true", "initial=0", "strategies=[random]"], (0, 20, 5, 0)),
    ],
)
def test_what_is_given_stays(words: list[str], schedule: tuple[int, ...]) -> None:
    built_schedule = grid(f"tasks=[{FOLDER}]", *words).experiments[0].schedule
    assert (built_schedule.initial, built_schedule.budget, built_schedule.rounds, built_schedule.validation) == schedule


def test_without_a_label_only_strategies_that_ask_no_model_are_chosen() -> None:
    assert names(grid(f"tasks=[{FOLDER}]", "one_pass=true", "initial=0")) == ["random"]


def test_where_all_is_given_no_task_is_built_and_nothing_is_told() -> None:
    words = ["initial=5", "budget=6", "rounds=2", "validation=0", "strategies=[margin]", "seeds=1"]
    built_grid = grid(f"tasks=[{FOLDER}]", *words, pool=None)
    assert built_grid.experiments[0].schedule == Schedule(5, 6, 2)
    assert (names(built_grid), built_grid.remarks) == (["margin"], ())


def test_what_the_results_folder_holds_goes_on() -> None:
    """At the next command the schedule is the same, whatever is in the data folder by then."""
    first = grid(f"tasks=[{FOLDER}]", "budget=7").experiments[0].schedule
    recorded = {FOLDER: first.identity()}
    again = grid(f"tasks=[{FOLDER}]", "out=there", pool=None, recorded=recorded)
    assert again.experiments[0].schedule == first
    assert again.remarks[0].endswith("initial=7 budget=7 rounds=5 validation=0 (as in there)")
    longer = grid(f"tasks=[{FOLDER}]", "rounds=9", pool=None, recorded=recorded).experiments[0].schedule
    assert (longer.initial, longer.rounds) == (7, 9)
    assert grid("tasks=[image_folder[root=y]]", recorded=recorded).experiments[0].schedule.initial == 20


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["strategies=[entrpy]"], "did you mean 'entropy'"),
        (["budget=-5"], "budget=-5: must be at least 1"),
        (["budget_in=boxes"], "budget_in=boxes: set budget=N, the number of boxes bought between two trainings"),
        (["until=map"], "must be METRIC VALUE"),
        (["tasks=[image_folder[root=x,lr=-1]]"], "lr=-1.0: must be positive"),
    ],
)
def test_what_is_wrong_with_words_is_said_before_images_are_read(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        grid(f"tasks=[{FOLDER}]", *words, pool=None)
    assert named in str(caught.value)


def test_the_grid_of_another_name_gives_the_same() -> None:
    assert grid("grid=scenes", "tasks=[tiny_imagenet]").experiments == grid("tasks=[tiny_imagenet]").experiments


NEU = "voc[backbone=small,channels=32,epochs=30,lr=0.02,max_size=256,min_size=96,precision=float32,root=neu_det]"
LENT = "what you did not set is taken from the grid's experiment"


@pytest.mark.parametrize(
    ("words", "source", "taken"),
    [
        (
            ["tasks=[digits[epochs=1]]"],
            f"digits[epochs=1] is not in grid=quick; {LENT} digits on digits",
            "initial=50 budget=50 rounds=5 validation=100 seeds=10 strategies=[random,entropy,margin,bald,coreset,"
            "badge,isal,learning_loss,geal[encoder=patch_pca,k=5]]",
        ),
        (
            ["grid=neu_det", "tasks=[voc[root=mine]]", "strategies=[random]", "seeds=2"],
            f"voc[root=mine] is not in grid=neu_det; {LENT} neu_det on {NEU}",
            "threads=1 initial=150 budget=75 rounds=3 validation=100",
        ),
        (
            ["grid=paper", "tasks=[coco[root=mine]]", "seeds=1", "strategies=[random]"],
            f"coco[root=mine] is not in grid=paper; {LENT} coco_fcos on "
            "coco[filter_empty=oracle,model=mmdet:fcos,published=true]",
            "workers=8 initial=5000 budget=1000 rounds=20 until=map 0.22 +- 0.003",
        ),
    ],
)
def test_what_another_task_of_the_grid_lends_is_told(words: list[str], source: str, taken: str) -> None:
    [remark] = grid(*words, pool=None).remarks
    assert remark.startswith(source)
    assert taken in remark


def test_what_the_grid_sets_for_all_its_tasks_is_told_unless_it_is_set() -> None:
    assert "workers=8" not in grid("grid=paper", "tasks=[coco[root=mine]]", "workers=2", pool=None).remarks[0]
    assert "threads=1" in grid(f"tasks=[{FOLDER}]").remarks[0]
    assert "threads=1" not in grid(f"tasks=[{FOLDER}]", "threads=4").remarks[0]


ALL_SET = ["initial=5", "budget=6", "rounds=2", "validation=0", "strategies=[margin]", "seeds=1"]


@pytest.mark.parametrize(
    "words", [["tasks=[digits]"], ["grid=scenes", "tasks=[scenes]"], ["tasks=[digits[epochs=1]]", *ALL_SET]]
)
def test_nothing_is_told_where_nothing_is_lent(words: list[str]) -> None:
    assert grid(*words, pool=None).remarks == ()


def test_strategies_that_a_grid_writes_as_mappings_are_told_as_they_are_typed() -> None:
    strategies = [{"coreset": {"metric": "cosine"}}, "random"]
    sizes = {"initial": 5, "budget": 5, "rounds": 2}
    entry = {"task": {"digits": {"epochs": 2}}, "strategies": strategies, "seeds": [3], **sizes}
    chosen = dataclasses.replace(config.compose_settings(["tasks=[digits[epochs=1]]"]), experiments={"one": entry})
    assert config.build_grid(chosen).remarks == (
        f"digits[epochs=1] is not in grid=quick; {LENT} one on digits[epochs=2]: "
        "threads=1 strategies=[coreset[metric=cosine],random] seeds=[3] initial=5 budget=5 rounds=2",
    )


# --- as people type it ------------------------------------------------------------------------
def invoked(*words: str) -> Any:
    return CliRunner().invoke(commands.app, ["run", *words])


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dry_run=true"],
        ["strategies=[bald]"],
        ["strategies=[bald]", "initial=5", "budget=5", "rounds=2"],
        ["strategies=[isal]", "initial=5", "budget=5", "rounds=2", "validation=0", "dry_run=true"],
    ],
)
def test_a_folder_that_is_not_there_is_said_before_anything_about_strategies(tmp_path: Path, words: list[str]) -> None:
    done = invoked("tasks=[image_folder[root=typo]]", f"data={tmp_path}", f"out={tmp_path / 'out'}", *words)
    assert isinstance(done.exception, ValueError)
    assert str(done.exception).startswith(f"image_folder[root=typo]: no such folder: {tmp_path / 'typo'}")
    assert not (tmp_path / "out").exists()


def test_a_run_tells_what_nobody_set_and_the_next_command_goes_on(tmp_path: Path) -> None:
    words = [f"plugins={FAULTY}", f"out={tmp_path}", "device=cpu", "seeds=1"]
    first = invoked("tasks=[shelf]", *words)
    assert first.exit_code == 0, first.output
    line = "shelf is not in grid=quick; what you did not set: threads=1 strategies=[random,entropy,margin] initial=10"
    assert line in " ".join(first.stderr.split())
    again = invoked("tasks=[shelf]", *words, "strategies=[random]")
    assert again.exit_code == 0, again.output
    assert f"initial=10 budget=10 rounds=5 validation=0 (as in {tmp_path})" in " ".join(again.stderr.split())
    assert "0 to do" in again.stderr
    estimate = invoked("tasks=[shelf]", *words, "dry_run=true")
    assert estimate.exit_code == 0, estimate.output


def test_a_dry_run_without_data_tells_what_it_can(tmp_path: Path) -> None:
    """How many cells, rounds and fits there are, and what is missing for hours."""
    words = ["grid=neu_det", f"data={tmp_path}", f"out={tmp_path / 'out'}", "device=cpu", "dry_run=true", "format=json"]
    done = invoked(*words)
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)
    assert [(row["strategy"], row["cells"], row["rounds"], row["fit h"]) for row in rows[:2]] == [
        ("random", 2, 6, None),
        ("coreset", 2, 6, None),
    ]
    assert f"missing: voc[root=neu_det] (neu_det): put it into {tmp_path / 'neu_det'}" in " ".join(done.stderr.split())
    assert "hours are not known" in done.stderr
