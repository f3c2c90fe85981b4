"""`pick` with shards= picks what `pick` picks without, and goes on with what is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmark
from benchmark.runner.large_pools import choose_large
from benchmark.runner.picking.picks import Picks

COLOURS = {"blue": (40, 60, 200), "green": (40, 200, 60), "red": (200, 40, 60)}
TASK = "image_folder[root=birds,size=8,model=small_cnn,epochs=2,batch_size=8,precision=float32,normalise=cifar10]"
STRATEGIES = [
    "random", "margin", "entropy", "badge", "typiclust[encoder=null]", "coreset[encoder=patch_pca[patch=4]]",
    "geal[encoder=patch_pca[patch=4],k=3]",
]  # fmt: skip


def save(path: Path, colour: tuple[int, int, int], rng: np.random.Generator) -> None:
    """Saves a noisy image of a colour; no two are equal."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.clip(np.array(colour) + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with eight labelled images a class, two test images each, and 40 unlabelled ones in `new`."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 8), ("test", 2)):
        for name, colour in COLOURS.items():
            for i in range(number):
                save(tmp_path / "birds" / part / name / f"{part}{i}.png", colour, rng)
    for i in range(40):
        save(tmp_path / "new" / f"{i:02d}.png", list(COLOURS.values())[i % 3], rng)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choose_large, "SHARD_SIZE", 12)
    return tmp_path


def pick(strategy: str = "random", budget: int = 6, **settings: object) -> Picks:
    settings = {"unlabelled": "new", "task": TASK, "data": ".", **settings}
    return benchmark.pick(strategy, budget, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_shards_change_no_pick(strategy: str, folder: Path) -> None:
    plain, *both = pick(strategy), *(pick(strategy, shards="shards") for _ in range(2))
    assert both[0].paths == both[1].paths
    assert len(set(both[0].paths)) == 6
    if strategy.startswith("geal"):  # whose patterns lose more digits than lie between these images
        return
    assert both[0].paths == plain.paths
    for stored, shown in zip(both[0].picks, plain.picks, strict=True):
        assert (stored.score or 0) == pytest.approx(shown.score or 0, rel=1e-4)
        assert [item.label for item in stored.predictions] == [item.label for item in shown.predictions]


def test_a_pool_without_labels(folder: Path) -> None:
    strategy = "coreset[encoder=patch_pca[patch=4]]"
    assert pick(strategy, task="", shards="shards").paths == pick(strategy, task="").paths


def test_the_second_call_takes_labels_in(folder: Path) -> None:
    first = pick("margin", shards="shards", to="first.csv")
    rows = ["path,label", *(f"{path},red" for path in first.paths[:3])]
    Path("labels.csv").write_text("\n".join(rows))
    more = {"labelled": "labels.csv", "picked": "first.csv"}
    second = pick("margin", shards="shards", **more)
    assert set(second.paths).isdisjoint(first.paths)
    assert second.paths == pick("margin", **more).paths
    assert second.num_labelled == 27
    assert second.num_unlabelled == 34


def test_a_later_call_describes_only_what_is_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    strategy = "coreset[encoder=patch_pca[patch=4]]"
    pick(strategy, shards="shards")
    [table] = Path("shards").glob("features_of*")
    times = {path.name: path.stat().st_mtime_ns for path in table.glob("*.npy")}
    assert len(times) == 4
    (table / "00000002.json").unlink()
    pick(strategy, shards="shards", budget=9)
    changed = [path.name for path in sorted(table.glob("*.npy")) if path.stat().st_mtime_ns != times[path.name]]
    assert changed == ["00000002.npy"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"strategy": "isal", "shards": "shards"}, "strategy=isal cannot select from shards"),
        ({"jobs": 2}, "share the writing of shards: set shards=DIR"),
        ({"shards": "shards", "fps": 2}, "fps=2: has no effect with shards="),
        ({"shards": "shards", "budget": 41}, "budget=41: only 40 images can be picked"),
    ],
)
def test_settings_that_do_not_fit(settings: dict[str, object], message: str, folder: Path) -> None:
    with pytest.raises(ValueError, match=message):
        pick(**settings)  # type: ignore[arg-type]


def test_predictions_of_an_image_do_not_depend_on_its_shard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The images are normalised by statistics of the task's own pool."""
    task = TASK.replace("normalise=cifar10", "normalise=pool")
    scores = []
    for size in (12, 40):
        monkeypatch.setattr(choose_large, "SHARD_SIZE", size)
        picks = pick("entropy", 40, task=task, shards=f"shards of {size}").picks
        scores.append({item.path: item.score for item in picks})
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


def test_a_task_that_needs_the_whole_pool_says_so(folder: Path) -> None:
    task = "image_folder[root=birds,size=8,model=linear_probe,encoder=patch_pca[patch=4]]"
    with pytest.raises(ValueError, match="linear_probe: standardises features by those of the whole pool"):
        pick("margin", task=task, shards="shards")


def test_a_file_that_is_no_image_is_named(folder: Path) -> None:
    (folder / "new" / "17.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"17\.png"):
        pick("margin", shards="shards")
