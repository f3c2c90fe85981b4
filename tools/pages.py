"""Renders a page for each strategy, from its docstring and from committed records.

    python -m tools.pages docs/strategies

The measured rows come from `results/reference/all`, where every strategy runs with few labels on small data.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import read_experiments
from benchmark.analysis.seconds import mean_seconds
from benchmark.plugins import discovery, registry
from benchmark.plugins.registry import Plugin
from benchmark.system import files
from benchmark.text import notation
from benchmark.text.notation import format_value

RECORDS = Path("results/reference/all")
SECTIONS = ("Args", "References", "Deviations", "Cost", "Logs")  # of a strategy's docstring


def render_pages(home: Path) -> dict[str, str]:
    """Renders the page of every strategy of the package, and the list of all pages.

    Args:
        home: the root of the repository.

    Returns:
        The text of each page by file name.
    """
    experiments = read_experiments(str(home / RECORDS)) if (home / RECORDS).is_dir() else []
    registered = registry.REGISTRY["strategy"].values()
    plugins = [plugin for plugin in registered if registry.source_file(plugin).parent == home / "strategies"]
    plugins.sort(key=lambda plugin: plugin.name)
    pages = {f"{plugin.name}.md": strategy_page(plugin, experiments) for plugin in plugins}
    return {"README.md": contents_page(plugins), **pages}


def contents_page(plugins: list[Plugin]) -> str:
    """The page that lists all strategies."""
    rows = [
        f"| [{plugin.name}]({plugin.name}.md) | {paper_sentence(plugin)} | {needed_capabilities(plugin)} |"
        for plugin in plugins
    ]
    head = ["# Strategies", "", "| strategy | source | capabilities that it needs |", "| --- | --- | --- |"]
    origin = "Rendered from the docstrings and from `results/reference/all` by `python -m tools.pages docs/strategies`."
    return "\n".join([*head, *rows, "", origin, ""])


def strategy_page(plugin: Plugin, experiments: list[Experiment]) -> str:
    """The page of one strategy."""
    sections = docstring_sections(plugin)
    lines = [f"# {plugin.name}", "", paper_sentence(plugin), "", sections[""], ""]
    lines += [f"**Needs from the task:** {needed_capabilities(plugin)}. **Version** {plugin.version}.", ""]
    if companion := plugin.companion and plugin.companion(**default_parameters(plugin)):
        lines += [f"**Trains a companion:** `{type(companion).__name__}`.", ""]
    lines += parameter_table(plugin, split_entries(sections.get("Args", "")))
    if "References" in sections:
        references = split_indented(sections["References"])
        lines += ["## References", "", *(f"* {reference}" for reference in references), ""]
    for name in ("Deviations", "Cost"):
        if name in sections:
            lines += [f"## {name}", "", join_lines(sections[name]), ""]
    if "Logs" in sections:
        logs = split_entries(sections["Logs"])
        lines += ["## Recorded diagnostics", "", *(f"* `{name}`: {meaning}" for name, meaning in logs.items()), ""]
    return "\n".join([*lines, *measured_section(plugin, experiments)])


def paper_sentence(plugin: Plugin) -> str:
    """The first sentence of the strategy's file: its name, authors and year."""
    text = inspect.getdoc(sys.modules[plugin.function.__module__]) or ""
    return join_lines(text.partition("Shapes:")[0])


def default_parameters(plugin: Plugin) -> dict[str, object]:
    """The strategy's parameters at their defaults; "" for those that must be given."""
    return {name: "" if default is registry.REQUIRED else default for name, (_, default) in plugin.parameters().items()}


def needed_capabilities(plugin: Plugin) -> str:
    """The capabilities that the strategy needs with its default parameters."""
    return ", ".join(f"`{need}`" for need in sorted(plugin.resolve_needs(default_parameters(plugin)))) or "nothing"


def docstring_sections(plugin: Plugin) -> dict[str, str]:
    """Splits a docstring at lines that read `Name:`; the text before the first of them is the section ""."""
    opening, *parts = re.split(r"^(\w+):\n", inspect.getdoc(plugin.function) or "", flags=re.MULTILINE)
    bodies = (textwrap.dedent(body).strip() for body in parts[1::2])
    paragraphs = (join_lines(paragraph) for paragraph in opening.split("\n\n"))
    return {"": "\n\n".join(paragraphs).strip(), **dict(zip(parts[::2], bodies, strict=True))}


def split_indented(text: str) -> list[str]:
    """Splits a section into its entries: a line that is indented goes on with the entry above it."""
    return [join_lines(entry) for entry in re.split(r"\n(?!\s)", text) if entry]


def split_entries(text: str) -> dict[str, str]:
    """Splits a section of `name: meaning` entries into meanings by name."""
    pairs = (entry.partition(": ") for entry in split_indented(text))
    return {name: meaning[:1].upper() + meaning[1:] for name, _, meaning in pairs}


def join_lines(text: str) -> str:
    """A text in one line."""
    return " ".join(text.split())


def parameter_table(plugin: Plugin, meanings: dict[str, str]) -> list[str]:
    """The table of the strategy's hyperparameters: name, default, and what its docstring says."""
    rows = []
    for name, (_, default) in plugin.parameters().items():
        value = "must be given" if default is registry.REQUIRED else f"`{format_value(default)}`"
        meaning = meanings.get(name, "").replace("|", "\\|")
        rows.append(f"| `{name}` | {'none' if default == '' else value} | {meaning} |")
    head = ["## Hyperparameters", "", "| name | default | meaning |", "| --- | --- | --- |"]
    return [*head, *rows, ""] if rows else []


def measured_section(plugin: Plugin, experiments: list[Experiment]) -> list[str]:
    """The strategy's last scores, those of each experiment's first strategy, and the seconds of one selection."""
    rows = [row for experiment in experiments for row in measured_rows(plugin, experiment)]
    if not rows:
        return []
    head = [
        "## Measured", "",
        "| experiment | strategy | labels | score | first strategy | seconds per selection | encoder seconds, once |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    origin = f"Mean ± sample standard deviation over seeds, from `{RECORDS}`: few labels on small data, on a CPU."
    return [*head, *rows, "", origin, ""]


def measured_rows(plugin: Plugin, experiment: Experiment) -> Iterator[str]:
    """One row for each label of an experiment that names the strategy: it may run with several parameters."""
    scores = {label: format_scores(curve.value_SR[:, -1]) for label, curve in experiment.curves.items()}
    first = next((f"{score} (`{label}`)" for label, score in scores.items()), "")
    schedule = experiment.schedule
    num_selections = schedule.num_acquisitions if schedule and not schedule.one_pass else 1
    times = {mean.strategy: mean for mean in mean_seconds(experiment)}
    for label, score in scores.items():
        if notation.parse_label(label)[0] == plugin.name:
            seconds = times.get(label)
            select = f"{seconds.select / num_selections:.2g}" if seconds else "–"
            encode = f"{seconds.encode:.2g}" if seconds else "–"
            num_labels = f"{experiment.num_labelled_R[-1]:,.0f}"
            yield f"| {experiment.title} | `{label}` | {num_labels} | {score} | {first} | {select} | {encode} |"


def format_scores(values_S: npt.NDArray[np.float64]) -> str:
    """Mean and sample standard deviation over the seeds that have a score."""
    recorded_S = values_S[np.isfinite(values_S)]
    if not len(recorded_S):
        return "–"
    spread = f" ± {recorded_S.std(ddof=1):.3g}" if len(recorded_S) > 1 else ""
    return f"{recorded_S.mean():.4g}{spread}"


if __name__ == "__main__":
    discovery.discover()
    folder = Path(sys.argv[1])
    for name, text in render_pages(folder.resolve().parent.parent).items():
        files.write_atomically(folder / name, text)
