"""`pick`: the next images to label, chosen among files that have no label."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import benchmark
from benchmark.api import Machine
from benchmark.cli.completion import suggest
from benchmark.runner.picking.formats import FORMATS
from benchmark.runner.picking.picks import Picks
from benchmark.runner.picking.pool import find_copies
from benchmark.runner.picking.sources import UnlabelledFiles
from benchmark.vision.classification import Recipe, Split, build_task

COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 40, 60)}
TASK = "image_folder[root=birds,size=8,model=small_cnn,epochs=2,batch_size=8]"
STRATEGIES = [
    "random",
    "margin",
    "coreset",
    "badge",
    "geal[encoder=patch_pca[patch=4],k=3]",
    "typiclust[encoder=patch_pca[patch=4]]",
    "isal[k=1,depth=2]",
]
MODEL_FREE = "coreset[encoder=patch_pca[patch=4]]"


def save(path: Path, colour: tuple[int, int, int], rng: np.random.Generator) -> Path:
    """Saves a noisy image of a colour; no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.array(colour) + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, quality=95)
    return path


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with eight labelled images a class, two test images each, and 40 unlabelled images in `new`."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 8), ("test", 2)):
        for name, colour in COLOURS.items():
            for i in range(number):
                save(tmp_path / "birds" / part / name / f"{part}{i}.jpg", colour, rng)
    for i in range(40):
        colour = list(COLOURS.values())[i % 3]
        subfolder = "deep/er" if i % 5 == 0 else "."
        save(tmp_path / "new" / subfolder / f"{hashlib.sha1(str(i).encode()).hexdigest()[:10]}.jpg", colour, rng)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pick(strategy: str = "random", budget: int = 6, **settings: object) -> Picks:
    settings = {"unlabelled": "new", "task": TASK, "data": ".", **settings}
    return benchmark.pick(strategy, budget, **settings)  # type: ignore[arg-type]


def refusal(strategy: str = "random", budget: int = 6, **settings: object) -> str:
    """The one line with which a pick is refused."""
    with pytest.raises(ValueError, match=r".") as caught:
        pick(strategy, budget, **settings)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def true_colour(path: Path) -> str:
    """The class of an image, as a person would say it."""
    mean = np.asarray(Image.open(path)).mean((0, 1))
    return min(COLOURS, key=lambda name: float(np.abs(mean - COLOURS[name]).sum()))


# --- what is picked ----------------------------------------------------------------------------------
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_picks_are_distinct_repeatable_and_disjoint_once_labelled(folder: Path, strategy: str) -> None:
    extra = {"validation": 6} if strategy.startswith("isal") else {}
    first = pick(strategy, to="picks.csv", **extra)
    assert len(set(first.paths)) == 6
    assert all(path.is_file() and path.is_relative_to("new") for path in first.paths)
    assert pick(strategy, **extra).paths == first.paths
    written = (folder / "picks.csv").read_bytes()
    pick(strategy, to="picks.csv", **extra)
    assert (folder / "picks.csv").read_bytes() == written

    frame = pd.read_csv("picks.csv")
    assert frame.columns.tolist() == ["rank", "path", "score"]
    assert frame["path"].tolist() == list(map(str, first.paths))
    frame["label"] = [true_colour(path) for path in first.paths]
    frame.loc[4:, "label"] = None  # two are not labelled yet
    frame.to_csv("labels.csv", index=False)
    second = pick(strategy, labelled="labels.csv", picked="picks.csv", **extra)
    assert set(second.paths).isdisjoint(first.paths)
    assert second.num_labelled == first.num_labelled + 4
    assert "picked earlier and not labelled yet, so not picked again: 2 images" in second.remarks


@pytest.mark.parametrize("strategy", ["margin", "typiclust[encoder=patch_pca[patch=4]]"])
def test_labels_that_lie_beside_the_images_change_nothing(folder: Path, strategy: str) -> None:
    before = pick(strategy).paths
    rng = np.random.default_rng(1)
    for path in sorted((folder / "new").rglob("*.jpg")):
        path.with_suffix(".txt").write_text(str(rng.integers(3)))
        path.with_suffix(".xml").write_text("<annotation><object><name>red</name></object></annotation>")
    (folder / "new" / "labels.csv").write_text("path,label\n")
    (folder / "new" / "instances.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    assert pick(strategy).paths == before


def test_the_seed_decides_what_is_random(folder: Path) -> None:
    assert pick(seed=1).paths == pick(seed=1).paths != pick(seed=2).paths


def test_scores_fall_with_the_rank_and_are_those_of_the_strategy(folder: Path) -> None:
    scores = [pick.score for pick in pick("entropy").picks]
    assert all(score is not None for score in scores)
    assert scores == sorted(scores, key=lambda score: -(score or 0.0))
    assert [pick.score for pick in pick("coreset").picks] == [None] * 6


def test_without_a_task_strategies_without_a_model_pick(folder: Path) -> None:
    picks = pick(MODEL_FREE, task=None)
    assert (picks.num_labelled, len(set(picks.paths)), picks.seconds["fit"]) == (0, 6, 0.0)
    assert pick(MODEL_FREE, task=None).paths == picks.paths


def test_nothing_is_trained_for_strategies_without_a_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.runner.picking import choose

    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(choose, "fit_round", refuse)
    for strategy in ("random", MODEL_FREE):
        assert len(pick(strategy)) == 6
    with pytest.raises(AssertionError):
        pick("margin")


def test_labelled_images_count_as_labelled_wherever_their_labels_are(folder: Path) -> None:
    """Moving an image into the folder of its class equals naming it in a file of labels, up to the pool's order."""
    labelled = sorted((folder / "new").glob("*.jpg"))[:3]
    Path("labels.csv").write_text("path,label\n" + "".join(f"{path},{true_colour(path)}\n" for path in labelled))
    by_file = pick(MODEL_FREE, labelled="labels.csv")
    assert by_file.num_labelled == 27
    for path in labelled:
        shutil.move(path, folder / "birds" / "train" / true_colour(path) / path.name)
    assert pick(MODEL_FREE).paths == by_file.paths


def test_copies_of_labelled_test_and_other_images_are_not_picked(folder: Path) -> None:
    everything = len(list((folder / "new").rglob("*.jpg")))
    sources = [
        folder / "birds/train/red/train0.jpg",
        folder / "birds/test/red/test0.jpg",
        next((folder / "new").glob("*.jpg")),
    ]
    for number, path in enumerate(sources):
        shutil.copy(path, folder / "new" / f"zz{number}.jpg")
    picks = pick("random", everything)
    assert not {path.name for path in picks.paths} & {"zz0.jpg", "zz1.jpg", "zz2.jpg"}
    assert len([line for line in picks.remarks if line.endswith("so not picked: 1 image")]) == 3


def test_copies_are_found_where_the_task_itself_reads_no_files(folder: Path) -> None:
    rng, paths = np.random.default_rng(0), sorted((folder / "new").glob("*.jpg"))[:3]
    shutil.copy(paths[0], folder / "new" / "zz.jpg")
    pool, test = (Split(rng.integers(0, 256, (n, 3, 8, 8), np.uint8), np.arange(n) % 2) for n in (4, 2))
    task = build_task(Machine(torch.device("cpu")), Recipe(model="small_cnn"), pool, test, 2)
    files = UnlabelledFiles("new", folder / "new", [*paths, folder / "new" / "zz.jpg"])
    copies, lines = find_copies(task.with_images(files.paths, {}), files, np.arange(4))
    assert copies.tolist() == [7]
    assert lines == ["equal to the pixel to another unlabelled image, so not picked: 1 image"]


# --- where unlabelled images come from --------------------------------------------------------------------
def as_text_list(folder: Path, paths: list[Path]) -> str:
    (folder / "list.txt").write_text("# comment\n" + "".join(f"{path}\n" for path in paths))
    return "list.txt"


def as_csv_list(folder: Path, paths: list[Path]) -> str:
    pd.DataFrame({"id": range(len(paths)), "path": paths}).to_csv(folder / "list.csv")
    return "list.csv"


def as_list_elsewhere(folder: Path, paths: list[Path]) -> str:
    (folder / "new" / "list.txt").write_text("".join(f"{path.relative_to('new')}\n" for path in paths))
    return "new/list.txt"


def as_coco(folder: Path, paths: list[Path]) -> str:
    images = [{"id": i, "file_name": str(path.relative_to("new"))} for i, path in enumerate(paths)]
    (folder / "new" / "images.json").write_text(json.dumps({"images": images}))
    return "new/images.json"


def as_voc(folder: Path, paths: list[Path]) -> str:
    (folder / "voc" / "SegmentationClass").mkdir(parents=True)
    Image.new("P", (8, 8)).save(folder / "voc" / "SegmentationClass" / "a.png")  # no image to label
    shutil.copytree(folder / "new", folder / "voc" / "JPEGImages")
    return "voc"


@pytest.mark.parametrize("write", [as_text_list, as_csv_list, as_list_elsewhere, as_coco, as_voc])
def test_every_kind_of_source_gives_the_images_of_the_folder(
    folder: Path, write: Callable[[Path, list[Path]], str]
) -> None:
    expected = pick("margin").paths
    paths = [Path(path) for path in sorted(Path("new").rglob("*.jpg"), reverse=True)]
    picks = pick("margin", unlabelled=write(folder, paths))
    assert [path.name for path in picks.paths] == [path.name for path in expected]
    assert picks.num_unlabelled == 40


# --- formats ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("to", "chosen"),
    [("p.csv", ""), ("p.jsonl", ""), ("p.json", "coco"), ("p.json", "labelstudio"), ("p.csv", "superannotate")],
)
def test_what_was_picked_is_read_from_every_format(folder: Path, to: str, chosen: str) -> None:
    first = pick(to=to, format=chosen)
    rest = pick(budget=34, picked=to)
    assert set(rest.paths) | set(first.paths) == set(Path("new").rglob("*.jpg"))
    assert set(rest.paths).isdisjoint(first.paths)


def test_label_studio_tasks_hold_the_predicted_class(folder: Path) -> None:
    picks = pick("margin", to="tasks.json", format="labelstudio", url_prefix="https://host/")
    tasks = json.loads(Path("tasks.json").read_text())
    assert [task["data"]["image"] for task in tasks] == [f"https://host/{pick.name}" for pick in picks.picks]
    for task, chosen in zip(tasks, picks.picks, strict=True):
        [result] = task["predictions"][0]["result"]
        assert result["value"]["choices"] == [chosen.predictions[0].label]
        assert 1 / 3 <= result["score"] <= 1


LABEL_CONFIG = """<View><Image name="image" value="$image"/><Choices name="label" toName="image">
<Choice value="blue"/><Choice value="green"/><Choice value="red"/></Choices></View>"""
BOX_CONFIG = """<View><Image name="image" value="$image"/><RectangleLabels name="label" toName="image">
<Label value="disc"/><Label value="square"/></RectangleLabels></View>"""


def check_label_studio(path: str, config: str) -> None:
    interface = pytest.importorskip("label_studio_sdk.label_interface").LabelInterface(config)
    for task in json.loads(Path(path).read_text()):
        assert "image" in task["data"]
        for prediction in task.get("predictions", []):
            assert interface.validate_prediction(prediction, return_errors=True) == []


def test_label_studios_own_library_accepts_the_classes(folder: Path) -> None:
    pick("margin", to="tasks.json", format="labelstudio")
    check_label_studio("tasks.json", LABEL_CONFIG)


def test_a_manifest_of_cvat_has_the_order_of_the_picks(folder: Path) -> None:
    picks = pick("margin", to="manifest.jsonl")
    head, kind, *lines = [json.loads(line) for line in Path("manifest.jsonl").read_text().splitlines()]
    assert (head, kind) == ({"version": "1.1"}, {"type": "images"})
    assert [line["name"] + line["extension"] for line in lines] == [pick.name for pick in picks.picks]
    assert {(line["width"], line["height"]) for line in lines} == {(8, 8)}


def test_superannotates_file_has_names_and_scores(folder: Path) -> None:
    picks = pick("margin", to="p.csv", format="superannotate")
    frame = pd.read_csv("p.csv")
    assert frame["name"].tolist() == [path.name for path in picks.paths]
    assert frame["score"].tolist() == pytest.approx([pick.score for pick in picks.picks])


def test_the_contact_sheet_shows_every_pick_and_loads_nothing(folder: Path) -> None:
    picks = pick("margin", sheet="sheet.html")
    page = Path("sheet.html").read_text()
    assert page.count("data:image/jpeg;base64,") == page.count("<figure>") == 6
    assert all(pick.name in page for pick in picks.picks)
    assert "http" not in page


def test_images_are_neither_moved_nor_changed(folder: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in Path().rglob("*.jpg")}

    before = state()
    pick("margin", to="picks.csv", sheet="sheet.html")
    assert state() == before
    assert {path.name for path in folder.iterdir()} == {"birds", "new", "picks.csv", "sheet.html"}


# --- bad input: one clear line ---------------------------------------------------------------------------
def test_a_file_that_does_not_decode_is_named_or_skipped(folder: Path) -> None:
    (folder / "new" / "broken.jpg").write_bytes(b"no image")
    (folder / "new" / "cut.jpg").write_bytes(next((folder / "new").glob("*.jpg")).read_bytes()[:200])
    line = refusal("margin")
    assert all(word in line for word in ("broken.jpg", "cut.jpg", "on_error=skip"))
    for strategy, task in (("margin", TASK), (MODEL_FREE, None)):
        picks = pick(strategy, 40, task=task, on_error="skip")
        assert (len(picks), "broken.jpg" in picks.remarks[0]) == (40, True)


def test_a_folder_of_broken_images_is_refused_with_skip_too(folder: Path) -> None:
    shutil.rmtree(folder / "new")
    (folder / "new").mkdir()
    (folder / "new" / "broken.jpg").write_bytes(b"no image")
    assert "none of its images can be read" in refusal(on_error="skip")


def test_a_pick_that_vanished_is_named(folder: Path) -> None:
    first = pick(to="picks.csv")
    first.paths[0].unlink()
    line = refusal(picked="picks.csv")
    assert f"picks.csv names {first.paths[0]}, which is not in unlabelled=new any more" in line
    assert set(pick(picked="picks.csv", on_error="skip").paths).isdisjoint(first.paths)


def test_a_pick_that_was_moved_to_the_folder_of_its_class_has_not_vanished(folder: Path) -> None:
    first = pick(to="picks.csv").paths[0]
    shutil.move(first, folder / "birds" / "train" / true_colour(first) / first.name)
    assert pick(picked="picks.csv").num_labelled == 25


def write_labels(*rows: str) -> str:
    Path("labels.csv").write_text("path,label\n" + "".join(f"{row}\n" for row in rows))
    return "labels.csv"


def test_labels_that_do_not_fit_are_named(folder: Path) -> None:
    name = next((folder / "new").glob("*.jpg")).name
    line = refusal(labelled=write_labels(f"{name},gren"))
    assert line == "labels.csv: the task has no class called 'gren' (did you mean 'green'?)"
    outside = write_labels("other.jpg,red", f"{name},red")
    assert "labels.csv labels other.jpg, which is none of the 40 images of unlabelled=new" in refusal(labelled=outside)
    assert pick(labelled=outside, on_error="skip").num_labelled == 25
    assert f"two labels of {name} differ" in refusal(labelled=write_labels(f"{name},red", f"{name},blue"))
    assert "has no column label" in refusal(labelled=as_csv_list(folder, [Path(name)]))
    assert "must be a CSV file" in refusal(labelled="birds/train/red/train0.jpg")


def test_a_file_with_other_picks_or_labels_is_not_overwritten(folder: Path) -> None:
    pick(to="picks.csv")
    content = Path("picks.csv").read_text().replace("score", "score,label")
    Path("picks.csv").write_text(content)
    assert "to=picks.csv: the file exists and holds something else" in refusal(to="picks.csv")
    assert Path("picks.csv").read_text() == content


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"unlabelled": "nowhere"}, "unlabelled=nowhere: there is no nowhere and no nowhere"),
        ({"unlabelled": "empty"}, "unlabelled=empty: there is no image in empty or below"),
        ({"unlabelled": "notes"}, "only 1 other file (a.md ...)"),
        ({"unlabelled": "notes/a.md"}, "unlabelled=notes/a.md: is none of a folder, .txt, .csv, .json or a video"),
        ({"unlabelled": "bad.json"}, "bad.json is no COCO file"),
        ({"unlabelled": "no.json"}, "no.json is not JSON"),
        ({"unlabelled": "bad.txt"}, "bad.txt: readme.md is not the path of an image"),
        ({"unlabelled": "gone.txt"}, "gone.jpg is missing"),
        ({"budget": 41}, "budget=41: only 40 images of unlabelled=new can be picked (40 files): lower the budget"),
        ({"budget": 0}, "budget=0: must be at least 1"),
        ({"strategy": "corset"}, "no strategy is called 'corset'"),
        ({"strategy": "localization_stability"}, "needs predictions on noisy images"),
        (
            {"strategy": "margin", "task": None},
            "strategy=margin uses a trained model (predictions (predict)): set task=",
        ),
        ({"strategy": "isal"}, "isal reads held-out labels: set validation=N"),
        ({"validation": 24}, "validation=24: there are 24 labelled images in all"),
        ({"task": "digits"}, "files are read as square images in RGB"),
        ({"task": "image_fodler[root=birds]"}, "no task is called"),
        ({"labelled": "x.csv", "task": None}, "labelled= has no effect without a task"),
        ({"to": "picks.json"}, "to=picks.json: its suffix does not tell the format"),
        ({"format": "yolo"}, "format=yolo: there is no format"),
        ({"on_error": "ignore"}, "on_error=ignore: must be one of refuse, skip"),
        ({"min_seconds_apart": 2}, "min_seconds_apart=2: set fps=N"),
        ({"picked": "no.json"}, "no.json is not JSON"),
        ({"picked": "bad.json"}, "picked=bad.json: is no file of picks (csv, coco, labelstudio, cvat, superannotate)"),
        ({"picked": "no.jsonl"}, "picked=no.jsonl: is no file of picks"),
        ({"picked": "notes"}, "notes is a folder, not a file"),
        ({"fps": 1, "unlabelled": "list.txt"}, "has no number in its name"),
        ({"sed": 1}, "no setting of this command is called 'sed'"),
        ({"images": "new"}, "images=new: has an effect only where unlabelled= is a COCO file"),
    ],
)
def test_each_mistake_is_one_line(folder: Path, settings: dict[str, object], line: str) -> None:
    for name in ("empty", "notes"):
        (folder / name).mkdir()
    (folder / "notes" / "a.md").write_text("")
    (folder / "bad.json").write_text(json.dumps({"images": [{"id": 1}]}))
    for name in ("no.json", "no.jsonl"):
        (folder / name).write_text("{")
    (folder / "bad.txt").write_text("readme.md\n")
    (folder / "gone.txt").write_text("gone.jpg\n")
    image = save(folder / "more" / "abc.jpg", (1, 2, 3), np.random.default_rng(5))
    (folder / "list.txt").write_text(f"{image}\n")
    strategy, budget = settings.pop("strategy", "random"), settings.pop("budget", 1)
    assert line in refusal(str(strategy), int(str(budget)), **{"to": None, **settings})
    assert not (folder / "picks.json").exists()


# --- the command line ------------------------------------------------------------------------------------
def test_the_command_writes_what_python_returns(folder: Path, command: Callable[..., tuple[int, str]]) -> None:
    words = ["strategy=margin", "budget=6", f"task={TASK}", "data=.", "unlabelled=new"]
    code, said = command("pick", *words, "to=picks.csv")
    assert (code, "6 picks in picks.csv: of 40 unlabelled images, with 24 labelled (" in said) == (0, True)
    assert pd.read_csv("picks.csv")["path"].tolist() == list(map(str, pick("margin").paths))
    code, said = command("pick", *words, "strategy=nothing")
    assert (code, said.count("\n"), "error: no strategy is called 'nothing'" in said) == (2, 1, True)


# --- frames of videos ------------------------------------------------------------------------------------
def test_picks_are_apart_in_time(folder: Path) -> None:
    rng = np.random.default_rng(2)
    for clip in ("a", "b"):
        for number in range(20):
            save(folder / "clips" / clip / f"frame_{number:04d}.jpg", (number * 10, 0, 100), rng)
    ranked = [path for path in pick("margin", 40, unlabelled="clips").paths]
    picks = pick("margin", 8, unlabelled="clips", fps=10, min_seconds_apart=0.4)
    expected = list[Path]()
    for path in ranked:  # greedily by rank
        number, clip = int(path.stem[6:]), path.parent
        if all(abs(number - int(other.stem[6:])) >= 4 for other in expected if other.parent == clip):
            expected.append(path)
    assert picks.paths == expected[:8]
    line = refusal("margin", 8, unlabelled="clips", fps=10, min_seconds_apart=1.5)
    assert line.startswith("min_seconds_apart=1.5: only") and line.endswith("lower it, or the budget")  # noqa: PT018
    frame = pd.DataFrame({"path": picks.paths, "score": 0})
    frame.to_csv("picks.csv", index=False)
    assert "only 0 frames" in refusal("margin", 8, unlabelled="clips", fps=10, min_seconds_apart=9, picked="picks.csv")


def test_a_video_needs_pyav_and_is_decoded_with_it(folder: Path) -> None:
    (folder / "clip.mp4").write_bytes(b"no video")
    line = refusal(unlabelled="clip.mp4", fps=1)
    try:
        import av
    except ImportError:
        assert line == "reading videos needs PyAV: pip install 'al-benchmark[video]', or unpack their frames"
        return
    assert "clip.mp4 cannot be decoded as a video" in line
    write_video(folder / "clip.mp4", av)
    picks = pick("margin", 3, unlabelled="clip.mp4", fps=2, min_seconds_apart=1, frames="frames")
    assert [path.name for path in sorted((folder / "frames").glob("*.jpg"))] == [f"frame_{n:07d}.jpg" for n in range(8)]
    shades = [np.asarray(Image.open(path)).mean() for path in sorted((folder / "frames").glob("*.jpg"))]
    assert shades == pytest.approx([10 + 25 * number for number in range(8)], abs=6)
    times = sorted(int(path.stem[6:]) / 2 for path in picks.paths)
    assert all(later - earlier >= 1 for earlier, later in itertools.pairwise(times))
    assert pick("margin", 3, unlabelled="clip.mp4", fps=2, min_seconds_apart=1, frames="frames").paths == picks.paths
    assert "holds the frames of clip.mp4 at another time or fps" in refusal(
        unlabelled="clip.mp4", fps=1, frames="frames"
    )
    assert "set fps=N" in refusal(unlabelled="clip.mp4")


def write_video(path: Path, av: object) -> None:
    """Writes four seconds at ten frames a second, which become brighter."""
    with av.open(str(path), "w") as container:  # type: ignore[attr-defined]
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        for number in range(40):
            pixels = np.full((32, 32, 3), 10 + 5 * number, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):  # type: ignore[attr-defined]
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


# --- the page --------------------------------------------------------------------------------------------
def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parent.parent / "docs" / "pick.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})  # type: ignore[index]
    assert len((tmp_path / "picks.csv").read_text().splitlines()) == 6
    assert all(f"`{name}`" in page for name in FORMATS)


def test_completion_knows_strategies_tasks_and_choices() -> None:
    assert "strategy=coreset" in suggest(["pick"], "strategy=cor")
    assert "task=image_folder" in suggest(["pick"], "task=image")
    assert suggest(["pick"], "on_error=") == ["on_error=refuse", "on_error=skip"]
