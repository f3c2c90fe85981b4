"""Maps of a pool: features of the round asked for, of all its images, laid out by t-SNE as often as one likes alike."""

import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from _curves import PLAIN, recorded
from typer.testing import CliRunner

import benchmark
from benchmark.analysis.figures import selections, tsne
from benchmark.analysis.figures.gallery import Gallery
from benchmark.analysis.figures.pool_features import PoolFeatures, read_pool_features
from benchmark.cli.commands import app
from benchmark.runner import pool_embeddings
from benchmark.runner.gallery_writer import write_npz
from benchmark.system import activity


def features(num_images: int, num_models: int = 1) -> np.ndarray:  # type: ignore[type-arg]
    return np.random.default_rng(0).standard_normal((num_models, num_images, 5)).astype(np.float32)


def write_features(folder: Path, number: int, **changed: Any) -> Path:
    arrays = {
        "positions_N": np.arange(100), "strategies_A": np.array(["random", "mine"]), "model_A": np.array([0, 1]),
        "features_MND": features(100, 2), **changed,
    }  # fmt: skip
    folder.mkdir(exist_ok=True)
    path = folder / "gallery" / f"round-{number}" / "made_up.npz"
    write_npz(path, arrays, root=folder)
    return path


def empty_gallery() -> Gallery:
    none = np.zeros(0, np.int64)
    return Gallery(
        np.zeros(100, np.int64), none, none, none.astype(np.float32), none, np.zeros((0, 4, 4, 3), np.uint8),
        np.zeros((0, 0), np.float16), np.zeros((0, 5), np.float32), np.array(["thing"]),
    )  # fmt: skip


# --- the figure -----------------------------------------------------------------------------
def test_the_map_shows_the_features_of_the_round_asked_for(tmp_path: Path) -> None:
    [experiment] = benchmark.load(recorded(tmp_path, PLAIN).folder).experiments
    assert selections.pool_map(experiment, empty_gallery(), 1) is None
    write_features(tmp_path, 1)
    figure = selections.pool_map(experiment, empty_gallery(), 1)
    assert figure is not None
    assert [axes.get_title("left") for axes in figure.axes] == ["random", "mine"]  # `other` has no model there
    title = " ".join(figure.get_suptitle().split())
    assert "t-SNE of round 1's features; each strategy's own model; 100 of the pool's 100 images" in title
    pools = [np.asarray(axes.collections[0].get_offsets()) for axes in figure.axes]
    for place, pool in enumerate(pools):
        np.testing.assert_allclose(pool, tsne.tsne_positions(features(100, 2)[place]))
    for axes, name in zip(figure.axes, ("random", "mine"), strict=True):
        run = next(run for run in experiment.runs if run.strategy == name)
        pool, *bought = (np.asarray(dots.get_offsets()) for dots in axes.collections)
        for dots, record in zip(bought, run.records[1:], strict=True):
            np.testing.assert_array_equal(dots, pool[record.bought.tolist()])
    assert selections.pool_map(experiment, empty_gallery(), 2) is None


def test_the_report_says_where_features_of_the_round_are_missing(tmp_path: Path) -> None:
    store = recorded(tmp_path, PLAIN)
    arrays = {name: value for name, value in vars(empty_gallery()).items() if name != "box_overlap_M"}
    write_npz(tmp_path / "gallery" / "made_up.npz", arrays)
    result = CliRunner().invoke(app, ["report", f"out={store.folder}", "round=1"])
    assert result.exit_code == 0, repr(result.exception)
    assert "no features of round 1 are stored" in result.stderr
    assert "embed_round=1" in result.stderr
    write_features(tmp_path, 1)
    result = CliRunner().invoke(app, ["report", f"out={store.folder}", "round=1"])
    assert "embed_round" not in result.stderr
    assert (tmp_path / "figures" / "made_up-pool.png").exists()


def broken(folder: Path) -> Iterator[tuple[Path, str]]:
    changes: dict[str, tuple[dict[str, Any], str]] = {
        "model": ({"model_A": np.array([0, 2])}, "do not fit together"),
        "length": ({"positions_N": np.arange(99)}, "do not fit together"),
        "infinite": ({"features_MND": np.full((2, 100, 5), np.inf, np.float32)}, "do not fit together"),
        "form": ({"features_MND": np.zeros((100, 5), np.float32)}, "features_MND is float32 of shape (100, 5)"),
    }
    for name, (changed, message) in changes.items():
        yield write_features(folder / name, 1, **changed), message
    path = write_features(folder / "torn", 1)
    path.write_bytes(path.read_bytes()[:900])
    yield path, "holds no features"
    path = write_features(folder / "renamed", 1)
    yield path.rename(path.with_name("another.npz")), "is damaged: its digest does not fit"


def test_damaged_features_are_refused_in_one_line(tmp_path: Path) -> None:
    for path, message in broken(tmp_path):
        with pytest.raises(ValueError, match=r"\.npz ") as error:
            PoolFeatures.read(path)
        assert message in str(error.value)
        assert "\n" not in str(error.value)


# --- t-SNE ----------------------------------------------------------------------------------
def test_many_images_are_laid_out_alike_each_time_with_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tsne, "FEW_IMAGES", 50)
    names: list[str] = []
    with activity.report_to(lambda stage: names.append(stage.name)):
        first, second = (tsne.tsne_positions(features(60)[0]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert first.shape == (60, 2)
    assert any(name.startswith("t-SNE of 60 images") for name in names)


def test_open_tsne_is_used_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for the optional package, which counts the iterations that it reports."""
    reported: list[int] = []

    class Layout:
        def __init__(self, callbacks: Any, early_exaggeration_iter: int, n_iter: int, n_jobs: int, **_: Any) -> None:
            assert n_jobs == 1
            self.callbacks, self.iterations = callbacks, early_exaggeration_iter + n_iter

        def fit(self, values_ND: Any) -> Any:
            for number in range(0, self.iterations, tsne.CALLBACK):
                assert self.callbacks(number, 0.0, None) is None  # a true value would end the layout
            return values_ND[:, :2]

    module: Any = types.ModuleType("openTSNE")
    module.TSNE, module.__spec__ = Layout, types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "openTSNE", module)
    monkeypatch.setattr(tsne, "FEW_IMAGES", 50)
    with activity.report_to(lambda stage: reported.append(stage.num_done)):
        positions = tsne.tsne_positions(features(60)[0])
    np.testing.assert_allclose(positions, features(60)[0][:, :2])
    np.testing.assert_array_equal(tsne.tsne_positions(features(40)[0]), tsne.tsne_positions(features(40)[0]))


# --- what a run stores ----------------------------------------------------------------------
def test_principal_components_are_those_of_the_singular_values() -> None:
    features_ND = torch.from_numpy(features(200)[0]) * torch.tensor([1.0, 5, 2, 7, 3])
    components = pool_embeddings.principal_components(features_ND)
    left, singular, _ = torch.linalg.svd((features_ND - features_ND.mean(0)).double(), full_matrices=False)
    torch.testing.assert_close(components.double().abs(), (left * singular).abs(), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(components, pool_embeddings.principal_components(features_ND))


def test_of_a_large_pool_what_was_bought_is_never_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_embeddings, "MAX_IMAGES", 30)
    bought = np.array([99, 5, 5, 40])
    chosen = pool_embeddings.choose_positions(bought, 100, 1)
    assert len(chosen) == len(set(chosen)) == 30
    assert set(bought) <= set(chosen)
    np.testing.assert_array_equal(chosen, pool_embeddings.choose_positions(bought, 100, 1))
    assert set(chosen) != set(pool_embeddings.choose_positions(bought, 100, 2))
    np.testing.assert_array_equal(pool_embeddings.choose_positions(bought, 20, 1), np.arange(20))


def test_a_run_stores_the_features_of_the_models_of_a_round(tmp_path: Path) -> None:
    words = ["tasks=[digits[epochs=1]]", "strategies=[random,margin]", "initial=20", "budget=10", "rounds=2", "seeds=1"]
    run = ["run", *words, "validation=0", f"out={tmp_path}", "device=cpu"]
    for number in (1, 0):
        result = CliRunner().invoke(app, [*run, f"embed_round={number}"])
        assert result.exit_code == 0, result.output + repr(result.exception)
    [experiment] = benchmark.load(tmp_path).experiments
    first, last = (read_pool_features(experiment, number) for number in (0, 1))
    assert first is not None
    assert last is not None
    assert first.strategies_A.tolist() == last.strategies_A.tolist() == ["random", "margin"]
    assert first.model_A.tolist() == [0, 0]  # all strategies share the model of round 0
    assert last.model_A.tolist() == [0, 1]
    assert first.features_MND.shape[:2] == (1, 1297)
    assert not np.allclose(last.features_MND[0], last.features_MND[1])
    for path in (tmp_path / ".fits").glob("*.safetensors"):
        path.unlink()
    result = CliRunner().invoke(app, [*run, "embed_round=1"])
    assert "no map of round 1, whose model is no longer kept in .fits: random, margin" in result.stderr
    assert read_pool_features(experiment, 1) is not None  # what was stored stays
    result = CliRunner().invoke(app, [*run, "embed_round=2"])
    assert "no map of the pool: no cell has round 2" in result.stderr
