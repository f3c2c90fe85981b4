"""Published curves: every printed digit comes back, verdicts on ours, and what does not fit is one line."""

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _curves import PLAIN, curve, experiment, recorded
from typer.testing import CliRunner

from benchmark.analysis.curves import SCALE_MISMATCH, scales_differ
from benchmark.analysis.figures.curves import runs_note
from benchmark.analysis.load_experiments import read_experiments, read_stores, select_experiments
from benchmark.analysis.mean_comparisons import compare_means, describe_means
from benchmark.analysis.options import PUBLISHED_FOLDER, parse_options, split_labels
from benchmark.analysis.published import read_curve_file
from benchmark.analysis.rounds_csv import round_rows
from benchmark.analysis.savings import Price, TargetRule, compute_savings
from benchmark.analysis.stats import pair_runs
from benchmark.analysis.tables import (
    build_table,
    build_tables,
    text_rows,
    tidy_rows,
    to_latex,
    to_markdown,
    write_tables,
)
from benchmark.analysis.verify import counterparts, describe_all_labels, own_label, verify
from benchmark.cli.commands import app

HOME = Path(__file__).parents[1]
HEAD = "source,task,strategy,num_runs,round,num_labelled,boxes,metric,value,std"
SUPPLEMENT = {
    "cifar10", "cifar100", "svhn_as_published", "cifar10_large", "voc2012_fcos", "coco_fcos", "coco_large_fcos",
    "coco_faster_rcnn",
}  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as handle:
        return list(csv.DictReader(handle))


PAPERS = read_experiments(str(PUBLISHED_FOLDER))
EVERYTHING = [row for path in sorted(PUBLISHED_FOLDER.glob("*.csv")) for row in rows_of(path)]


def test_the_supplement_is_there() -> None:
    titles = {paper.title for paper in PAPERS}
    assert {f"isal_2021_{task}" for task in SUPPLEMENT} <= titles
    assert {f"isal_2021_table{number}_cifar10" for number in (1, 2, 3)} <= titles


def test_every_cell_comes_back_digit_by_digit(tmp_path: Path) -> None:
    tables = build_tables(PAPERS)
    write_tables(tables, tmp_path)
    rows = [row for path in sorted(tmp_path.glob("*.csv")) for row in rows_of(path)]
    by_key = {(row["source"], row["task"], row["strategy"], row["round"]): row for row in rows if row["value"]}
    assert len(by_key) == len(EVERYTHING)
    for row in EVERYTHING:
        written = by_key[row["source"], row["task"], row["strategy"], row["round"]]
        assert (written["value"], written["boxes"], written["metric"]) == (row["value"], row["boxes"], row["metric"])
        assert float(written["num_labelled"]) == float(row["num_labelled"])
        assert written["num_runs"] == row["num_runs"]
        assert (float(written["std"]) if written["std"] else None) == (float(row["std"]) if row["std"] else None)


GEAL = "geal_2021_voc0712_one_pass"


def test_the_ablation_of_geal_is_the_file_of_its_figures() -> None:
    """Six settings of attention share, clusters and distance, at three numbers of labels, as printed."""
    [table] = build_tables(select_experiments(PAPERS, GEAL))
    [head, *lines] = text_rows(table)
    rows = [row for row in rows_of(PUBLISHED_FOLDER / "geal_2021.csv") if row["source"] == "geal-2021"]
    assert head == ["strategy", "3,000", "5,000", "7,000"]
    assert [int(head[column].replace(",", "")) for column in (1, 2, 3)] == [int(r["num_labelled"]) for r in rows[:3]]
    values = {strategy: [row["value"] for row in rows if row["strategy"] == strategy] for strategy, *_ in lines}
    assert {strategy: line for strategy, *line in lines} == values
    assert sum(map(len, values.values())) == len(rows) == 18
    assert str(table.metric) == "voc07_map"
    assert table.faults == []  # selections differ from the first image on, so no start is shared


def test_an_unknown_number_of_runs_is_said_and_never_guessed(tmp_path: Path) -> None:
    [paper] = select_experiments(PAPERS, GEAL)
    table = build_table(paper)
    assert table.note.startswith("Mean over an unknown number of runs, as published by geal-2021;")
    assert {curve.known_runs for curve in paper.curves.values()} == {None}
    assert all(row["num_runs"] is row["num_wanted"] is None for row in tidy_rows(table))
    assert all(row["num_runs"] is None for row in round_rows(paper))
    assert runs_note(paper.curves.values()) == "mean of an unknown number of runs"
    [text, *_] = describe_means(compare_means(paper, "geal", "geal[k=5]", 0.95))
    assert text == "geal minus geal[k=5] on voc0712_one_pass: means, published by geal-2021, not paired"
    with pytest.raises(ValueError, match="geal: of its runs only the mean is known"):
        pair_runs(paper.curves["geal"], paper.curves["geal[k=5]"])
    path = tmp_path / "curves.csv"
    path.write_text(f"{HEAD}\nx,t,a,,0,100,,map,0.5,\nx,t,a,3,1,200,,map,0.6,\nx,t,b,3,0,100,,map,0.5,\n")
    [mixed] = read_curve_file(path)
    assert [curve.known_runs for curve in mixed.curves.values()] == [None, 3]
    assert build_table(mixed).legend == ["runs: a unknown, b 3"]


def test_scores_with_all_labels_are_said_beside_ours() -> None:
    pets, streets, digits = (
        experiment(curve("random", [1.0]), title="mine", task=task)
        for task in ("oxford_pet[size=64]", "cityscapes", "digits")
    )
    assert describe_all_labels(pets, PAPERS) == ["mine: with all labels geal-2021 publishes 93.13"]
    assert describe_all_labels(streets, PAPERS) == ["mine: with all labels geal-2021 publishes 76.60"]
    assert describe_all_labels(digits, PAPERS) == describe_all_labels(pets, []) == []


@pytest.mark.parametrize("ending", ["md", "tex"])
def test_every_cell_stands_in_the_printed_table(tmp_path: Path, ending: str) -> None:
    for table in build_tables(PAPERS):
        text = to_markdown(table) if ending == "md" else to_latex(table)
        lines = [re.split(r" \| | ?(?<!\\)& ?", line.strip("| \\")) for line in text.splitlines()]
        own = [row for row in EVERYTHING if (row["source"], row["task"]) == (table.source, table.task)]
        rounds = sorted({int(row["round"]) for row in own})
        for strategy in dict.fromkeys(row["strategy"] for row in own):
            name = strategy.replace("_", r"\_") if ending == "tex" else strategy
            [at] = [n for n, line in enumerate(lines) if re.sub(r"†|\$\^\\dagger\$", "", line[0]) == name]
            for row in (row for row in own if row["strategy"] == strategy):
                column = rounds.index(int(row["round"])) + 1
                spread = {"md": " ± ", "tex": r" $\pm$ "}[ending] + row["std"] if row["std"] else ""
                assert lines[at][column] == row["value"] + spread
                if row["boxes"]:
                    assert lines[at + 1][column] == row["boxes"]
                    ratio = 10_000 * float(row["value"]) / float(row["boxes"])
                    assert lines[at + 2][column] == f"{ratio:.3f}"


def test_committed_tables_are_what_the_command_writes(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["tables", f"records={PUBLISHED_FOLDER}", f"to={tmp_path}"])
    assert result.exit_code == 0, result.output
    committed = HOME / "results" / "published" / "tables"
    assert sorted(path.name for path in (tmp_path / "tables").iterdir()) == sorted(p.name for p in committed.iterdir())
    for path in committed.iterdir():
        assert path.read_text() == (tmp_path / "tables" / path.name).read_text(), path.name


def test_latex_parses(tmp_path: Path) -> None:
    """Braces and environments close, and every row has the columns that the tabular declares."""
    for table in build_tables(PAPERS):
        text = to_latex(table)
        plain = re.sub(r"\\[{}\\]", "", text)
        depth = 0
        for mark in plain:
            depth += (mark == "{") - (mark == "}")
            assert depth >= 0
        assert depth == 0
        environments = []
        for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", text):
            environments.append(name) if kind == "begin" else environments.remove(name)
        assert environments == []
        [columns] = re.findall(r"\\begin\{tabular\}\{(\w+)\}", text)
        body = text.partition(r"\toprule")[2].partition(r"\bottomrule")[0]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert len(rows) == len(text_rows(table))
        assert {len(re.findall(r"(?<!\\)&", row)) for row in rows} == {len(columns) - 1}
        assert not re.search(r"(?<!\\)[_%#]", text)


def test_list_published() -> None:
    result = CliRunner().invoke(app, ["list", "published", "format=json"])
    assert result.exit_code == 0
    assert '"source": "isal-2021"' in result.stdout
    assert "ICCV 2021" in result.stdout


# --- bad input --------------------------------------------------------------------------------
ROW = "x,cifar10,a,5,0,1000,,accuracy,50.0,"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "it lacks the columns source, task, strategy"),
        (f"{HEAD}\n{ROW.replace('50.0', 'nan')}\n", "a: value nan is not finite"),
        (f"{HEAD}\n{ROW.replace('50.0', 'inf')}\n", "a: value inf is not finite"),
        (f"{HEAD}\n{ROW.replace('50.0', 'many')}\n", "a: value 'many' is no number"),
        (f"{HEAD}\n{ROW}\n{ROW}\n", "x cifar10 a has a round twice"),
        (f"{HEAD}\n", "holds no curves"),
        ("", "No columns"),
        (f"{HEAD}\n{ROW.replace(',5,0,', ',0,0,')}\n", "num_runs must be at least 1"),
        (f"{HEAD}\n{ROW.replace('1000', '')}\n", "a value lacks its num_labelled"),
        (f"{HEAD}\n{ROW}\n{ROW.replace('accuracy', 'map').replace(',a,', ',b,')}\n", "has more than one metric"),
        (f"{HEAD}\n{ROW.replace(',5,0,', ',five,0,')}\n", "five"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "curves.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read_curve_file(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_where_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no results: neither a run nor CSV files"):
        read_experiments(str(tmp_path))
    with pytest.raises(ValueError, match=r"'cifar1' \(did you mean 'cifar10'\?\)"):
        select_experiments(PAPERS, "cifar1")
    with pytest.raises(ValueError, match="records= and out= name the same thing"):
        parse_options(["records=a", "out=b"], "tables")
    with pytest.raises(ValueError, match="level=2"):
        parse_options(["level=2"], "tables")
    with pytest.raises(ValueError, match="eval_al_2023_cifar10_2k is there twice"):
        read_experiments(f"{PUBLISHED_FOLDER},{PUBLISHED_FOLDER}")
    assert split_labels("a[p=1,q=b[k=1]],c , d[x=2]") == ["a[p=1,q=b[k=1]]", "c", "d[x=2]"]


def test_two_folders_are_put_together_or_refused(tmp_path: Path) -> None:
    first = recorded(tmp_path / "one", {"random": PLAIN["random"]})
    second = recorded(tmp_path / "two", {"mine": PLAIN["mine"]})
    [results] = read_experiments(f"{first.folder},{second.folder}")
    assert list(results.curves) == ["random", "mine"]
    assert read_experiments(f"{first.folder},{first.folder}")[0].curves["random"].num_runs == 3
    other = recorded(tmp_path / "other", {"random": {0: [1.0, 2.0, 3.0]}})
    with pytest.raises(ValueError, match="are the same cell with other settings, data or records"):
        read_experiments(f"{first.folder},{other.folder}")
    manifest = second.folder / "grid.json"
    manifest.write_text(manifest.read_text().replace('"task": "digits"', '"task": "digits[epochs=3]"'))
    with pytest.raises(ValueError, match=r"with task digits\[epochs=3\], elsewhere digits: not the same experiment"):
        read_experiments(f"{first.folder},{second.folder}")


# --- verdicts ---------------------------------------------------------------------------------
def paper(tmp_path: Path, values: list[float], *, task: str = "made_up", std: str = "") -> Path:
    lines = [f"p,{task},mine,5,{n},{4 + 2 * n},,accuracy,{value},{std}" for n, value in enumerate(values)]
    (tmp_path / "p.csv").write_text("\n".join([HEAD, *lines]) + "\n")
    (tmp_path / "sources.yaml").write_text("p: {recipes: {made_up: digits, other: digits}}\n")
    return tmp_path / "p.csv"


CLOSE = {"mine": {s: [50.0 + s / 10, 60.0 - s / 10, 70.0 + s / 10] for s in range(3)}}


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [(0.0, "", "reproduced"), (3.0, "", "weaker"), (-3.0, "", "stronger"), (0.0, "9", "inconclusive")],
)
def test_verdicts(tmp_path: Path, shift: float, spread: str, verdict: str) -> None:
    path = paper(tmp_path, [50.1 + shift, 59.9 + shift, 70.1 + shift], std=spread)
    [row] = verify(read_stores([recorded(tmp_path / "run", CLOSE)]), read_experiments(str(path)))
    assert row.verdict == verdict
    assert [gap.value for gap in row.gaps] == pytest.approx([-shift, -shift, -shift], abs=0.11)
    assert ("assumes equal spread" in row.why) == (not spread)
    if spread:
        assert row.why.startswith("known to ± ")
        assert row.why.endswith("the margin is ± 1: more runs of ours cannot decide: the paper has 5 runs")


@pytest.mark.parametrize(("values", "is_refused"), [([0.5, 0.6, 0.7], True), ([50.0, 60.0, 70.0], False)])
def test_shares_are_not_compared_with_per_cent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], values: list[float], is_refused: bool
) -> None:
    path, mine = paper(tmp_path, values), recorded(tmp_path / "run", CLOSE)
    [row] = verify(read_stores([mine]), read_experiments(str(path)))
    assert (SCALE_MISMATCH in row.why) == is_refused
    result = CliRunner().invoke(app, ["tables", f"out={mine.folder}", f"against={path}", f"to={tmp_path / 'to'}"])
    assert result.exit_code == 0, result.exception
    assert (
        f"made_up: scores: ours reach 70.2, published {max(values):.3g}: {SCALE_MISMATCH}" in result.stderr
    ) == is_refused


def test_savings_of_shares_against_per_cent_are_refused() -> None:
    shares, per_cent = (
        curve(name, [[0.5 * top, 0.7 * top]], seeds=(), num_runs=3) for name, top in (("a", 1), ("b", 100))
    )
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="a and b cannot be compared: one is in shares"):
        compute_savings(experiment(shares, per_cent), "a", "b", TargetRule("final"), Price("images"), rng)
    assert not scales_differ(0.9, 1.2)  # a poor model beside a poor one
    assert not scales_differ(np.nan, 70.0)


def test_why_curves_cannot_be_compared(tmp_path: Path) -> None:
    path = paper(tmp_path, [50.0, 60.0, 70.0])
    mine = read_stores([recorded(tmp_path / "run", CLOSE)])
    sources = tmp_path / "sources.yaml"
    for text, why in [
        ("p: {recipes: {made_up: 'digits[epochs=9]'}}", "recipe: ours digits, published digits[epochs=9]"),
        ("p: {recipes: {made_up: cifar10}}", "data: ours digits, published cifar10"),
        ("p: {}", "recipe: not known for this source"),
        ("p: {recipes: {made_up: digits}, strategies: {mine: gone}}", "strategy: none of ours is called mine"),
    ]:
        sources.write_text(text + "\n")
        [row] = verify(mine, read_experiments(str(path)))
        assert (row.verdict, row.why) == ("not comparable", why)
    sources.write_text("p: {recipes: {made_up: digits}}\n")
    [row] = verify(
        read_stores([recorded(tmp_path / "single", {"mine": {0: [50.0, 60.0, 70.0]}})]), read_experiments(str(path))
    )
    assert (row.verdict, row.why) == ("inconclusive", "it takes 3 runs of ours that differ; there is 1")
    far = path.read_text().replace(",4,", ",4000,").replace(",6,", ",6000,").replace(",8,", ",8000,")
    path.write_text(far)
    [row] = verify(mine, read_experiments(str(path)))
    assert row.why == "data: no number of labels in common"
    path.write_text(far.replace("made_up", "elsewhere"))
    with pytest.raises(ValueError, match="nothing published belongs to made_up; there are curves of elsewhere"):
        verify(mine, read_experiments(str(path)))


def test_the_error_of_a_published_mean_counts() -> None:
    theirs = experiment(curve("a", [[70.0]], [100], seeds=(), num_runs=4, std_R=np.array([2.0])), task="t", title="p_t")
    mine = experiment(curve("a", [[70.0], [70.0], [70.0]], [100]), title="t", runs=(object(),))
    [row] = verify([mine], [theirs])
    [gap] = row.gaps
    assert (gap.standard_error, gap.degrees_of_freedom) == (1.0, 3.0)  # 2 / sqrt(4); ours do not differ at all
    assert row.interval(gap).high == pytest.approx(2.3534, abs=1e-3)  # Student's quantile, 90 % of 3 degrees


def test_ours_are_found_by_name_or_by_what_the_source_tells() -> None:
    papers = PAPERS
    names = {
        "cifar10": ["isal-2021"], "ablation_k": ["isal-2021-table1"], "ablation_similarity": ["isal-2021-table2"],
        "ablation_reference": ["isal-2021-table3"], "cifar10_jpeg": ["isal-2021"], "digits": [],
    }  # fmt: skip
    for title, sources in names.items():
        assert [match.source for match in counterparts(experiment(curve("a", [[1.0]]), title=title), papers)] == sources
    [isal] = [match for match in papers if match.title == "isal_2021_cifar10"]
    mine = {name: curve(name, [[1.0]]) for name in ("random", "isal[order=file,reference=test]")}
    assert own_label(isal, "random", mine) == "random"
    assert own_label(isal, "isal", mine) == "isal[order=file,reference=test]"
    assert own_label(isal, "coreset", mine) is None
    assert own_label(isal, "isal", mine | {"isal[k=2]": curve("isal[k=2]", [[1.0]])}) is None


def test_grids_that_repeat_a_paper_have_every_strategy_of_it() -> None:
    """The mapping in sources.yaml meets the labels of the grids, by their own plug-ins."""
    from benchmark import config
    from benchmark.plugins import discovery

    discovery.discover()
    papers = [item for item in PAPERS if item.source.startswith("isal-2021")]
    experiments = {item.name: item for item in config.build_grid(config.compose_settings(["grid=paper"])).experiments}
    for theirs in papers:
        name = str(theirs.source_info.get("experiments", {}).get(theirs.task, theirs.task))
        mine = experiments[name]
        known = {spec.label: curve(spec.label, [[1.0]]) for spec in mine.strategies}
        assert all(own_label(theirs, label, known) for label in theirs.curves), theirs.title
        assert theirs.source_info["recipes"][theirs.task] == mine.task.label


def test_side_by_side(tmp_path: Path) -> None:
    from benchmark.analysis.verify import published_entries

    path = paper(tmp_path, [50.0, 61.0])
    [mine] = read_stores([recorded(tmp_path / "run", CLOSE)])
    rows = text_rows(build_table(mine, published_entries(mine, read_experiments(str(path)))))
    assert [row[0] for row in rows] == ["strategy", "mine", "  p", "  difference"]
    assert rows[2][1:] == ["50.0", "61.0", "–"]
    assert rows[3][1:] == ["+0.10", "-1.10", ""]


def test_a_metric_without_a_margin_is_no_reproduction() -> None:
    theirs = experiment(curve("a", [[70.0]], [100], seeds=(), num_runs=4), task="t", title="p_t", metric="miou")
    theirs = replace(theirs, source_info={"recipes": {"t": "made_up"}})
    mine = experiment(curve("a", [[70.0], [70.1], [70.0]], [100]), title="t", runs=(object(),), metric="miou")
    [row] = verify([mine], [theirs])
    assert (row.verdict, row.why) == ("not comparable", "metric: how close two scores must be is not defined for miou")
