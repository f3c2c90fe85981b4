"""The results that `benchmark.run`, `load` and `published` return: records or published curves, and their analysis.

Each method computes the numbers that the command of the same name prints. Imports no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmark.analysis import answers, audit, rounds_csv, savings, tables
from benchmark.analysis.curves import Experiment
from benchmark.analysis.load_experiments import read_experiments, select_experiments
from benchmark.analysis.options import AnalysisOptions, anonymize, parse_options, resolve_paths
from benchmark.analysis.settings import RECORD_SETTINGS, setting_types
from benchmark.text import notation
from benchmark.text.frames import build_frame
from benchmark.text.words import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = "frame(), class_scores(), table(), savings(), compare(), audit(), plot(), report()"


@dataclass(frozen=True)
class Results:
    """Records of runs, or published curves. `print` shows their tables.

    Args:
        experiments: each a task under one schedule, with the strategies that are compared with each other.
        record_paths: the folders and CSV files that they were read from.
        failures: a line for each cell that failed in the run that returned these results, and one for unfinished cells.
    """

    experiments: tuple[Experiment, ...]
    record_paths: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """The names of the experiments."""
        return [experiment.title for experiment in self.experiments]

    def select(self, experiment: str | None) -> list[Experiment]:
        """Selects experiments by name or by task.

        Args:
            experiment: the name of an experiment, or a task; None: all.

        Raises:
            ValueError: there is no such experiment.
        """
        return select_experiments(self.experiments, experiment or "")

    def frame(self) -> pd.DataFrame:
        """Returns all scores in tidy form: a row for each round of each run, or for each mean that a paper prints.

        `run` and `tables` write the same rows to `rounds.csv` beside the tables. Unknown values are NaN.

        Returns:
            The columns `experiment`, `source` (grid or paper), `task`, `strategy`, `seed`, `num_runs` (runs behind the
            value: 1 of our own), `round`, `images` (labelled images trained on), `boxes` (boxes paid for so far),
            `cost_images` (images paid for so far, including held-out ones), `metric`, `value`, `std` (as a paper
            prints it), `seconds` of the round and of its parts, `fit_seconds`, `select_seconds`, `encode_seconds` and
            `score_seconds`.
        """
        return rounds_csv.to_data_frame(
            row for experiment in self.experiments for row in rounds_csv.round_rows(experiment)
        )

    def class_scores(self, experiment: str | None = None) -> pd.DataFrame:
        """Returns the scores of single classes: a row for each class, score and round of each run.

        Args:
            experiment: the name of an experiment, or a task; None: all, one below the other.

        Returns:
            The columns `experiment`, `source` (the grid), `task`, `strategy`, `seed`, `round`, `images` (labelled
            images trained on), `class`, `score` (`accuracy` of a classifier, `iou` of a segmenter, `ap` and `ap50` of a
            detector, `voc07_ap` of `voc0712`) and `value`. There are no rows for classes that the test set lacks, for
            papers, and for records of releases that did not record these scores.
        """
        rows = (row for member in self.select(experiment) for row in rounds_csv.class_score_rows(member))
        return build_frame(rows, rounds_csv.CLASS_COLUMNS)

    def table(self, experiment: str | None = None) -> pd.DataFrame:
        """Returns means and deviations over the seeds, as `tables/NAME.csv`: a row for each strategy and round.

        Args:
            experiment: the name of an experiment, or a task; None: all, one below the other.
        """
        import pandas as pd  # takes a fifth of a second

        table = pd.concat(
            [tables.tidy_frame(tables.build_table(member)) for member in self.select(experiment)], ignore_index=True
        )
        for name in ("value", "boxes", "std", "num_labelled", "cost_images"):
            table[name] = pd.to_numeric(table[name])
        return table

    def savings(
        self, strategy: str = "", *, against: str = "", at: str | float = "", **options: object
    ) -> pd.DataFrame:
        """Returns what a strategy saves until it reaches a score: a row for each pair of strategies and experiment.

        Args:
            strategy: one or more labels, separated by commas; "": all.
            against: the labels of the strategies to compare it with, in the same form.
            at: where curves are compared: final (at the smaller of both final scores), curve, a score, or
                band:LOW,HIGH; "": the default of each experiment.
            options: `cost` ("images", "boxes" or "time"), `seconds_per_image`, `seconds_per_box`, `level` of the
                intervals and `seed` of the bootstrap, as in the command.

        Returns:
            The columns that `savings format=json` prints, in units of the cost. A pair that cannot be compared is a
            warning.

        Raises:
            ValueError: an option is unknown, or no pair can be compared.
        """

        analysis_options = build_options("savings", {"strategy": strategy, "against": against, "at": at, **options})
        rows, refused = analysis_options.compute_savings_of(self.experiments)
        warn_each([f"not compared: {line}" for line in refused])
        return build_frame(savings.tidy_row(row) for row in rows)

    def compare(self, first: str, second: str, **options: object) -> pd.DataFrame:
        """Returns strategy `first` minus `second`, paired by seed: a row for each experiment that has both.

        Args:
            first: the label of a strategy.
            second: the label of the strategy to compare it with.
            options: `cost`, `seconds_per_image`, `seconds_per_box`, `level` and `seed`, as in the command.

        Returns:
            The columns that `compare A B format=json` prints: differences with intervals and p-values, and the verdict.
            Published curves cannot be paired: they have no p-values, and the verdict "means only".

        Raises:
            ValueError: an option is unknown, or no experiment has runs of both to compare.
        """
        if first == second:
            raise ValueError(f"compare takes two strategies, not {first} twice")
        comparisons = answers.compare_strategies(self.experiments, first, second, build_options("compare", options))
        warn_each([f"not compared: {line}" for line in comparisons.refusals])
        return comparisons.to_data_frame()

    def audit(self) -> pd.DataFrame:
        """Returns the faults that `verify` lists: `experiment`, `check`, `where`, `what`. No row means no fault."""

        faults = [fault for experiment in self.experiments for fault in audit.find_faults(experiment)]
        columns = ("experiment", "check", "where", "what")
        rows = [(fault.experiment, fault.check, fault.where, fault.message) for fault in faults]
        return build_frame((dict(zip(columns, row, strict=True)) for row in rows), columns)

    def plot(self, experiment: str | None = None, *, axis: Literal["images", "boxes"] = "images") -> Figure:
        """Draws the learning curves of an experiment: mean scores against the cost, as in the report.

        Args:
            experiment: the name of an experiment, or its task; None if there is only one.
            axis: the unit of the cost.

        Raises:
            ValueError: there are several experiments, or this cost was not recorded.
        """
        from benchmark.analysis.figures.curves import learning_curves  # matplotlib takes a second to import
        from benchmark.analysis.figures.style import strategy_styles

        selected = self.select(experiment)
        if len(selected) > 1:
            raise ValueError(f"plot takes one experiment: {' or '.join(member.title for member in selected)}")
        figure = learning_curves(
            selected[0], strategy_styles(name for member in self.experiments for name in member.curves), axis
        )
        if figure is None:
            raise ValueError(f"{selected[0].title}: there is nothing to draw over {axis}")
        return figure

    def report(
        self,
        to: str | Path,
        *,
        against: str = "",
        round: int | None = None,
        level: float = 0.95,
        anonymous: bool = False,
    ) -> Path:
        """Writes an HTML page with tables, comparisons, audit and figures, which opens offline; and figures as files.

        Args:
            to: the folder of `report.html` and `figures/`; it is created if missing.
            against: records of papers to compare with, as `published`; "": none.
            round: the round of the scores of single classes, None: the last one; and of the map of the pool, None: 0.
            level: confidence level of intervals and tests.
            anonymous: leave out folders, user, host and commit.

        Returns:
            The path of the page.
        """
        arguments = [f"records={notation.format_list(self.record_paths)}", f"to={to}"]
        settings: dict[str, object] = {
            "against": against,
            "round": round,
            "level": level,
            "to": str(to),
            "anonymous": anonymous,
        }
        options = build_options("report", settings)
        assert options.output_folder is not None
        options.output_folder.mkdir(parents=True, exist_ok=True)
        experiments = anonymize(self.experiments) if anonymous else self.experiments
        page, remarks = answers.write_report(experiments, options, options.output_folder, arguments)
        warn_each(remarks)
        return page

    def __str__(self) -> str:
        return "\n".join(tables.to_markdown(tables.build_table(experiment)) for experiment in self.experiments)

    def __repr__(self) -> str:
        return f"Results of {', '.join(self.names)}: {METHODS}"


def build_options(verb: str, options: dict[str, object]) -> AnalysisOptions:
    """Builds the options of a command from keyword arguments.

    Args:
        verb: the command.
        options: values by the names of the command's settings; "" and None stand for the default.

    Raises:
        ValueError: an option is unknown or invalid.
    """
    names = [name for name in setting_types(verb) if name not in (*RECORD_SETTINGS, "format")]
    for name in options:
        if name not in names:
            raise ValueError(f"no option of {verb} is called {did_you_mean(name, names)}")
    arguments = [f"{name}={notation.format_value(value)}" for name, value in options.items() if value not in ("", None)]
    return parse_options(arguments, verb)


def warn_each(lines: Sequence[str]) -> None:
    """Issues one warning for each line.

    Args:
        lines: the texts of the warnings.
    """
    for line in lines:
        warnings.warn(line, stacklevel=3)


def load(*records: str | Path, task: str = "") -> Results:
    """Reads records and published curves.

    Args:
        records: results folders, CSV files with published curves, and folders of these; runs of one grid in several
            folders are merged, as with `records=A,B`. `published`: the curves that come with the package.
        task: one experiment or task; "": all.

    Raises:
        ValueError: there are no records, or they cannot be merged.
    """
    if not records:
        raise ValueError('load takes the folder of a run or a CSV file: load("results/quick")')
    paths = [path for path in records for path in resolve_paths(str(path), "records")]
    return Results(tuple(select_experiments(read_experiments(paths), task)), tuple(paths))
