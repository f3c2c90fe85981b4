"""Each audit catches the fault that was planted for it, and finds none where there is none."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from _curves import PLAIN, curve, experiment, recorded
from msgspec import structs
from PIL import Image
from typer.testing import CliRunner

from benchmark.analysis.audit import CHECKS, Fault, find_faults
from benchmark.analysis.curves import Curve, Experiment
from benchmark.analysis.load_experiments import read_experiments, read_stores
from benchmark.analysis.options import PUBLISHED_FOLDER
from benchmark.analysis.published import read_curve_file
from benchmark.analysis.tables import build_tables, to_latex, to_markdown
from benchmark.cli.commands import app
from benchmark.plugins import discovery, registry
from benchmark.records.checksummed_lines import encode_line, read_lines
from benchmark.records.image_file_list import Sources
from benchmark.records.record import Record
from benchmark.records.store import Store

HOME = Path(__file__).parents[1]
CELL = "made/mine/seed-1"


def store_faults(store: Store) -> list[Fault]:
    [results] = read_stores([store])
    return find_faults(results)


def changed(store: Store, number: int, cell: str = CELL, **fields: object) -> None:
    """Writes a round of a cell again, soundly sealed."""
    path = store.path(cell)
    lines = [encode_line(body) for body in read_lines(path)[0]]
    body = structs.asdict(store.records(cell)[1][number]) | fields
    lines[number + 1] = encode_line(body)
    path.write_bytes(b"".join(lines))


def test_clean_records_pass(tmp_path: Path) -> None:
    assert store_faults(recorded(tmp_path, PLAIN)) == []


@pytest.mark.parametrize("folder", sorted(path.parent.name for path in HOME.glob("results/reference/*/grid.json")))
def test_committed_runs_pass(folder: str) -> None:
    for results in read_experiments(str(HOME / "results" / "reference" / folder)):
        assert find_faults(results) == []


def cut_short(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(path.read_bytes()[:-5])


def flipped(store: Store) -> None:
    path = store.path(CELL)
    path.write_bytes(path.read_bytes().replace(b'"round": 1', b'"round": 7', 1))


def twice(store: Store) -> None:
    path = store.path(CELL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:3], lines[2]]))


def missing(store: Store) -> None:
    path = store.path(CELL)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], lines[3]]))


FAULTS: list[tuple[str, str, Callable[[Store], None]]] = [
    ("round 0 agrees", "57 in round 0, where others score 52", lambda s: changed(s, 0, scores={"accuracy": 57.0})),
    ("round 0 agrees", "starts from other data or images", lambda s: changed(s, 0, bought=[1, 2, 3, 4])),
    ("within budget", "round 1 buys 1 image of a budget of 2", lambda s: changed(s, 1, bought=[53])),
    ("within budget", "round 1 buys 1 image twice", lambda s: changed(s, 1, bought=[53, 53])),
    ("within budget", "round 1 buys 1 image bought before", lambda s: changed(s, 1, bought=[53, 10])),
    ("within budget", "round 1 buys 2 images of the held-out set", lambda s: changed(s, 1, bought=[98, 99])),
    ("within budget", "round 1 buys 1 image not in the pool", lambda s: changed(s, 1, bought=[53, 100])),
    ("within budget", "round 1 was trained on 7 images, though 6 were bought", lambda s: changed(s, 1, num_labelled=7)),
    ("within budget", "round 1 is charged 5 images for 6 bought", lambda s: changed(s, 1, cost={"images": 5.0})),
    ("within budget", "round 1 is charged 8 images for 6 bought", lambda s: changed(s, 1, cost={"images": 8.0})),
    (
        "within budget",
        "round 2 is charged fewer boxes than the round before",
        lambda s: (
            changed(s, 1, cost={"images": 6.0, "boxes": 9.0}),
            changed(s, 2, cost={"images": 8.0, "boxes": 8.0}),
        )[0],
    ),
    ("rounds are whole", "line 4 is torn", cut_short),
    ("rounds are whole", "line 3 is damaged", flipped),
    ("rounds are whole", "line 4 is out of place", twice),
    ("rounds are whole", "line 3 is out of place", missing),
    (
        "fits converged",
        "round 2 scores 20, after 63: not converged",
        lambda s: changed(s, 2, scores={"accuracy": 20.0}),
    ),
]


@pytest.mark.parametrize(("check", "message", "plant"), FAULTS, ids=[message for _, message, _ in FAULTS])
def test_a_planted_fault_is_caught(tmp_path: Path, check: str, message: str, plant: Callable[[Store], None]) -> None:
    store = recorded(tmp_path, PLAIN)
    plant(store)
    faults = [fault for fault in store_faults(store) if fault.check == check]
    assert any(message in fault.message for fault in faults), store_faults(store)
    assert {fault.where for fault in faults} == {"mine seed 1"}
    [table] = build_tables(read_stores([store]))
    assert f"AUDIT FAILED: {store_faults(store)[0].check}" in to_markdown(table)
    assert "AUDIT FAILED" in to_latex(table)
    result = CliRunner().invoke(app, ["verify", f"out={store.folder}"])
    assert result.exit_code == 1
    assert check in result.stdout


def test_held_out_labels_are_charged_in_every_round_or_in_none(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    for number, paid in enumerate((6.0, 8.0, 10.0)):  # two more than bought: those that are held out
        changed(store, number, cost={"images": paid})
    assert store_faults(store) == []
    changed(store, 2, cost={"images": 8.0})
    assert [fault.message for fault in store_faults(store)] == ["round 2 is charged 8 images for 8 bought"]


def test_a_companion_may_differ_in_round_0_but_not_in_its_images(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN, companions=["mine"])
    changed(store, 0, scores={"accuracy": 40.0})
    assert store_faults(store) == []
    changed(store, 0, bought=[1, 2, 3, 4])
    assert [fault.check for fault in store_faults(store)] == ["round 0 agrees"]


def test_a_dip_that_all_share(tmp_path: Path) -> None:
    dipping = {name: {seed: [50.0 + seed, 45.0, 60.0] for seed in seeds} for name, seeds in PLAIN.items()}
    [fault] = store_faults(recorded(tmp_path, dipping))
    assert (fault.check, fault.where, fault.message) == ("no common dip", "6 images", "all 3 strategies dip")
    two = {name: dipping[name] for name in ("random", "mine")}
    assert store_faults(recorded(tmp_path / "two", two)) == []  # chance enough


def test_a_dip_is_one_of_runs_that_have_the_rounds(tmp_path: Path) -> None:
    dipping = {name: {seed: [50.0 + seed, 45.0, 60.0] for seed in seeds} for name, seeds in PLAIN.items()}
    store = recorded(tmp_path / "with", {**dipping, "late": {0: [], 1: []}})
    assert [fault.check for fault in store_faults(store)] == ["no common dip"]  # one that has not begun hides nothing
    ragged = {name: {0: [60.0 - 2, 70.0 - 2, 75.0], 1: [30.0, 35.0]} for name in PLAIN}
    ragged = {name: {0: [60.0], 1: [30.0, 35.0, 40.0]} for name in ragged}
    assert not [
        fault for fault in store_faults(recorded(tmp_path / "ragged", ragged)) if fault.check == "no common dip"
    ]


def test_budgets_of_boxes_are_enough_each_round(tmp_path: Path) -> None:
    store = recorded(tmp_path, {"mine": {0: [50.0, 60.0, 70.0]}}, boxes=[10, 19, 35], budget_in="boxes", budget=10)
    [fault] = store_faults(store)
    assert (fault.check, fault.message) == ("within budget", "round 1 has bought 9 boxes since round 0 of 10")


def of_batches(store: Store, sizes: list[int | None], intended: int | None = None) -> list[str]:
    """The faults where the fits of a cell had these smallest batches, of a recipe with this size of batches."""
    for number, size in enumerate(sizes):
        changed(store, number, smallest_batch=size, batch_size=intended)
    return [fault.message for fault in store_faults(store) if fault.check == "no tail batch"]


def test_a_tail_of_a_few_images_is_what_the_task_tells(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN, parameters={"batch_size": 16, "drop_last": False})
    assert of_batches(store, [4, 1, 8]) == ["round 1: a batch of 1 of 6 images"]
    assert of_batches(store, [15, 7, 16]) == []
    assert of_batches(store, [4, None, 8]) == []
    small = recorded(tmp_path / "small", PLAIN, parameters={"batch_size": 4})
    assert of_batches(small, [4, 3, 4]) == []  # one less than the recipe asks for
    plain = recorded(tmp_path / "plain", PLAIN)  # of a task whose recipe has no batch_size
    assert of_batches(plain, [4, 3, 8]) == ["round 1: a batch of 3 of 6 images"]


def test_a_record_that_tells_the_recipes_batch_needs_no_recipe(tmp_path: Path) -> None:
    """Of a task whose parameters call it otherwise, or say something else by that name."""
    for name, parameters in (("none", None), ("other", {"batch_size": 4})):
        store = recorded(tmp_path / name, PLAIN, parameters=parameters)
        assert of_batches(store, [4, 3, 8], intended=4) == []
        assert of_batches(store, [4, 3, 8], intended=6) == ["round 1: a batch of 3 of 6 images"]


@pytest.mark.parametrize("parameters", [{"batch_size": 5}, {"batch_size": 5, "norm": "batch"}])
def test_records_that_tell_no_batches_are_not_guessed_at(tmp_path: Path, parameters: dict[str, object]) -> None:
    assert store_faults(recorded(tmp_path, PLAIN, parameters=parameters)) == []


# --- models of no use -------------------------------------------------------------------------
def of_classes(store: Store, pairs: list[tuple[int, int]]) -> list[str]:
    """The faults where the models of a cell predict so many classes of so many."""
    for number, (predicted, total) in enumerate(pairs):
        scores = store.records(CELL)[1][number].scores
        changed(
            store, number,
            scores={**scores, "num_predicted_classes": float(predicted), "num_test_classes": float(total)},
        )  # fmt: skip
    return [fault.message for fault in store_faults(store) if fault.check == "models are of use"]


def test_models_that_predict_one_class_are_named_with_their_rounds(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    message = "one class is predicted for the whole test set, which has 4, in"
    assert of_classes(store, [(1, 4), (1, 4), (1, 4)]) == [f"{message} rounds 0 to 2"]
    assert of_classes(store, [(1, 4), (2, 4), (4, 4)]) == [f"{message} round 0"]
    assert of_classes(store, [(1, 4), (2, 4), (1, 4)]) == [f"{message} rounds 0, 2"]
    assert of_classes(store, [(0, 4), (4, 4), (4, 4)]) == [
        "nothing is predicted for the whole test set, which has 4, in round 0"
    ]
    assert of_classes(store, [(2, 4), (3, 4), (4, 4)]) == []


def test_a_run_whose_models_say_the_largest_class_fails_its_audit(tmp_path: Path) -> None:
    """Noise of four classes, three images in four of one: 75 % accuracy, and a quarter of the classes."""
    rng = np.random.default_rng(0)
    for part, sizes in (("train", [60, 8, 8, 4]), ("test", [15, 2, 2, 1])):
        for label, number in enumerate(sizes):
            folder = tmp_path / "noise" / part / f"class {label}"
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    recipe = "root=noise,size=8,model=small_cnn,epochs=2,batch_size=16,lr=0.01"
    places = [f"data={tmp_path}", f"out={tmp_path / 'run'}", f"tasks=[image_folder[{recipe}]]", "strategies=[random]"]
    sizes = ["initial=20", "budget=20", "rounds=2", "seeds=1", "validation=0", "threads=1"]
    result = CliRunner().invoke(app, ["run", *places, *sizes])
    assert result.exit_code == 0, result.output
    [results] = read_stores([Store(tmp_path / "run")])
    scores = results.runs[0].records[1].scores
    assert (scores["accuracy"], scores["balanced_accuracy"]) == (75.0, 25.0)
    [fault] = find_faults(results)
    message = "random seed 0: one class is predicted for the whole test set, which has 4, in round"
    assert str(fault) in (f"{message} 1", f"{message}s 0, 1")


def test_what_is_wrong_with_the_data_is_a_fault(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    store.save_sources("digits", Sources("data", {}, ["2 images of the pool are there before, equal to the pixel"]))
    assert store_faults(store) == []
    wrong = "FAULT: 3 of 20 test images are in the pool too, equal to the pixel"
    store.save_sources("digits", Sources("data", {}, [wrong]))
    [fault] = store_faults(store)
    assert (fault.check, str(fault)) == ("data are sound", f"the data: {wrong.removeprefix('FAULT: ')}")
    [table] = build_tables(read_stores([store]))
    assert "AUDIT FAILED: data are sound: the data: 3 of 20 test images" in to_markdown(table)
    result = CliRunner().invoke(app, ["verify", f"out={store.folder}"])
    assert result.exit_code == 1


def test_a_run_that_is_tested_on_its_pool_fails_its_audit(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for label in range(2):
            (tmp_path / "twins" / part / f"class {label}").mkdir(parents=True)
    for label in range(2):
        for index in range(30):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            for part in ("train", "test") if index < 3 else ("train",):
                Image.fromarray(pixels).save(tmp_path / "twins" / part / f"class {label}" / f"{index}.png")
    recipe = "root=twins,size=8,model=small_cnn,epochs=1,batch_size=16"
    places = [f"data={tmp_path}", f"out={tmp_path / 'run'}", f"tasks=[image_folder[{recipe}]]", "strategies=[random]"]
    sizes = ["initial=20", "budget=20", "rounds=1", "seeds=1", "validation=0", "threads=1"]
    result = CliRunner().invoke(app, ["run", *places, *sizes])
    assert result.exit_code == 0, result.output
    [results] = read_stores([Store(tmp_path / "run")])
    faults = [str(fault) for fault in find_faults(results) if fault.check == "data are sound"]
    assert len(faults) == 1
    assert faults[0].startswith("the data: ")
    assert "in the pool too" in faults[0]
    assert "6 of 6" in faults[0]


def test_a_task_of_one_class_is_predicted_as_one(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    assert of_classes(store, [(1, 1), (1, 1), (1, 1)]) == []
    assert of_classes(store, [(1, 1), (0, 1), (1, 1)]) == [
        "nothing is predicted for the whole test set, which has 1, in round 1"
    ]


def test_scores_of_next_to_nothing_are_named_and_not_called_unconverged(tmp_path: Path) -> None:
    tiny = {name: {0: [4e-7, 1e-7, 1e-9]} for name in PLAIN}
    faults = store_faults(recorded(tmp_path, tiny))
    assert {fault.check for fault in faults} == {"models are of use"}
    assert "no round scores more than 4e-07: next to nothing" in faults[0].message
    weak = {name: {0: [0.02, 0.005, 0.03]} for name in PLAIN}  # a detector's first rounds
    assert store_faults(recorded(tmp_path / "weak", weak)) == []
    fallen = {name: {0: [0.2, 0.005, 0.3]} for name in PLAIN}
    assert "fits converged" in {fault.check for fault in store_faults(recorded(tmp_path / "fallen", fallen))}
    begun = {name: {0: [0.0]} for name in PLAIN}
    assert store_faults(recorded(tmp_path / "begun", begun)) == []


# --- what chance, devices and schedules explain --------------------------------------------------
def test_a_common_dip_is_deeper_than_the_seeds_differ(tmp_path: Path) -> None:
    noisy = {name: {0: [50.0, 50.2, 51.0], 1: [50.0, 49.1, 51.0], 2: [50.0, 49.9, 51.0]} for name in PLAIN}
    assert store_faults(recorded(tmp_path / "noisy", noisy)) == []  # 0.8 below the middle, give or take 0.6
    steady = {name: {seed: [50.0, 49.7 + seed / 50, 51.0] for seed in range(3)} for name in PLAIN}
    assert [fault.check for fault in store_faults(recorded(tmp_path / "steady", steady))] == ["no common dip"]
    for depth, checks in ((1.0, []), (5.0, ["no common dip"])):  # one seed tells no spread: two points are notable
        single = {name: {0: [50.0, 50.0 - depth, 50.0]} for name in PLAIN}
        assert [fault.check for fault in store_faults(recorded(tmp_path / f"single {depth}", single))] == checks


def test_a_fall_at_the_end_is_no_dip(tmp_path: Path) -> None:
    falling = {name: {seed: [50.0 + seed, 60.0 + seed, 59.0 + seed] for seed in range(3)} for name in PLAIN}
    assert store_faults(recorded(tmp_path, falling)) == []


def test_a_papers_dip_is_deeper_than_its_spread() -> None:
    for std, checks in ((0.3, []), (0.05, ["no common dip"])):
        curves = [
            curve(name, [[90.0, 89.7, 90.0, 91.0]], seeds=(), num_runs=3, std_R=np.full(4, std)) for name in "abc"
        ]
        assert [fault.check for fault in find_faults(experiment(*curves))] == checks


def test_other_devices_may_round_otherwise(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    changed(store, 0, scores={"accuracy": 52.5})
    assert [fault.check for fault in store_faults(store)] == ["round 0 agrees"]
    path = store.path(CELL, "measured")
    bodies = read_lines(path, ordered=False)[0]
    for device, checks in {
        "NVIDIA H100": [], "cpu (AVX2, 1 threads)": [], "NVIDIA H100, deterministic": [], "cpu": ["round 0 agrees"],
    }.items():  # fmt: skip
        path.write_bytes(b"".join(encode_line(body | {"device": device}) for body in bodies))
        assert [fault.check for fault in store_faults(store)] == checks, device
    for other in ("random", "other"):  # all on one GPU: exact only where its results are
        path = store.path(f"made/{other}/seed-1", "measured")
        bodies = read_lines(path, ordered=False)[0]
        for file in (path, store.path(CELL, "measured")):
            file.write_bytes(b"".join(encode_line(body | {"device": "NVIDIA H100, deterministic"}) for body in bodies))
    assert [fault.check for fault in store_faults(store)] == ["round 0 agrees"]


def test_how_far_apart_rounds_are_is_a_papers_choice() -> None:
    doubling = [1000, 2000, 4000, 8000]
    same = [curve(name, [[1.0, 2, 3, 4]], doubling, seeds=(), num_runs=5) for name in "abc"]
    assert find_faults(experiment(*same)) == []
    other = curve("d", [[1.0, 2, 3, 4]], [1000, 2000, 4001, 8500], seeds=(), num_runs=5)
    assert [str(fault) for fault in find_faults(experiment(*same, other))] == [
        "d: round 3 has 8,500 images, of others 8,000"
    ]


def test_images_may_differ_where_boxes_are_what_is_paid() -> None:
    def bought(name: str, images: list[float], boxes: list[float]) -> Curve:
        images_only = curve(name, [[0.1, 0.2, 0.3]], images, seeds=(), num_runs=3)
        return dataclasses.replace(images_only, cost=images_only.cost | {"boxes": np.array([boxes])})

    first = bought("a", [100, 200, 300], [1000, 2000, 3000])
    assert find_faults(experiment(first, bought("b", [100, 150, 190], [1000, 2010, 3020]))) == []
    faults = find_faults(experiment(first, bought("b", [100, 150, 190], [1000, 2500, 3900])))
    assert [str(fault) for fault in faults] == [
        "b: round 1 has 150 images, of others 200", "b: round 2 has 190 images, of others 300",
    ]  # fmt: skip


def test_selection_that_saw_evaluation_labels_is_a_fault_and_a_dagger(tmp_path: Path) -> None:
    sentence = "selection saw evaluation labels"
    store = recorded(tmp_path, PLAIN, daggers={"mine": [sentence]})
    [fault] = store_faults(store)
    assert (fault.check, fault.where, fault.message) == ("selection was blind", "mine", sentence)
    [table] = build_tables(read_stores([store]))
    assert "mine†" in to_markdown(table)
    assert f"† {sentence}." in table.note
    assert "AUDIT FAILED" not in table.note  # the dagger says it already


def test_published_curves_are_audited_too() -> None:
    faults = {
        f"{paper.title}: {fault.check}: {fault}"
        for paper in read_experiments(str(PUBLISHED_FOLDER))
        for fault in find_faults(paper)
        if fault.check != "selection was blind"
    }
    assert faults == {
        "isal_2021_coco_faster_rcnn: round 0 agrees: localization_stability: 0.173333 in round 0, "
        "where others score 0.172333"
    }
    blind = {
        paper.title
        for paper in read_experiments(str(PUBLISHED_FOLDER))
        for fault in find_faults(paper)
        if fault.check == "selection was blind"
    }
    assert {"isal_2021_cifar10", "isal_2021_table1_cifar10"} <= blind


def test_tables_of_published_curves_say_audit_failed_where_it_did() -> None:
    tables = build_tables(read_experiments(str(PUBLISHED_FOLDER)))
    passing = ["isal_2021_cifar10", "isal_2021_cifar100", "isal_2021_svhn_as_published", "isal_2021_cifar10_large"]
    assert {*passing, "eval_al_2023_cifar10_2k", "eval_al_2023_cifar100_2k"} <= {table.title for table in tables}
    failed = [table.title for table in tables if "AUDIT FAILED" in to_markdown(table)]
    assert failed == ["isal_2021_coco_faster_rcnn"]


HEAD = "source,task,strategy,num_runs,round,num_labelled,metric,value,std\n"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["random,5,46.6,", "coreset,3,47.0,", "badge,3,47.0,"], ""),  # means over other runs
        (["random,3,46.6,", "coreset,3,47.0,", "badge,3,47.0,"], "random: 46.6 in round 0, where others score 47"),
        (["random,3,12.8,0.3", "coreset,3,12.6,0.6", "isal,3,12.6,0.6"], ""),  # other runs, as their spreads say
        (["random,3,40,0.3", "coreset,3,47,0.7"], "coreset: 47 in round 0, where others score 40"),
        (["random,1,40,0.3", "coreset,1,47,0.7"], "coreset: 47 in round 0, where others score 40"),
        (["random,3,45.5,", "coreset,3,45.5,", "learning_loss,3,60,"], ""),  # it trains a companion
        (["random,3,45.5,", "coreset,3,45.5,", "'learning_loss[weight=2.0]',3,60,"], ""),
        (["random,3,45.5,", "coreset,3,45.5,", "vaal,3,60,"], "vaal: 60 in round 0, where others score 45.5"),
        (["random,3,45.5,", "coreset,3,45.5,", "theirs,3,60,"], ""),  # our learning_loss, as sources.yaml says
        (["random,3,45.5,", "coreset,3,45.5,", "no (name),3,60,"], "no (name): 60 in round 0, where others score 45.5"),
    ],
)
def test_round_0_of_a_paper(tmp_path: Path, rows: list[str], message: str) -> None:
    lines = [row.replace("'", '"').split(",") for row in rows]
    text = "".join(
        f"paper,cifar10,{','.join(fields[:-2])},0,1000,accuracy,{fields[-2]},{fields[-1]}\n" for fields in lines
    )
    (tmp_path / "paper.csv").write_text(HEAD + text)
    (tmp_path / "sources.yaml").write_text("paper: {strategies: {theirs: learning_loss}}")
    [paper] = read_curve_file(tmp_path / "paper.csv")
    assert [str(fault) for fault in find_faults(paper)] == ([message] if message else [])


def test_who_declares_a_companion_is_read_without_importing_it() -> None:
    discovery.discover()
    strategies = registry.REGISTRY["strategy"]
    declaring = {name for name, plugin in strategies.items() if plugin.companion is not None}
    assert "learning_loss" in declaring
    ours = {name for name in strategies if (HOME / "strategies" / f"{name}.py").is_file()}
    assert {name for name in ours if discovery.declares_companion(name)} == declaring & ours
    assert not discovery.declares_companion("../strategies/learning_loss")
    assert not discovery.declares_companion("none of ours")


def test_a_manifest_that_tells_no_companion_has_it_from_the_strategy(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN | {"learning_loss": {0: [30.0, 64.0, 70.0]}})
    path = store.folder / "grid.json"
    manifest = json.loads(path.read_text())
    assert [fault.check for fault in store_faults(store)] == ["round 0 agrees"]  # as somebody told: not a companion
    for cell in manifest["experiments"][0]["cells"]:
        del cell["companion"]
    path.write_text(json.dumps(manifest))
    assert store_faults(store) == []


def test_every_check_was_planted() -> None:
    planted = {check for check, _, _ in FAULTS} | {
        "no common dip",
        "no tail batch",
        "selection was blind",
        "models are of use",
        "data are sound",
        "one set of versions",
    }
    assert planted == set(CHECKS)


def test_a_clean_run_exits_0_and_says_how_many_checks(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    result = CliRunner().invoke(app, ["verify", f"out={store.folder}"])
    assert result.exit_code == 0, result.output
    assert f"made_up: {len(CHECKS)} of {len(CHECKS)} checks passed" in result.stderr
    result = CliRunner().invoke(app, ["verify", f"out={store.folder}", "format=json"])
    assert json.loads(result.stdout) == [{"faults": [], "verdicts": []}]


def test_an_experiment_without_records_has_no_faults() -> None:
    empty = experiment(curve("a", np.empty((0, 3)), seeds=()))
    assert isinstance(empty, Experiment)
    assert find_faults(empty) == []
    assert Record(0, 1, [1], {"images": 1.0}, {}).diagnostics == {}
