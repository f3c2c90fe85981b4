"""Words on the command line become cells; what does not fit is named in one line."""

import dataclasses
import re
from pathlib import Path

import pytest
from _cells import FAULTY, cell

from benchmark import config
from benchmark.analysis.stats import min_runs_to_reject
from benchmark.experiment.cell import Cell
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery, paths, registry
from benchmark.records.record import Record
from benchmark.records.store import Store
from benchmark.text import words as text_words

REFERENCE = Path(__file__).parent.parent / "results" / "reference"
UNTIL = "map 0.22 +- 0.003"


@pytest.fixture(autouse=True)
def discovered() -> None:
    discovery.discover(FAULTY)


def cells(*words: str) -> list[Cell]:
    return config.build_grid(config.compose_settings(words)).cells()


def test_all_holds_every_strategy_that_comes_with_the_package_and_every_kind_of_task() -> None:
    all_cells = cells("grid=all")
    own = {path.stem for path in (Path(__file__).parent.parent / "strategies").glob("[!_]*.py")}
    assert {cell.strategy.name for cell in all_cells} == own
    assert {cell.task.name for cell in all_cells} == {"digits", "scenes", "scene_masks"}
    assert {cell.seed for cell in all_cells} == {0, 1, 2}


def test_quick_is_the_default_and_can_give_verdicts() -> None:
    """Nine strategies are eight comparisons, for which Holm's correction leaves room from nine seeds on."""
    digits = cells("tasks=[digits]")
    names = {cell.strategy.name for cell in digits}
    assert names == {"random", "entropy", "margin", "bald", "coreset", "badge", "isal", "learning_loss", "geal"}
    assert len({cell.seed for cell in digits}) >= min_runs_to_reject(0.95, len(names) - 1)
    assert {cell.task.label for cell in cells()} == {"digits", "scenes", "scenes[model=faster_rcnn]"}


def test_all_has_every_strategy_of_classification_on_digits() -> None:
    own = {"random", "entropy", "margin", "least_confidence", "bald", "coreset", "badge", "isal", "gradient_similarity"}
    own |= {"learning_loss", "discriminative", "geal", "freesel", "vaal", "typiclust", "probcover", "cdal", "alfa_mix"}
    own |= {"max_herding", "uncertainty_herding", "power_bald", "softmax_bald", "batch_bald", "bait", "tcm", "dcom"}
    own |= {"dropquery", "galaxy", "centroids", "active_ft", "bilaf"}
    assert {cell.strategy.name for cell in cells("grid=all", "tasks=[digits]")} == own


def test_every_detection_strategy_is_in_scenes_on_both_detectors() -> None:
    both = {
        "random",
        "entropy",
        "margin",
        "least_confidence",
        "coreset",
        "learning_loss",
        "isal",
        "gradient_similarity",
    }
    both |= {"localization_stability", "box_count", "matched_random"}
    scene_cells = cells("grid=scenes")
    by_task = {
        label: {c.strategy.name for c in scene_cells if c.task.label == label}
        for label in {c.task.label for c in scene_cells}
    }
    assert by_task == {"scenes": both, "scenes[model=faster_rcnn]": both | {"localization_tightness"}}


def test_a_task_with_other_parameters_takes_the_place_of_its_like() -> None:
    [own] = {(cell.task.label, cell.schedule.initial) for cell in cells("tasks=[scenes[epochs=3]]")}
    assert own == ("scenes[epochs=3]", 40)


def test_overrides_beat_the_grid() -> None:
    digit_cells = cells(
        "tasks=[digits]", "strategies=[random,coreset[metric=cosine]]", "seeds=[4,7]", "rounds=2", "initial=10"
    )
    assert [(cell.strategy.label, cell.seed) for cell in digit_cells] == [
        ("random", 4),
        ("coreset[metric=cosine]", 4),
        ("random", 7),
        ("coreset[metric=cosine]", 7),
    ]
    assert digit_cells[0].schedule == Schedule(initial=10, budget=50, rounds=2, validation=100)


def test_one_meaning_has_one_spelling() -> None:
    plain, spelled = Spec.read("strategy", "coreset"), Spec.read("strategy", {"coreset": {"metric": "euclidean"}})
    assert plain == spelled
    assert plain.label == "coreset"


def test_the_key_holds_all_that_moves_numbers() -> None:
    base = cells("tasks=[digits]", "seeds=1", "strategies=[coreset]")[0]
    others = [
        cells("tasks=[digits]", "seeds=[1]", "strategies=[coreset]")[0],
        cells("tasks=[digits]", "seeds=1", "strategies=[coreset[metric=cosine]]")[0],
        cells("tasks=[digits]", "seeds=1", "strategies=[coreset]", "budget=49")[0],
        cells("seeds=1", "strategies=[coreset]", "tasks=[digits[epochs=1]]")[0],
    ]
    assert len({cell.key for cell in [base, *others]}) == 5
    assert len({cell.path for cell in [base, *others]}) == 5
    assert cells("tasks=[digits]", "seeds=1", "strategies=[coreset]", "device=cpu", "out=elsewhere")[0].key == base.key


GRIDS = {path.name: [f"grid={path.name}"] for path in sorted(REFERENCE.iterdir())}
SETS = ["tasks=[digits]", "strategies=[random,margin,coreset,badge]", "seeds=30"]
GRIDS["variance"] = ["grid=quick", *SETS]  # with runs beside that vary training or selection


@pytest.mark.parametrize("name", GRIDS)
def test_committed_records_are_those_of_their_grid(name: str) -> None:
    grid_cells = {cell.path: cell for cell in cells(*GRIDS[name])}
    headers = {path: Store(REFERENCE / name).records(path)[0] for path in grid_cells}
    recorded = {path: header for path, header in headers.items() if header is not None}
    assert {path: item.cell["schedule"] for path, item in recorded.items()} == {
        path: item.schedule.identity() for path, item in grid_cells.items()
    }
    assert {path: item.key for path, item in recorded.items()} == {path: item.key for path, item in grid_cells.items()}


def test_a_schedule_tells_how_it_counts_and_ends_only_where_it_was_asked() -> None:
    plain = {"initial": 500, "budget": 1000, "rounds": 10, "validation": 20}
    assert Schedule(**plain).identity() == plain
    assert Schedule(**plain).label == "500+1000x9v20"
    both = Schedule(**plain, budget_in="boxes", until=UNTIL)
    assert both.identity() == plain | {"budget_in": "boxes", "until": UNTIL}
    assert both.label == "500+1000boxesx9v20_until_map_0.22+-0.003"
    assert Schedule(500, 1000, 10, budget_in="boxes").label == "500+1000boxesx9"
    assert re.fullmatch(r"[A-Za-z0-9_+.=,-]+", both.label)
    assert Schedule(**both.identity()) == both


def test_how_a_schedule_counts_and_ends_is_in_the_key_and_the_path() -> None:
    words = ["seeds=1", "strategies=[random]"]
    more = [["until=map 0.22 +- 0.003"], ["until=map 0.22 +- 0.002"], ["budget_in=boxes"]]
    variants = [cells(*words)[0], *(cells(*words, *item)[0] for item in more)]
    assert len({item.key for item in variants}) == len({item.path for item in variants}) == 4
    same = cells(*words, "until=map  0.220 +-  0.0030", "budget_in=images")[0]
    assert (same.key, same.path) == (variants[1].key, variants[1].path)
    assert cells(*words, "until=null", "budget_in=null")[0].key == variants[0].key


@pytest.mark.parametrize(
    ("score", "reached"), [(0.0, False), (0.2169999, False), (0.217, True), (0.22, True), (0.223, True), (0.9, True)]
)
def test_a_cell_ends_in_the_band_or_past_it(score: float, reached: bool) -> None:
    schedule = Schedule(5, 5, 3, until=UNTIL)
    records = [Record(number, 5, [], {}, {"map": value}) for number, value in enumerate([0.1, score])]
    assert schedule.reaches_target({"map": score}) == schedule.is_finished(records) == reached
    assert not Schedule(5, 5, 3).is_finished(records)
    assert Schedule(5, 5, 2, until="map 1 +- 0").is_finished(records)
    assert not schedule.is_finished([])


def test_a_band_of_a_score_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match=r"until=map 0\.22 \+- 0\.003: there is no score map, there are: acc, loss"):
        Schedule(5, 5, 3, until=UNTIL).reaches_target({"loss": 1.0, "acc": 0.5})


def test_of_a_budget_of_boxes_only_the_start_is_known() -> None:
    Schedule(30, 10**6, 10, 20, budget_in="boxes").check_pool_size(50)
    with pytest.raises(ValueError, match=r"buys 50 labels of a pool of 49: lower initial= or validation=$"):
        Schedule(30, 1, 10, 20, budget_in="boxes").check_pool_size(49)
    with pytest.raises(ValueError, match=r"buys 59 labels of a pool of 58: lower rounds=, budget=, initial="):
        Schedule(30, 1, 10, 20).check_pool_size(58)


def test_daggers_say_in_words_what_was_seen() -> None:
    saw, cut = "selection saw evaluation labels", "the pool was cut by its boxes"
    tested = "isal[reference=test]"
    assert cell("random").daggers == cell("random", task="shelf").daggers == ()
    assert cell(tested).daggers == (saw,)
    assert cell("random", task="shelf[peeked=true]").daggers == (cut,)
    assert cell(tested, task="shelf[peeked=true]").daggers == (saw, cut)


def test_experiments_share_their_cells() -> None:
    grid = config.build_grid(config.compose_settings(["grid=paper"]))
    k, reference = (next(e for e in grid.experiments if e.name == f"ablation_{name}") for name in ("k", "reference"))
    shared = {cell.path for cell in k.cells()} & {cell.path for cell in reference.cells()}
    assert len(shared) == 5  # ISAL as published, five seeds
    assert len(grid.cells()) < sum(len(list(e.cells())) for e in grid.experiments)


def test_tasks_selects_experiments_of_the_grid() -> None:
    grid = config.build_grid(config.compose_settings(["grid=paper", "tasks=[cifar100,svhn]"]))
    assert [e.name for e in grid.experiments] == ["cifar100", "svhn"]


@pytest.mark.parametrize("name", paths.grid_names())
def test_every_grid_expands(name: str) -> None:
    assert cells(f"grid={name}")


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["sed=3"], "did you mean 'seeds'"),
        (["grid=papre"], "did you mean 'paper'"),
        (["strategies=[ramdom]"], "did you mean 'random'"),
        (["tasks=[digit]"], "did you mean 'digits'"),
        (["grid=paper", "tasks=[cifar]"], "did you mean 'cifar10"),
        (["strategies=[coreset[metrc=cosine]]"], "did you mean 'metric'"),
        (["strategies=[coreset[metric=manhattan]]"], "must be one of euclidean, cosine"),
        (["strategies=[isal[k=two]]"], "must be a whole number"),
        (["tasks=[digits[epochs=1.5]]"], "must be a whole number"),
        (["strategies=[{coreset:5}]"], "is not a name"),
        (
            ["tasks=[digits[compile=true]]", "strategies=[learning_loss]"],
            "learning_loss needs a module that is trained beside the model (companion): digits[compile=true]",
        ),
        (["seeds=many"], "seeds=many: must be a number of seeds, a list of seeds, or auto"),
        (["seeds=[]"], "seeds=[]"),
        (["seeds=[-1]"], "seeds=[-1]"),
        (["rounds=0"], "rounds=0: must be at least 1"),
        (["budget=-5"], "budget=-5: must be at least 1"),
        (["strategies=[]"], "nothing to run"),
        (["tasks=[]"], "nothing to run"),
        (["strategies=[random"], "strategies=[random: a bracket is not closed"),
        (["fast"], "is not key=value"),
        (["experiments=3"], "no setting of this command is called 'experiments'"),
        (["validation=0", "strategies=[isal]"], "set validation=N"),
        (
            ["tasks=[digits[dropout=0.0]]", "strategies=[bald]"],
            "(dropout=0.1 or so) (sample): digits[dropout=0.0] does not provide it",
        ),
        (["threads=0"], "threads=0: must be at least 1"),
        (["workers=-1"], "workers=-1: must be at least 0"),
        (["workers=many"], "must be a whole number"),
        (["budget_in=pints"], "budget_in=pints: must be images or boxes"),
        (["until=map 0.22"], "until='map 0.22': must be METRIC VALUE +- WIDTH, as in until=\"map 0.22 +- 0.003\""),
        (["until=0.22 +- 0.003"], "must be METRIC VALUE +- WIDTH"),
        (["until=map 0.22 ± 0.003"], "must be METRIC VALUE +- WIDTH"),
        (["until=map .22 +- 0.003"], "must be METRIC VALUE +- WIDTH"),
        (["until=map 0.22 +- -1"], "must be METRIC VALUE +- WIDTH"),
        (["until=map nan +- 0.003"], "must be METRIC VALUE +- WIDTH"),
        (["until=../x 0.22 +- 0.003"], "must be METRIC VALUE +- WIDTH"),
        (["until=map 0.22 +- 0.003\n"], "must be METRIC VALUE +- WIDTH"),
        (["cache_gb=-1"], "cache_gb=-1"),
        (["cache_gb=nan"], "cache_gb=nan"),
        (["format=xml"], "must be one of text, json"),
        (["tasks=[image_folder]"], "image_folder[root=...] must be given"),
        (["tasks=[digits"], "tasks=[digits: a bracket is not closed: [digits]; text with commas, brackets or quotes"),
        (["tasks=[digits[epochs=2]"], "tasks=[digits[epochs=2]: a bracket is not closed: [digits[epochs=2]]"),
        (["tasks=digits]"], "tasks=digits]: the ] has no opening bracket"),
        (
            ["tasks=[image_folder[root=a,b]]"],
            "'b' is not key=value; text with commas, brackets or quotes goes into quotes",
        ),
        (["tasks=[image_folder[root='a]]"], "the quote ' is not closed; text with commas"),
        (["tasks=[digits[epochs=2,epochs=3]]"], "epochs is given twice"),
        (["one_pass=yes"], "one_pass=yes: must be true or false or null"),
        (["strategies=[{isal:{k:2]"], "the ] has no opening bracket"),
        (["strategies=[{isal:{k}}}]"], "the } has no opening bracket"),
        (
            ["strategies=[{isal:{:}}]"],
            "{:} is not a mapping {name: {key: value}}: write name",
        ),
        (
            ["tasks=[scenes]", "strategies=[localization_tightness]"],
            "(proposals): scenes does not provide it",
        ),
        (["grid", "quick"], "'grid' is not key=value; a value with spaces or brackets goes into quotes: 'key=value'"),
    ],
)
def test_bad_input_is_one_clear_line(words: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=r".") as caught:
        cells(*words)
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("label", ["a[root=../../etc]", "a[root=/x/y]", "...", "a[b=" + "x" * 300 + "]", "a[b=ü c]"])
def test_a_label_never_becomes_a_path(label: str) -> None:
    name = text_words.slug(label)
    assert "/" not in name
    assert not name.startswith(".")
    assert 0 < len(name) <= 110


def test_different_labels_have_different_folders() -> None:
    labels = ["a[b=1]", "a[b=1,c=2]", "a[b=/1]", "a[b=_1]", "a-b=1", "a[b=?1]", "a[b=1]]"]
    assert len({text_words.slug(label) for label in labels}) == len(labels)


def test_folders_may_be_called_anything() -> None:
    for name in ("it's here", "a=b", "dir\\", "${x}", "[a"):
        assert config.compose_settings([f"out={name}", f"data={name}"]).out == name
    assert config.compose_settings(["data=null"]).data is None


def test_one_name_needs_no_brackets() -> None:
    assert [cell.strategy.label for cell in cells("tasks=[digits]", "strategies=isal[k=2]", "seeds=1")] == ["isal[k=2]"]


def test_text_parameters_stay_text() -> None:
    for text in ("image_folder[root=2024]", {"image_folder": {"root": "2024"}}):
        assert Spec.read("task", text).values["root"] == "2024"


SOUND = {"task": "digits", "strategies": ["random"], "seeds": 1, "initial": 5, "budget": 5, "rounds": 1}


@pytest.mark.parametrize(
    ("entry", "named"),
    [
        ({}, "lacks task"),
        ({key: value for key, value in SOUND.items() if key != "rounds"}, "lacks rounds"),
        (SOUND | {"strategies": "random"}, "strategies=random"),
        (SOUND | {"budget": 5.5}, "budget=5.5"),
        ({"tusk": "digits"}, "did you mean 'task'"),
        (SOUND | {"until": 0.22}, "until=0.22"),
        (SOUND | {"budget_in": None}, "budget_in=None"),
    ],
)
def test_a_faulty_grid_file_is_named(entry: dict[str, object], named: str) -> None:
    chosen = dataclasses.replace(config.compose_settings([]), experiments={"x": entry})
    with pytest.raises(ValueError, match=r"grid=quick: x") as caught:
        config.build_grid(chosen)
    assert named in str(caught.value)


def test_a_grid_file_may_count_boxes_and_end_by_score_and_the_command_line_has_the_last_word() -> None:
    entry = SOUND | {"budget_in": "boxes", "until": UNTIL}
    chosen = dataclasses.replace(config.compose_settings([]), experiments={"x": entry})
    [experiment] = config.build_grid(chosen).experiments
    assert experiment.schedule == Schedule(5, 5, 1, 0, "boxes", UNTIL)
    [plain] = config.build_grid(dataclasses.replace(chosen, budget_in="images", until="")).experiments
    assert plain.schedule == Schedule(5, 5, 1)


def test_a_strategy_inside_another_keeps_its_commas() -> None:
    first, _ = cells("tasks=[scenes]", "seeds=1", "strategies=[matched_random[like=isal[k=1,depth=5],min_score=0.5]]")
    assert first.strategy.values == {"like": "isal[depth=5]", "min_score": 0.5}  # k=1 is its default
    two, _ = cells("tasks=[scenes]", "seeds=1", "strategies=[{matched_random: {like: 'isal[depth=5]'}}]")
    assert two.strategy.label == "matched_random[like=isal[depth=5]]"


def test_versions_of_what_a_strategy_names_are_in_its_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        first, *_ = cells("tasks=[digits]", "strategies=[matched_random[like=geal[encoder=patch_pca]]]")
        identity = first.strategy.identity()
        assert identity["strategies"] == {"geal[encoder=patch_pca]": registry.get("strategy", "geal").version}
        assert identity["encoders"] == {"patch_pca": registry.get("encoder", "patch_pca").version}
        return first.key

    keys = [key()]
    for kind, name in (("strategy", "geal"), ("encoder", "patch_pca")):
        plugin = registry.get(kind, name)
        monkeypatch.setitem(registry.REGISTRY[kind], name, dataclasses.replace(plugin, version=plugin.version + 1))
        keys.append(key())
    assert len(set(keys)) == 3


def test_names_nest_on_the_command_line() -> None:
    label = "matched_random[like=geal[encoder=patch_pca[patch=4]]]"
    [strategy] = (
        config.build_grid(config.compose_settings([f"strategies=[{label}]", "tasks=[digits]"]))
        .experiments[0]
        .strategies
    )
    assert strategy.label == label
