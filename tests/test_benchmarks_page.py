"""The page of benchmarks is rendered from its JSON file, and names the machine of each measurement."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent / "benchmarks"))
import page

RAW = {
    "machine_info": {"cpu": {"brand_raw": "Processor", "count": 2}, "python_version": "3.11.7", "node": "secret-host"},
    "commit_info": {"id": "0123456789abcdef"},
    "benchmarks": [
        {"group": "g", "name": "test_way[ours]", "param": "ours", "stats": {"min": 2.0}, "extra_info": {"MB": 3}},
        {"group": "g", "name": "test_way[usual]", "param": "usual", "stats": {"min": 5.0}, "extra_info": {}},
        {
            "group": "g", "name": "test_other_way", "param": None, "stats": {"min": 1.0},
            "extra_info": {page.MULTIPLIED: 100.0},
        },
    ],
}  # fmt: skip


def test_the_committed_page_is_rendered_from_its_json_file() -> None:
    assert page.render_page(json.loads(page.SUMMARY.read_text())) == page.PAGE.read_text()


def test_rows_are_compared_with_the_first_of_their_group() -> None:
    text = page.render_page(page.summarize_groups(RAW))
    assert "| ours | 2 | 1 | 3 |" in text
    assert "| usual | 5 | 2.5 |  |" in text
    assert "| other way | 100 (from 4) | 50 |  |" in text
    assert "Processor, 2 cores, Python 3.11.7, commit 0123456789ab" in text
    assert "secret-host" not in json.dumps(page.summarize_groups(RAW))


def test_a_group_that_is_measured_again_replaces_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "HOME", tmp_path)
    monkeypatch.setattr(page, "SUMMARY", tmp_path / "benchmarks.json")
    monkeypatch.setattr(page, "PAGE", tmp_path / "README.md")
    (tmp_path / "benchmarks.json").write_text(json.dumps({"g": {"rows": []}, "other": page.summarize_groups(RAW)["g"]}))
    (tmp_path / "raw.json").write_text(json.dumps(RAW))
    monkeypatch.setattr(sys, "argv", ["page.py", str(tmp_path / "raw.json")])
    page.main()
    assert json.loads((tmp_path / "benchmarks.json").read_text()) == {
        "g": page.summarize_groups(RAW)["g"],
        "other": page.summarize_groups(RAW)["g"],
    }
    assert (tmp_path / "README.md").read_text().count("## ") == 2
