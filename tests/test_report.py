"""The report is one file without dependencies: it shows all results, escapes all names, and opens in a browser."""

import html
import json
import re
import shutil
import subprocess
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest
from _curves import PLAIN, recorded
from typer.testing import CliRunner

from benchmark.analysis.audit import CHECKS
from benchmark.analysis.report import CAPTIONS, MISSING_GLYPHS_NOTE, add_line_breaks
from benchmark.analysis.verify import VERDICTS_NOTE
from benchmark.cli.analysis_commands import SAVINGS_NOTE
from benchmark.cli.commands import app
from benchmark.records.store import Store

HOSTILE = '<img src=x onerror="alert(1)"> & </script><script>alert(2)</script> $x_1$'
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


class Page(HTMLParser):
    """Elements of a page, with their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(store: Store, *words: str) -> Path:
    result = CliRunner().invoke(app, ["report", f"out={store.folder}", *words])
    assert result.exit_code == 0, result.output + repr(result.exception)
    path = Path(result.stdout.strip())
    assert path == store.folder / "report.html"
    return path


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return report(recorded(tmp_path_factory.mktemp("report"), PLAIN))


def test_the_page_loads_nothing_from_elsewhere(page_path: Path) -> None:
    page = Page(page_path.read_text())
    assert "default-src 'none'" in (page.all("meta")[2]["content"] or "")
    assert page.all("link") == []
    assert len(page.all("script")) == 1
    images = page.all("img")
    assert len(images) >= 4
    assert all((image["src"] or "").startswith("data:image/") and image["alt"] for image in images)
    outside = re.compile(r"(?:src|href)=\"(?!#|data:|cells/)|url\(|@import|https?://")
    assert not outside.search(re.sub(r"data:image[^\"]*", "data:", page_path.read_text()))


def test_the_page_shows_tables_audit_comparisons_and_provenance(page_path: Path) -> None:
    text = " ".join(Page(page_path.read_text()).text.split())
    for words in (
        "70.00 ± 1.00",
        "66.00 ± 1.00",
        "undecided",
        "made_up: accuracy",
        "Audit: passed",
        "Strategies minus random, seed by seed",
        "4 images at first, then 2 images more, 2 times, 2 images set aside",
    ):
        assert words in text
    for check in CHECKS:
        assert check in text
    assert "python -m benchmark report" in text
    assert "numpy 2" in text


def test_warnings_about_missing_glyphs_become_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warn_of_glyphs(*_: object) -> Path:
        for number in (29399, 29483):
            warnings.warn(f"Glyph {number} missing from font(s) DejaVu Sans.", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
        return tmp_path / "report.html"

    store = recorded(tmp_path, PLAIN)
    monkeypatch.setattr("benchmark.analysis.report.write_report", warn_of_glyphs)
    result = CliRunner().invoke(app, ["report", f"out={store.folder}"])
    assert result.stderr.splitlines()[:2] == [MISSING_GLYPHS_NOTE, "something else"]


def test_intervals_are_not_broken(page_path: Path) -> None:
    page = page_path.read_text(encoding="utf-8")
    assert re.search(r"<td>[+-][\d.]+ \[[+-][\d.]+, [+-][\d.]+\]</td>", page)
    assert not re.search(r"<wbr>[+-]?\d", page)


def test_names_break_behind_commas_brackets_and_underscores() -> None:
    assert add_line_breaks("a[b=1,c_d=<x>]") == "a[<wbr>b=1,<wbr>c_<wbr>d=&lt;x&gt;]"


def test_captions_explain_the_marks_of_a_figure(page_path: Path) -> None:
    captions = Page(page_path.read_text(encoding="utf-8")).text
    for words in ("Shaded: 95 % interval of the mean", "dots: single runs", "a mark for each run"):
        assert words in captions


def test_captions_say_whether_tests_and_intervals_are_corrected(page_path: Path) -> None:
    """Every interval, band and test says whether it is corrected for multiple comparisons, and over what."""
    for name, words in {
        "curves": "of each round alone: not corrected for their number",
        "savings": "pointwise: of each score alone, not corrected for their number",
        "penalties": "Tests of single rounds, not corrected",
        "ranks": "over all pairs together",
    }.items():
        assert words in CAPTIONS[name]
    page = " ".join(Page(page_path.read_text(encoding="utf-8")).text.split())
    assert "of this table alone: it gives the verdict" in page
    assert "[ ]: intervals, each taken alone: not corrected for their number" in page
    assert "not corrected for multiple comparisons" in SAVINGS_NOTE
    assert "corrected (Holm) for the rounds of this curve alone" in VERDICTS_NOTE


def test_each_number_leads_to_its_records(page_path: Path) -> None:
    page = Page(page_path.read_text())
    links = [attributes["href"] or "" for attributes in page.all("a")]
    places = {attributes.get("id") for _, attributes in page.elements}
    numbers = [link for link in links if link.startswith("#made_up-")]
    assert len(numbers) == 9  # three strategies, three rounds
    assert set(numbers) <= {f"#{place}" for place in places}
    files = [link for link in links if link.startswith("cells/")]
    assert len(files) == 9  # three strategies, three seeds
    assert all((page_path.parent / file).is_file() for file in files)


def test_figures_lie_beside_it(page_path: Path) -> None:
    names = sorted(path.name for path in (page_path.parent / "figures").iterdir())
    for stem in ("made_up-curves-images", "made_up-savings", "made_up-overlap", "made_up-seconds"):
        assert {f"{stem}.png", f"{stem}.svg", f"{stem}.pdf"} <= set(names)


def test_hostile_names_are_text(tmp_path: Path) -> None:
    store = recorded(tmp_path / "run", PLAIN)
    manifest = store.folder / "grid.json"
    content = json.loads(manifest.read_text())
    for cell in content["experiments"][0]["cells"]:
        cell["strategy"] = HOSTILE if cell["strategy"] == "mine" else cell["strategy"]
    content["grid"] = HOSTILE
    manifest.write_text(json.dumps(content))
    page = Page(report(store).read_text())
    assert len(page.all("script")) == 1
    assert not any("onerror" in attributes for attributes in page.all("img"))
    assert HOSTILE in page.text
    assert html.escape(HOSTILE, quote=False).replace('"', "&#34;") in (store.folder / "report.html").read_text()


def test_a_failed_audit_is_shown(tmp_path: Path) -> None:
    store = recorded(tmp_path / "run", {**PLAIN, "mine": {0: [50.0, 60.0, 5.0]}})
    text = " ".join(Page(report(store).read_text()).text.split())
    assert "Audit: failed" in text
    assert "mine seed 0: round 2 scores 5, after 60: not converged" in text


def test_published_curves_have_a_report_too(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["report", "records=published", "task=isal_2021_voc2012_fcos", f"to={tmp_path}"])
    assert result.exit_code == 0, result.output
    text = Page((tmp_path / "report-isal_2021_voc2012_fcos.html").read_text()).text
    assert "0.02366667" in text
    assert "as published by isal-2021" in text


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_in_a_browser_offline_without_an_error(page_path: Path, tmp_path: Path, scheme: str) -> None:
    """A script appended to a copy of the page sorts the table and writes its observations into the title."""
    probe = """<script>
const seen = { errors: [], background: getComputedStyle(document.body).backgroundColor };
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("load", () => {
document.querySelectorAll("table.sortable thead button")[3].click();
seen.order = [...document.querySelectorAll("table.sortable")[0].tBodies[0].rows].map((row) => row.cells[0].textContent);
seen.images = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
seen.overflow = document.documentElement.scrollWidth - innerWidth;
document.title = "seen " + JSON.stringify(seen);
});
</script>"""
    page = tmp_path / "report.html"
    page.write_text(page_path.read_text().replace("</body>", probe + "</body>"))
    dark = ["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []
    result = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", *dark,
            "--window-size=500,800", "--virtual-time-budget=4000", "--enable-logging=stderr", "--dump-dom",
            f"file://{page}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "CONSOLE" not in result.stderr, result.stderr
    [title] = re.findall(r"<title>seen (.*?)</title>", result.stdout)
    observed = json.loads(html.unescape(title))
    assert observed["errors"] == []
    assert observed["images"]
    assert observed["order"] == ["mine", "other", "random"]  # 70 66.3 66: by the last round, best first
    assert observed["overflow"] <= 0  # nothing is wider than the screen of a phone
    assert observed["background"] == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(21, 23, 26)")
