"""Records of two devices may be mixed where the device changes no mean by more than the margin, and that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from _curves import recorded
from typer.testing import CliRunner

from benchmark.analysis import devices, equivalence
from benchmark.analysis.devices import MIXABLE, NOT_MIXABLE, UNDECIDED, judge_gaps, paired_gap
from benchmark.cli.commands import app
from benchmark.contract.metrics import ACCURACY
from benchmark.records.json_lines import encode_line, read_lines
from benchmark.seeds import seed

GPU = "NVIDIA H100, deterministic"


@pytest.fixture
def _no_forecast(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many sets would decide takes longer to say than the verdict, which it has no part in."""
    monkeypatch.setattr(equivalence, "describe_forecast", lambda *_: "")


def share(truth: float, num_sets: int, word: str, num_gaps: int = 1, num: int = 8_000) -> float:
    """How often these changes, of spread 1, get a verdict; the margin of accuracy is 1."""
    rng = np.random.default_rng(seed("devices simulated", num_sets, num_gaps))
    gaps_by_draw = (truth + rng.standard_normal((num, num_gaps, num_sets))).tolist()
    return float(
        np.mean(
            [
                judge_gaps([paired_gap(np.array(values)) for values in gaps], ACCURACY, 0.95) == word
                for gaps in gaps_by_draw
            ]
        )
    )


@pytest.mark.usefixtures("_no_forecast")
@pytest.mark.parametrize("num_sets", [3, 5, 10, 20])
def test_a_change_as_large_as_the_margin_is_rarely_called_mixable(num_sets: int) -> None:
    assert share(1.0, num_sets, MIXABLE) <= 0.055
    assert share(-1.0, num_sets, MIXABLE) <= 0.055
    assert share(1.0, num_sets, NOT_MIXABLE, num_gaps=4) <= 0.055


@pytest.mark.usefixtures("_no_forecast")
def test_more_sets_decide_more_often() -> None:
    mixed = [share(0.0, number, MIXABLE) for number in (5, 10, 20)]
    assert mixed[0] < mixed[1] < mixed[2]
    assert mixed[2] >= 0.98
    assert share(2.0, 20, NOT_MIXABLE) >= 0.95
    assert share(0.0, 10, NOT_MIXABLE) <= 0.01


def test_scores_that_are_the_same_may_be_mixed_and_a_constant_change_is_not_known() -> None:
    same, constant, single = (paired_gap(np.array(values)) for values in ([0.0, 0, 0], [0.5, 0.5, 0.5], [0.2]))
    assert judge_gaps([same], ACCURACY, 0.95) == MIXABLE
    assert judge_gaps([same, constant], ACCURACY, 0.95) == UNDECIDED
    assert judge_gaps([single], ACCURACY, 0.95) == UNDECIDED


# --- from folders -----------------------------------------------------------------------------
def folders(
    home: Path, changes: Mapping[str, Sequence[float]], devices: tuple[str, str] = ("cpu", GPU), **more: object
) -> str:
    """records= of two folders: scores of one device, and those of another that are so much higher, seed by seed."""
    rng = np.random.default_rng(0)
    first = {name: {s: list(50 + 5 * rng.standard_normal(3)) for s in range(len(of))} for name, of in changes.items()}
    second = {name: {s: [v + of[s] for v in first[name][s]] for s in range(len(of))} for name, of in changes.items()}
    for folder, scores, device in (("a", first, devices[0]), ("b", second, devices[1])):
        settings = {"parameters": {"epochs": 2}} | (more if folder == "b" else {})
        store = recorded(home / folder, scores, **settings)  # type: ignore[arg-type]
        for path in (store.folder / "measured").rglob("*.jsonl"):
            bodies = read_lines(path, ordered=False)[0]
            path.write_bytes(b"".join(encode_line(body | {"device": device}) for body in bodies))
    return f"records={home / 'a'},{home / 'b'}"


def verify_devices(*words: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["verify", "devices", *words])
    assert done.exit_code == code or isinstance(done.exception, ValueError), (done.output, done.exception)
    return " ".join((done.output if code == 0 else str(done.exception)).split())


SMALL = [0.1, -0.1, 0.05, -0.02, 0.08, -0.12, 0.03]
LARGE = [2.1, 1.9, 2.0, 2.2, 1.8, 2.1, 2.0]
WIDE = [1.5, -1.5, 1.0, -0.5, 1.2, -1.8, 0.7]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"random": SMALL, "mine": SMALL[::-1]}, f"records of cpu and {GPU} may be mixed: by 90 % intervals no mean"),
        ({"random": [0.0] * 7, "mine": [0.0] * 7}, "may be mixed: all scores are the same, 7 initial sets"),
        ({"random": LARGE, "mine": LARGE}, "may not be mixed: the second changes random by +2.01"),
        ({"random": SMALL, "mine": LARGE}, "may not be mixed: the second changes mine by +2.01"),
        (
            {"random": WIDE, "mine": SMALL},
            f"whether records of cpu and {GPU} may be mixed is undecided: by 90 % intervals",
        ),
    ],
)
def test_two_folders_get_one_sentence(tmp_path: Path, changes: Mapping[str, Sequence[float]], message: str) -> None:
    assert message in verify_devices(folders(tmp_path, changes))


def test_rows_are_strategies_and_their_differences(tmp_path: Path) -> None:
    words = folders(tmp_path, {"random": SMALL, "mine": [score + 0.3 for score in SMALL]})
    done = CliRunner().invoke(app, ["verify", "devices", words, "format=json"])
    rows = {(row["strategy"], row["against"]): row for row in json.loads(done.stdout)}
    assert set(rows) == {("random", ""), ("mine", ""), ("mine", "random")}
    assert rows["mine", ""]["area"] == pytest.approx(np.mean(SMALL) + 0.3)
    assert rows["mine", "random"]["final"] == pytest.approx(0.3)
    assert all(row["sets"] == 7 and row["devices"] == ["cpu", GPU] for row in rows.values())
    assert "random minus mine" in verify_devices(words, "reference=mine")


def test_about_how_many_sets_would_decide(tmp_path: Path) -> None:
    [forecast] = [
        part for part in verify_devices(folders(tmp_path, {"random": WIDE})).split(", ") if part.startswith("about ")
    ]
    number = int(forecast.split()[1])
    assert 8 <= number <= 60


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["records={a}"], "verify devices compares two folders, one for each device: records=A,B"),
        (["records={a},{b}", "reference=isal"], "made_up has no strategy 'isal'"),
        (["records={a},{a}"], "there is nothing to compare"),
        (["records={a},{b}", "task=cifar10"], "task=cifar10"),
    ],
)
def test_what_does_not_fit_is_one_line(tmp_path: Path, words: Sequence[str], message: str) -> None:
    folders(tmp_path, {"random": SMALL})
    assert message in verify_devices(*(word.format(a=tmp_path / "a", b=tmp_path / "b") for word in words), code=2)


def test_other_parameters_versions_schedules_or_one_device_are_refused(tmp_path: Path) -> None:
    changes = {"random": SMALL}
    said = verify_devices(folders(tmp_path / "1", changes, parameters={"epochs": 3}), code=2)
    assert "made with other values of epochs of the task: 3 in " in said
    assert "both ran on cpu: there is nothing to compare" in verify_devices(
        folders(tmp_path / "2", changes, ("cpu", "cpu")), code=2
    )
    assert "schedule" in verify_devices(folders(tmp_path / "3", changes, budget=3), code=2)
    words = folders(tmp_path / "4", changes)
    [path] = (tmp_path / "4" / "b" / "measured").rglob("seed-1.jsonl")
    path.write_bytes(b"".join(encode_line(body | {"device": "cpu"}) for body in read_lines(path, ordered=False)[0]))
    assert f"made_up ran on {GPU} and on cpu: give a folder for each device" in verify_devices(words, code=2)


def test_a_metric_without_a_margin_is_refused() -> None:
    from _curves import curve, experiment

    falling = experiment(curve("random", [[1.0, 2.0]]), metric="nll")
    with pytest.raises(ValueError, match="not defined for nll"):
        devices.compare_devices(falling, falling, "random", devices.Price("images"), 0.95)
