"""Selection from shards on disk selects what the strategies select in memory, and holds little."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from benchmark.api import Indices, ShardedPool
from benchmark.experiment.spec import Spec
from benchmark.plugins import discovery
from benchmark.runner.large_pools.image_lists import ImageLists
from benchmark.runner.large_pools.selecting import find_way, prepend, select_from_shards
from benchmark.runner.large_pools.shard_writer import ShardJob, write_shards
from benchmark.strategies import badge, typiclust
from benchmark.strategies.shared import kcenter, lazy_rows, stored
from benchmark.strategies.shared.features import kmeans
from benchmark.strategies.shared.kcenter import Groups
from benchmark.strategies.shared.lazy_rows import Centres, HeldRows, LazyRows
from benchmark.system.row_shards import RowShards, ShardFolder
from tests._described import NUM_IMAGES, DescribedPool


def store(folder: Path, rows: npt.NDArray[Any], shard_size: int = 13) -> RowShards:
    """Writes rows in small shards."""
    table = ShardFolder(folder, "rows", {})
    parts = np.split(rows, range(shard_size, len(rows), shard_size))
    for number, part in enumerate(parts):
        table.write(number, part, str(number))
    return table.open(len(parts))


# --- rows on disk ---------------------------------------------------------------------------
def test_rows_are_read_in_any_order_and_in_blocks(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float16).reshape(30, 2)
    table = store(tmp_path, rows)
    order = torch.tensor([29, 0, 13, 12, 13])
    assert len(table) == 30
    assert torch.equal(table.take(order), torch.from_numpy(rows)[order])
    assert table.take(torch.arange(0)).shape == (0, 2)
    blocks = list(table.blocks(5))
    assert [start for start, _ in blocks] == [0, 5, 10, 13, 18, 23, 26]
    assert torch.equal(torch.cat([block for _, block in blocks]), torch.from_numpy(rows))


# --- the kernel -----------------------------------------------------------------------------
@pytest.fixture(params=[(4, 2), (64, 8), (7,)])
def small_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes at which every branch of the kernel is taken."""
    monkeypatch.setattr(lazy_rows, "PART_SIZES", request.param)
    monkeypatch.setattr(lazy_rows, "SAME_AGE", 3)
    monkeypatch.setattr(lazy_rows, "BLOCK", 11)
    monkeypatch.setattr(lazy_rows, "MAX_CENTRES", 5)


def example_rows(kind: str) -> npt.NDArray[np.float16]:
    """120 rows: Gaussian noise, tight clusters, a grid full of ties, or three points forty times each."""
    rng = np.random.default_rng(0)
    if kind == "gaussian":
        return rng.standard_normal((120, 8)).astype(np.float16)
    if kind == "clusters":
        centres = rng.standard_normal((10, 8))[rng.integers(10, size=120)]
        return (centres + rng.standard_normal((120, 8)) / 50).astype(np.float16)
    if kind == "grid":
        return rng.integers(0, 3, (120, 4)).astype(np.float16)
    return np.repeat(np.eye(3, 4, dtype=np.float16), 40, axis=0)


def twin_in_memory(
    rows: npt.NDArray[np.float16],
    first: int,
    budget: int,
    rank_N: Tensor,
    num_labelled: int,
    groups: Groups | None = None,
) -> Tensor:
    """What the kernel in memory selects; not centred at the mean, which would round away the ties of a grid."""
    points = torch.from_numpy(rows).double()
    candidates, labelled = points[num_labelled:], points[:num_labelled]
    norms, distance = candidates.square().sum(1), torch.full((len(candidates),), 1e9, dtype=torch.float64)
    distance[first] = torch.inf
    if num_labelled:
        distance = kcenter.squared_distance_to_nearest(candidates, norms, labelled)
    return num_labelled + kcenter.pick_exactly(candidates, norms, distance, rank_N[num_labelled:], budget, groups)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("num_labelled", [0, 9])
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "grid", "copies"])
def test_farthest_first_is_its_twin_in_memory(kind: str, num_labelled: int, tmp_path: Path) -> None:
    rows, rank = example_rows(kind), torch.from_numpy(np.random.default_rng(1).permutation(120))
    bounds = stored.initial_bounds(torch.arange(120) >= num_labelled)
    lazy = LazyRows(store(tmp_path, rows), bounds, Centres(torch.from_numpy(rows[:num_labelled]).double()), rank)
    if not num_labelled:
        lazy.take(5)
    assert lazy.pick_farthest(90).tolist() == twin_in_memory(rows, 5, 90, rank, num_labelled).tolist()


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("kind", ["gaussian", "clusters", "grid"])
def test_farthest_first_by_groups_is_its_twin_in_memory(kind: str, tmp_path: Path) -> None:
    rows, rng = example_rows(kind), np.random.default_rng(2)
    group = torch.from_numpy(np.sort(np.concatenate([np.arange(40), rng.integers(40, size=80)])))
    rank_G = torch.from_numpy(rng.permutation(40))
    twin = twin_in_memory(rows, 7, 30, rank_G[group], 0, Groups.from_labels(group))
    bounds, no_centres = (
        stored.initial_bounds(torch.ones(120, dtype=torch.bool)),
        Centres(torch.empty(0, rows.shape[1]).double()),
    )
    starts_G = torch.searchsorted(group, torch.arange(40))
    lazy = LazyRows(store(tmp_path, rows), bounds, no_centres, rank_G, starts_G=starts_G)
    lazy.take(int(group[7]))
    assert lazy.pick_farthest(30).tolist() == group[twin].tolist()


# --- drawing by distance --------------------------------------------------------------------
def test_draws_follow_the_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second and third of three picks against their exact probabilities, with bounds that are mostly outdated."""
    monkeypatch.setattr(lazy_rows, "NUM_DRAWS", 2)
    monkeypatch.setattr(lazy_rows, "MIN_ACCEPTED", 0)
    points = torch.tensor([[0.0, 0], [1, 0], [0, 2], [3, 1], [1, 1]])
    distance_NN = torch.cdist(points, points).square().double()
    expected, rng, num = Counter[tuple[int, ...]](), np.random.default_rng(0), 1000
    for second in range(1, 5):
        p_second = float(distance_NN[0, second] / distance_NN[0].sum())
        left = torch.minimum(distance_NN[0], distance_NN[second])
        expected |= {(second, third): p_second * float(left[third] / left.sum()) for third in range(1, 5)}
    drawn = Counter[tuple[int, ...]]()
    for _ in range(num):
        bounds = torch.full((5,), torch.inf, dtype=torch.float64)
        lazy = LazyRows(HeldRows(points), bounds, Centres(points[:0].double()), torch.arange(5))
        lazy.take(0)
        drawn[tuple(lazy.draw(3, rng)[1:].tolist())] += 1
    assert sum(drawn.values()) == num
    for pair, share in expected.items():
        assert abs(drawn[pair] - num * share) <= 5 * (num * share * (1 - share)) ** 0.5, pair


def test_draws_are_distinct_where_no_distance_is_left() -> None:
    points = torch.eye(3).repeat(8, 1)
    bounds = torch.full((24,), torch.inf, dtype=torch.float64)
    bounds[20] = -torch.inf
    lazy = LazyRows(HeldRows(points), bounds, Centres(points[:0].double()), torch.arange(24))
    lazy.take(3)
    assert sorted(lazy.draw(23, np.random.default_rng(0)).tolist()) == [number for number in range(24) if number != 20]


def test_distances_of_gradients_are_those_of_their_outer_products() -> None:
    points, centres = torch.randn(7, 9, generator=torch.Generator().manual_seed(0)).double().split([4, 3])
    outer = [torch.einsum("nc,nd->ncd", part[:, :4], part[:, 4:]).flatten(1) for part in (points, centres)]
    expected = torch.cdist(outer[0], outer[1]).square().amin(1)
    torch.testing.assert_close(badge.squared_gradient_distance(points, centres, 4), expected)


@pytest.fixture(autouse=True, scope="module")
def plugins() -> None:
    discovery.discover()


# --- strategies -----------------------------------------------------------------------------
LABELS = [
    "random", "margin", "entropy", "entropy[how=max]", "coreset", "coreset[metric=cosine]",
    "coreset[encoder=patch_pca]",
    "badge", "typiclust[encoder=null]", "typiclust[encoder=patch_pca]", "typiclust[encoder=null,max_clusters=60]",
    "geal[encoder=patch_pca,metric=euclidean]",
]  # fmt: skip


def pool_on_disk(strategy: Spec, described: DescribedPool, labelled: Indices, folder: Path, **more: Any) -> ShardedPool:
    """Writes what the strategy stores of the images, in shards of 17."""
    view, way, tables = described.view(labelled), find_way(strategy), dict[str, list[Tensor]]()
    for part in np.split(np.arange(NUM_IMAGES), range(17, NUM_IMAGES, 17)):
        for name, rows in way.describe(view, part, **strategy.values).items():
            tables.setdefault(name, []).append(rows)
    assert set(tables) == set(way.tables(**strategy.values))
    stored_tables = dict[str, RowShards]()
    for name, parts in tables.items():
        table = ShardFolder(folder, name, {})
        for number, rows in enumerate(parts):
            table.write(number, rows.numpy(), "")
        stored_tables[name] = table.open(len(parts))
    return ShardedPool(NUM_IMAGES, labelled, np.array([3, 4, 5]), stored_tables, **more)


@pytest.mark.parametrize("num_labelled", [0, 12])
@pytest.mark.parametrize("label", LABELS)
def test_strategies_select_what_they_select_in_memory(label: str, num_labelled: int, tmp_path: Path) -> None:
    strategy, described = Spec.read("strategy", label), DescribedPool()
    labelled = np.random.default_rng(1).permutation(np.arange(6, NUM_IMAGES))[:num_labelled]
    pool = pool_on_disk(strategy, described, labelled, tmp_path, tie_seed=5)
    view = described.view(labelled, excluded=[3, 4, 5], tie_seed=5)
    picks = select_from_shards(strategy, pool, 30, np.random.default_rng(7))
    expected = strategy.plugin.function(view, 30, np.random.default_rng(7), **strategy.values)
    assert picks.tolist() == expected.tolist()
    assert pool.scores == view.scores
    assert pool.diagnostics == {name: value for name, value in view.diagnostics.items() if name != "patterns"}


def test_entropy_aggregates_the_boxes_of_a_detector(tmp_path: Path) -> None:
    described, none = DescribedPool(boxes_per_image=True), np.empty(0, np.int64)
    for how in ("sum", "mean", "max"):
        strategy = Spec.read("strategy", f"entropy[how={how}]")
        pool = pool_on_disk(strategy, described, none, tmp_path / how)
        view = described.view(none, excluded=[3, 4, 5])
        expected = strategy.plugin.function(view, 30, np.random.default_rng(0), **strategy.values)
        assert select_from_shards(strategy, pool, 30, np.random.default_rng(0)).tolist() == expected.tolist()


@pytest.mark.parametrize("label", ["badge", "typiclust[encoder=null]"])
def test_strategies_that_draw_otherwise_from_large_pools(
    label: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (badge, typiclust):
        monkeypatch.setattr(module, "MAX_IN_MEMORY", 40)
    monkeypatch.setattr(typiclust, "MAX_MEMBERS", 6)
    strategy, described, labelled = Spec.read("strategy", label), DescribedPool(), np.arange(20, 26)
    pool = pool_on_disk(strategy, described, labelled, tmp_path)
    picks = [select_from_shards(strategy, pool, 12, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert picks[0].tolist() == picks[1].tolist() != picks[2].tolist()
    if label == "badge":  # starts at the longest gradient
        view = described.view(labelled, excluded=[3, 4, 5])
        assert picks[0][0] == strategy.plugin.function(view, 1, np.random.default_rng(0))[0]


def test_clusters_of_large_pools_are_those_of_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(typiclust, "MAX_IN_MEMORY", 40)
    monkeypatch.setattr(typiclust, "PART", 11)
    rows = np.random.default_rng(0).standard_normal((150, 4)).astype(np.float16)
    points = typiclust.UnitRows(store(tmp_path, rows), np.arange(150))
    clusters, rng = typiclust.cluster_rows(points, 6, np.random.default_rng(3)), np.random.default_rng(3)
    sample = np.sort(rng.choice(150, 40, replace=False))
    _, centres = kmeans(points[sample], 6, rng)
    assert clusters.tolist() == torch.cdist(points[np.arange(150)], centres).argmin(1).tolist()


def test_what_cannot_select_from_shards_says_so() -> None:
    pool = ShardedPool(5, np.array([1]), np.array([2]), {})
    with pytest.raises(ValueError, match=r"strategy=isal cannot select from shards: it would have to hold the whole"):
        select_from_shards(Spec.read("strategy", "isal"), pool, 1, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"budget=4: only 3 images can be picked: lower the budget"):
        select_from_shards(Spec.read("strategy", "random"), pool, 4, np.random.default_rng(0))


def test_stored_rows_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    rows = np.ones((30, 4), np.float16)
    rows[17, 2] = np.inf
    pool = ShardedPool(30, np.empty(0, np.int64), np.empty(0, np.int64), {"features": store(tmp_path, rows)})
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        select_from_shards(Spec.read("strategy", "coreset"), pool, 3, np.random.default_rng(0))


# --- writing --------------------------------------------------------------------------------
@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Ten files, each with a number in it."""
    (tmp_path / "images").mkdir()
    paths = [tmp_path / "images" / f"{number}.txt" for number in range(10)]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    return paths


def job_for(folder: Path, images: list[Path], **arguments: Any) -> ShardJob:
    """A job that stores the number in each file, three files a shard; see `_described.build`."""
    num_images = ImageLists(folder / "images", 3).write(images)
    return ShardJob(str(folder), 3, num_images, ["numbers"], {"model": "a"}, "_described:build", arguments)


def numbers_of(job: ShardJob) -> list[float]:
    """The stored numbers."""
    return [value for _, block in job.open_tables()["numbers"].blocks(100) for value in block[:, 0].tolist()]


@pytest.mark.parametrize("num_processes", [1, 2])
def test_shards_are_written_once(num_processes: int, images: list[Path], tmp_path: Path) -> None:
    job = job_for(tmp_path / "out", images, log=str(tmp_path / "log"))
    for _ in range(2):
        assert list(write_shards(job, num_processes)) == [0, 1, 2, 3]
    assert numbers_of(job) == list(range(10))
    assert sorted((tmp_path / "log").read_text().split()) == ["0", "3", "6", "9"]  # the first file of each shard


def test_only_shards_of_changed_images_are_written_again(images: list[Path], tmp_path: Path) -> None:
    list(write_shards(job_for(tmp_path / "out", images)))
    images[4].write_text("44")
    images.append(images[0].with_name("new.txt"))
    images[-1].write_text("10")
    job = job_for(tmp_path / "out", images, log=str(tmp_path / "log"))
    list(write_shards(job))
    assert numbers_of(job) == [0, 1, 2, 3, 44, *range(5, 11)]
    assert (tmp_path / "log").read_text().split() == ["3", "9"]


@pytest.mark.parametrize("damage", ["cut", "flip", "no rows", "no json", "bad json"])
def test_damaged_shards_are_written_again(damage: str, images: list[Path], tmp_path: Path) -> None:
    job = job_for(tmp_path / "out", images)
    list(write_shards(job))
    rows = job.table("numbers").rows_path(1)
    content = rows.read_bytes()
    if damage in ("cut", "flip"):
        rows.write_bytes(content[:-2] if damage == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "no rows":
        rows.unlink()
    else:
        rows.with_suffix(".json").write_text("{" if damage == "bad json" else "")
    if damage != "flip":
        with pytest.raises(ValueError, match=r"00000001.npy is missing or damaged: repeat the command"):
            job.open_tables()
    list(write_shards(job_for(tmp_path / "out", images, log=str(tmp_path / "log"))))
    assert numbers_of(job) == list(range(10))
    assert (tmp_path / "log").read_text().split() == ["3"]


def test_rows_of_another_model_lie_elsewhere(images: list[Path], tmp_path: Path) -> None:
    job = job_for(tmp_path / "out", images)
    list(write_shards(job))
    other = ShardJob(**(vars(job) | {"facts": {"model": "b"}}))
    with pytest.raises(ValueError, match="is missing"):
        other.open_tables()
    manifest = json.loads((job.table("numbers").path / "manifest.json").read_text())
    assert manifest == {"table": "numbers", "model": "a"}


def test_a_killed_writer_loses_one_shard(images: list[Path], tmp_path: Path) -> None:
    """It is killed while the third shard is computed; the first two are not written again."""
    job = job_for(tmp_path / "out", images, stop_at=6, log=str(tmp_path / "log"))
    code = f"from benchmark.runner.large_pools.shard_writer import *\nlist(write_shards(ShardJob(**{vars(job)!r})))"
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)})
    while not (tmp_path / "log").exists() or "6" not in (tmp_path / "log").read_text().split():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (tmp_path / "log").unlink()
    job = job_for(tmp_path / "out", images, log=str(tmp_path / "log"))
    list(write_shards(job))
    assert (tmp_path / "log").read_text().split() == ["6", "9"]
    assert numbers_of(job) == list(range(10))


@pytest.mark.parametrize("num_processes", [1, 2])
def test_an_image_that_cannot_be_read_is_named(num_processes: int, images: list[Path], tmp_path: Path) -> None:
    images[5].write_text("not a number")
    with pytest.raises(ValueError, match=r"5.txt is no number"):
        list(write_shards(job_for(tmp_path / "out", images), num_processes))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray Data's own settings
def test_ray_data_writes_the_same_shards(images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("ray", "pyarrow"):
        pytest.importorskip(library)
    from benchmark.runner.launchers.ray_launch import WorkerResources, write_shards_on_ray

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    jobs = [job_for(tmp_path / name, images, log=str(tmp_path / f"{name} log")) for name in ("here", "ray")]
    list(write_shards(jobs[0]))
    for _ in range(2):
        assert sorted(write_shards_on_ray(jobs[1], WorkerResources(1, 0), None)) == [0, 1, 2, 3]
    here, on_ray = ({path.name: path.read_bytes() for path in job.table("numbers").path.iterdir()} for job in jobs)
    assert here == on_ray
    assert sorted((tmp_path / "ray log").read_text().split()) == ["0", "3", "6", "9"]
    images[5].write_text("not a number")
    with pytest.raises(ValueError, match=r"5.txt is no number"):
        list(write_shards_on_ray(job_for(tmp_path / "ray", images), WorkerResources(1, 0), None))


def test_an_image_that_vanished_is_named(images: list[Path], tmp_path: Path) -> None:
    images[5].unlink()
    with pytest.raises(ValueError, match=r"5.txt cannot be read: No such file or directory: restore it"):
        job_for(tmp_path / "out", images)


def test_positions_lead_back_to_files(images: list[Path], tmp_path: Path) -> None:
    lists = ImageLists(tmp_path, 3)
    assert lists.write(images) == 10
    assert list(lists.find([9, 0, 4, 5])) == [images[position] for position in (9, 0, 4, 5)]


def test_labelled_images_come_before_those_on_disk(tmp_path: Path) -> None:
    rows = np.arange(20, dtype=np.float16).reshape(10, 2)
    tables = prepend({"features": torch.from_numpy(rows[:3])}, {"features": store(tmp_path, rows[3:], 4)})
    order = torch.tensor([9, 1, 3, 2])
    assert torch.equal(tables["features"].take(order), torch.from_numpy(rows)[order])


PEAK = """
import sys, torch
from pathlib import Path
from benchmark.strategies.shared import lazy_rows
from benchmark.system.row_shards import RowShards
torch.set_num_threads(1)
def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1000
lazy_rows.PART_SIZES = (2**14, 2**10)
paths = sorted(Path(sys.argv[1]).glob("*.npy"))
rows = RowShards(paths, [20_000] * len(paths))
bounds = torch.full((len(rows),), torch.inf, dtype=torch.float64)
before = peak()
lazy = lazy_rows.LazyRows(rows, bounds, lazy_rows.Centres(torch.empty(0, 512).double()), torch.arange(len(rows)))
lazy.take(0)
lazy.pick_farthest(60)
print(len(rows) * 512 * 2 / 1e6, peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux")
def test_a_selection_holds_little(tmp_path: Path) -> None:
    """256 MB of rows, of which a selection holds an eighth and one mapped shard of 20 MB."""
    for number in range(13):
        rows = np.random.default_rng(number).standard_normal((20_000, 512), dtype=np.float32)
        np.save(tmp_path / f"{number:08d}.npy", rows.astype(np.float16))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    output = subprocess.check_output([sys.executable, "-c", PEAK, str(tmp_path)], env=environment, text=True)
    total, held = map(float, output.split())
    assert total > 260
    assert held < 150
