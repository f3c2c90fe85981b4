"""A page a strategy, from its docstring and from committed records: `python -m tools.pages docs/strategies`.

The measured rows are those of `results/reference/all`, where every strategy runs with few labels on embedded data.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmark.analysis.curves import Experiment
from benchmark.analysis.reading import read_experiments
from benchmark.analysis.seconds import mean_seconds as timed
from benchmark.plugins import discovery, registry
from benchmark.plugins.registry import Plugin
from benchmark.system import files
from benchmark.text import notation
from benchmark.text.notation import format_value

RECORDS = Path("results/reference/all")
SECTIONS = {"Deviation": "deviations", "Logs": "logs", "Cost": "cost"}  # how such a part of a docstring begins


def render_pages(home: Path) -> dict[str, str]:
    """File name -> page, for every strategy of the package. `home`: the repository's root."""
    experiments = read_experiments(str(home / RECORDS)) if (home / RECORDS).is_dir() else []
    own = [
        one for one in registry.REGISTRY["strategy"].values() if registry.source_file(one).parent == home / "strategies"
    ]
    found = {f"{one.name}.md": strategy_page(one, experiments) for one in sorted(own, key=lambda one: one.name)}
    return {"README.md": contents_page(sorted(own, key=lambda one: one.name)), **found}


def contents_page(own: list[Plugin]) -> str:
    """The list of all pages."""
    rows = [f"| [{one.name}]({one.name}.md) | {paper_sentence(one)} | {needed_capabilities(one)} |" for one in own]
    head = ["# Strategies", "", "| strategy | source | what it asks the task for |", "| --- | --- | --- |"]
    how = "Rendered from the docstrings and from `results/reference/all` by `python -m tools.pages docs/strategies`."
    return "\n".join([*head, *rows, "", how, ""])


def strategy_page(plugin: Plugin, experiments: list[Experiment]) -> str:
    """One strategy's page."""
    parts = docstring_sections(plugin)
    lines = [f"# {plugin.name}", "", paper_sentence(plugin), "", parts.pop("what"), ""]
    lines += [f"**Asks the task for:** {needed_capabilities(plugin)}. **Version** {plugin.version}.", ""]
    if trained := plugin.companion and plugin.companion(**default_parameters(plugin)):
        lines += [f"**Trains beside the model:** `{type(trained).__name__}`.", ""]
    lines += parameter_table(plugin, parts)
    for name, title in (("deviations", "Deviations"), ("cost", "Cost"), ("logs", "Puts into the record")):
        if name in parts:
            lines += [f"## {title}", "", parts[name], ""]
    return "\n".join([*lines, *measured_section(plugin, experiments)])


def paper_sentence(plugin: Plugin) -> str:
    """The first sentence of the file: whose strategy it is."""
    told = inspect.getdoc(sys.modules[plugin.function.__module__]) or ""
    return " ".join(told.partition("Shapes:")[0].split())


def default_parameters(plugin: Plugin) -> dict[str, object]:
    """Its parameters at their defaults; text for those that must be given."""
    return {name: "" if value is registry.REQUIRED else value for name, (_, value) in plugin.parameters().items()}


def needed_capabilities(plugin: Plugin) -> str:
    """What it needs, with its defaults."""
    return ", ".join(f"`{need}`" for need in sorted(plugin.resolve_needs(default_parameters(plugin)))) or "nothing"


def docstring_sections(plugin: Plugin) -> dict[str, str]:
    """A docstring in parts: `what`, one for each parameter that it explains (`a, b: words`), and SECTIONS."""
    text = " ".join((inspect.getdoc(plugin.function) or "").split())
    names = "|".join(sorted(plugin.parameters(), key=len, reverse=True)) or "(?!)"
    begins = rf"(?:^|(?<=[.)] ))(?:(?P<names>(?:{names})(?:, (?:{names}))*): |(?P<section>{'|'.join(SECTIONS)})\w*:? )"
    found = list(re.finditer(begins, text))
    ends = [*(match.start() for match in found), len(text)]
    parts = {"what": text[: ends[0]].strip()}
    for match, end in zip(found, ends[1:], strict=True):
        name = match["names"] or SECTIONS[match["section"]]
        words = text[match.end() : end].strip()
        parts[name] = f"{parts[name]} {words}" if name in parts else words[:1].upper() + words[1:]
    return parts


def parameter_table(plugin: Plugin, parts: dict[str, str]) -> list[str]:
    """The table of its hyperparameters; where they come from is in their words."""
    rows = []
    for name, (_, default) in plugin.parameters().items():
        words = next((parts[key] for key in parts if name in key.split(", ")), "")
        value = (
            "must be given"
            if default is registry.REQUIRED
            else f"`{format_value(default)}`"
            if default != ""
            else "none"
        )
        rows.append(f"| `{name}` | {value} | {words.replace('|', chr(92) + '|')} |")
    head = ["## Hyperparameters", "", "| name | default | what it is, and whose value |", "| --- | --- | --- |"]
    return [*head, *rows, ""] if rows else []


def measured_section(plugin: Plugin, experiments: list[Experiment]) -> list[str]:
    """Its rows: the last round beside that of the experiment's first strategy, and the seconds of a selection."""
    rows = [row for one in experiments for row in measured_rows(plugin, one)]
    if not rows:
        return []
    head = [
        "## Measured", "", "| experiment | as | labels | score | beside | seconds a selection | of an encoder, once |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]  # fmt: skip
    how = f"Mean ± sample standard deviation over seeds, from `{RECORDS}`: few labels on small data, on a CPU."
    return [*head, *rows, "", how, ""]


def measured_rows(plugin: Plugin, experiment: Experiment) -> Iterator[str]:
    """One row for each spelling of the strategy in an experiment."""
    scores = {name: format_scores(curve.value_SR[:, -1]) for name, curve in experiment.curves.items()}
    beside = next((f"{score} (`{label}`)" for label, score in scores.items()), "")
    for label, score in scores.items():
        if notation.parse_label(label)[0] == plugin.name:
            schedule = experiment.schedule
            num = schedule.num_acquisitions if schedule and not schedule.one_pass else 1
            took = {one.strategy: one for one in timed(experiment)}.get(label)
            select, encode = (f"{took.select / num:.2g}", f"{took.encode:.2g}") if took else ("–", "–")
            labels = f"{experiment.num_labelled_R[-1]:,.0f}"
            yield f"| {experiment.title} | `{label}` | {labels} | {score} | {beside} | {select} | {encode} |"


def format_scores(values_S: npt.NDArray[np.float64]) -> str:
    """Mean and deviation of the seeds that there are."""
    there = values_S[np.isfinite(values_S)]
    if not len(there):
        return "–"
    spread = f" ± {there.std(ddof=1):.3g}" if len(there) > 1 else ""
    return f"{there.mean():.4g}{spread}"


if __name__ == "__main__":
    discovery.discover()
    folder = Path(sys.argv[1])
    for name, text in render_pages(folder.resolve().parent.parent).items():
        files.write_atomically(folder / name, text)
