"""The pages of benchmarks are rendered from their JSON files, and name the machine and the card of each measurement."""

import json
from pathlib import Path
from typing import Any

from tools import benchmark_pages as pages

RAW: dict[str, Any] = {
    "machine_info": {
        "cpu": {"brand_raw": "Processor", "count": 2}, "python_version": "3.11.7", "node": "secret-host",
        "gpu": "NVIDIA H200", "torch": "2.11.0",
    },
    "commit_info": {"id": "0123456789abcdef"},
    "benchmarks": [
        {"group": "g", "name": "test_way[ours]", "param": "ours", "stats": {"min": 2.0}, "extra_info": {"MB": 3}},
        {"group": "g", "name": "test_way[usual]", "param": "usual", "stats": {"min": 5.0}, "extra_info": {}},
        {
            "group": "g", "name": "test_other_way", "param": None, "stats": {"min": 1.0},
            "extra_info": {pages.MULTIPLIED: 100.0},
        },
    ],
}  # fmt: skip


def on_gpu(card: str, seconds: float) -> dict[str, Any]:
    """What pytest-benchmark writes on a card: two groups, of one row each."""
    info = RAW["machine_info"] | {"gpu": card}
    rows = [
        {"group": name, "name": "test_way[ours]", "param": "ours", "stats": {"min": seconds}, "extra_info": {}}
        for name in ("g, cuda", "other, cuda")
    ]
    return RAW | {"machine_info": info, "benchmarks": rows}


def test_the_committed_pages_are_rendered_from_their_json_files() -> None:
    folder = pages.HOME / pages.FOLDER
    for name, page, render in (
        ("benchmarks.json", "README.md", pages.render_page),
        ("gpu.json", "gpu.md", pages.render_gpu_page),
    ):
        assert render(pages.read_json(folder / name)) == (folder / page).read_text()


def test_rows_are_compared_with_the_first_of_their_group() -> None:
    text = pages.render_page(pages.summarize_groups(RAW))
    assert "| ours | 2 | 1 | 3 |" in text
    assert "| usual | 5 | 2.5 |  |" in text
    assert "| other way | 100 (from 4) | 50 |  |" in text
    assert "Processor, 2 cores, Python 3.11.7, commit 0123456789ab" in text
    assert "secret-host" not in json.dumps(pages.summarize_groups(RAW))


def test_a_group_that_is_measured_again_replaces_the_old_one(tmp_path: Path) -> None:
    folder, group = tmp_path / pages.FOLDER, pages.summarize_groups(RAW)["g"]
    folder.mkdir(parents=True)
    (folder / "benchmarks.json").write_text(json.dumps({"g": {"rows": []}, "other": group}))
    (tmp_path / "raw.json").write_text(json.dumps(RAW))
    pages.main([str(tmp_path / "raw.json")], tmp_path)
    assert pages.read_json(folder / "benchmarks.json") == {"g": group, "other": group}
    assert (folder / "README.md").read_text().count("## ") == 2
    assert (folder / "gpu.md").read_text() == pages.GPU_OPENING + pages.NO_RUN


def series(powers: dict[str, float]) -> dict[str, Any]:
    """What pytest-benchmark writes of series whose seconds grow with exact powers of the number of images."""
    rows = [
        {
            "group": "by size", "name": "test", "param": f"{name}-{images}", "stats": {"min": 1e-6 * images**power},
            "extra_info": {"series": name, "images": images},
        }
        for name, power in powers.items()
        for images in (100, 1000, 10_000)
    ]  # fmt: skip
    return RAW | {"benchmarks": rows}


def test_series_are_a_row_each_with_the_fitted_power_and_a_figure(tmp_path: Path) -> None:
    (tmp_path / "raw.json").write_text(json.dumps(series({"isal[k=2]": 1.0, "coreset": 1.5})))
    pages.main([str(tmp_path / "raw.json")], tmp_path)
    text = (tmp_path / pages.FOLDER / "README.md").read_text()
    assert "| CPU seconds | 100 images | 1,000 images | 10,000 images | power |" in text
    assert "| isal[k=2] | 0.0001 | 0.001 | 0.01 | 1.00 ± 0.00 |" in text
    assert "| coreset | 0.001 | 0.0316 | 1 | 1.50 ± 0.00 |" in text
    assert "![by size](by_size.svg)" in text
    assert "coreset: power 1.50" in (tmp_path / pages.FOLDER / "by_size.svg").read_text()


def test_the_figures_of_the_page_are_there() -> None:
    folder = pages.HOME / pages.FOLDER
    groups = pages.read_json(folder / "benchmarks.json")
    drawn = {pages.figure_name(name) for name, group in groups.items() if pages.has_series(group)}
    assert drawn == {path.name for path in folder.glob("*.svg")} != set()


def test_rows_of_other_cards_and_groups_stay(tmp_path: Path) -> None:
    for card, seconds in (("NVIDIA H200", 1.0), ("NVIDIA H100", 2.0), ("NVIDIA H200", 4.0)):
        raw = on_gpu(card, seconds)
        raw = raw if seconds < 4 else raw | {"benchmarks": raw["benchmarks"][:1]}
        (tmp_path / "raw.json").write_text(json.dumps(raw))
        pages.main([str(tmp_path / "raw.json")], tmp_path)
    text = (tmp_path / pages.FOLDER / "gpu.md").read_text()
    assert "## g\n\n| card |  | seconds | times |\n" in text
    assert [line for line in text.splitlines() if line.startswith("| NVIDIA")] == [
        "| NVIDIA H100 | ours | 2 | 1 |",
        "| NVIDIA H200 | ours | 4 | 1 |",
        "| NVIDIA H100 | ours | 2 | 1 |",
        "| NVIDIA H200 | ours | 1 | 1 |",
    ]
    assert text.count("NVIDIA H100: Processor, 2 cores, Python 3.11.7, commit 0123456789ab, torch 2.11.0") == 2
    assert pages.NO_RUN not in text
    assert "## " not in (tmp_path / pages.FOLDER / "README.md").read_text()
