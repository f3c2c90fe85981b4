"""What `benchmark.run`, `load` and `published` return: records or published curves, and what they answer.

Each method gives the numbers that the command of the same name prints. Imports no torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from benchmark.analysis import answers, audit, comparison_tables, rounds, savings, tables
from benchmark.analysis.curves import Experiment
from benchmark.analysis.options import AnalysisOptions, anonymize, parse_options, resolve_paths
from benchmark.analysis.reading import read_experiments, select_experiments
from benchmark.analysis.settings import RECORD_SETTINGS, setting_types
from benchmark.text import notation
from benchmark.text.words import did_you_mean

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

METHODS = "frame(), class_scores(), table(), savings(), compare(), audit(), plot(), report()"


@dataclass(frozen=True)
class Results:
    """Records of runs, or published curves. `print` shows their tables.

    Args:
        experiments: what is compared with each other: a task under a schedule each.
        places: the folders and CSV files that they were read from.
        failures: a line for each cell that failed in the run that returned them, and for what is not finished.
    """

    experiments: tuple[Experiment, ...]
    record_paths: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    @property
    def names(self) -> list[str]:
        """What the experiments are called."""
        return [one.title for one in self.experiments]

    def select(self, experiment: str | None) -> list[Experiment]:
        """The experiments of a name or on a task; None: all.

        Raises:
            ValueError: there is none.
        """
        return select_experiments(self.experiments, experiment or "")

    def frame(self) -> pd.DataFrame:
        """The tidy form: a row for each round of each run, or for each mean that a paper prints.

        It is what `run` and `tables` write to `rounds.csv` beside the tables. NaN stands for what is not known.

        Returns:
            The columns `experiment`, `source` (grid or paper), `task`, `strategy`, `seed`, `num_runs` (behind the
            value: 1 of our own), `round`, `images` (labelled images trained on), `boxes` (paid for so far),
            `cost_images` (images paid for so far, those set aside too), `metric`, `value`, `std` (as a paper prints
            it), `seconds` of the round and of its parts, `fit_seconds`, `select_seconds`, `encode_seconds` and
            `score_seconds`.
        """
        return rounds.to_data_frame(row for one in self.experiments for row in rounds.round_rows(one))

    def class_scores(self, experiment: str | None = None) -> pd.DataFrame:
        """The scores of single classes: a row for each class, score and round of each run.

        Args:
            experiment: its name, or a task; None: all, one below the other.

        Returns:
            The columns `experiment`, `source` (the grid), `task`, `strategy`, `seed`, `round`, `images` (labelled
            images trained on), `class`, `score` (`accuracy` of a classifier, `iou` of a segmenter, `ap` and `ap50` of a
            detector) and `value`. Classes of which the test set has nothing have no rows, nor have papers, nor records
            from before they held them.
        """
        import pandas as pd  # takes a fifth of a second

        rows = (row for one in self.select(experiment) for row in rounds.class_score_rows(one))
        return pd.DataFrame(rows, columns=list(rounds.CLASS_COLUMNS))

    def table(self, experiment: str | None = None) -> pd.DataFrame:
        """Means and deviations over the seeds: a row for each strategy and round, as `tables/NAME.csv` holds them.

        Args:
            experiment: its name, or a task; None: all, one below the other.
        """
        import pandas as pd  # takes a fifth of a second

        table = pd.concat(
            [tables.tidy_frame(tables.build_table(one)) for one in self.select(experiment)], ignore_index=True
        )
        for name in ("value", "boxes", "std", "num_labelled", "cost_images"):
            table[name] = pd.to_numeric(table[name])
        return table

    def savings(
        self, strategy: str = "", *, against: str = "", at: str | float = "", **options: object
    ) -> pd.DataFrame:
        """What a strategy saves on the way to a score: a row for each pair of strategies and each experiment.

        Args:
            strategy: one or more labels, separated by commas; all.
            against: the same, of those that it is compared with.
            at: final (the smaller of both final scores), curve, a score, or band:LOW,HIGH; each experiment's own.
            options: `cost` ("images", "boxes" or "time"), `seconds_per_image`, `seconds_per_box`, `level` of the
                intervals and `seed` of the bootstrap, as the command takes them.

        Returns:
            Columns as `savings format=json` prints them, in the cost's unit; a pair that cannot be compared is a
            warning.

        Raises:
            ValueError: an option is not known, or no pair can be compared.
        """
        import pandas as pd

        asked = build_options("savings", {"strategy": strategy, "against": against, "at": at, **options})
        found, refused = asked.compute_savings_of(self.experiments)
        warn_each([f"not compared: {line}" for line in refused])
        return pd.DataFrame([savings.tidy_row(one) for one in found])

    def compare(self, first: str, second: str, **options: object) -> pd.DataFrame:
        """Strategy `first` minus `second`, seed by seed: a row for each experiment that has both.

        Args:
            first: a label.
            second: the label of the one that it is compared with.
            options: `cost`, `seconds_per_image`, `seconds_per_box`, `level` and `seed`, as the command takes them.

        Returns:
            Columns as `compare A B format=json` prints them: differences with intervals and p-values, and the verdict.

        Raises:
            ValueError: an option is not known, or no experiment can compare the two.
        """
        if first == second:
            raise ValueError(f"compare takes two strategies, not {first} twice")
        found, refused = answers.compare_strategies(self.experiments, first, second, build_options("compare", options))
        warn_each([f"not compared: {line}" for line in refused])
        return comparison_tables.tidy_frame(found)

    def audit(self) -> pd.DataFrame:
        """Faults of the records, as `verify` lists them: `experiment`, `check`, `where`, `what`; no row: no fault."""
        import pandas as pd

        faults = [fault for one in self.experiments for fault in audit.find_faults(one)]
        rows = [(one.experiment, one.check, one.where, one.message) for one in faults]
        return pd.DataFrame(rows, columns=["experiment", "check", "where", "what"])

    def plot(self, experiment: str | None = None, *, axis: Literal["images", "boxes"] = "images") -> Figure:
        """The learning curves of an experiment: mean scores over what was paid for, as the report draws them.

        Args:
            experiment: its name, or its task; None where there is only one.
            axis: what was paid for.

        Raises:
            ValueError: there are several experiments, or none that counts this cost.
        """
        from benchmark.analysis.figures.curves import learning_curves  # matplotlib takes a second to import
        from benchmark.analysis.figures.style import strategy_styles

        found = self.select(experiment)
        if len(found) > 1:
            raise ValueError(f"plot takes one experiment: {' or '.join(one.title for one in found)}")
        figure = learning_curves(
            found[0], strategy_styles(name for one in self.experiments for name in one.curves), axis
        )
        if figure is None:
            raise ValueError(f"{found[0].title}: there is nothing to draw over {axis}")
        return figure

    def report(self, to: str | Path, *, against: str = "", level: float = 0.95, anonymous: bool = False) -> Path:
        """Writes an HTML page that opens offline: tables, comparisons, audit and figures; figures as files besides.

        Args:
            to: the folder of `report.html` and `figures/`; it is made where it is not there.
            against: records of papers to put beside ours, `published`.
            level: of intervals and tests.
            anonymous: the page tells no folder, user, host or commit.

        Returns:
            The path of the page.
        """
        words = [f"records={notation.format_list(self.record_paths)}", f"to={to}"]
        asked = build_options("report", {"against": against, "level": level, "to": str(to), "anonymous": anonymous})
        assert asked.output_folder is not None
        asked.output_folder.mkdir(parents=True, exist_ok=True)
        experiments = anonymize(self.experiments) if anonymous else self.experiments
        page, remarks = answers.write_report(experiments, asked, asked.output_folder, words)
        warn_each(remarks)
        return page

    def __str__(self) -> str:
        return "\n".join(tables.to_markdown(tables.build_table(one)) for one in self.experiments)

    def __repr__(self) -> str:
        return f"Results of {', '.join(self.names)}: {METHODS}"


def build_options(verb: str, options: dict[str, object]) -> AnalysisOptions:
    """The options of a command, but for those that name records. ValueError where one is not known or does not fit."""
    known = [name for name in setting_types(verb) if name not in (*RECORD_SETTINGS, "format")]
    for name in options:
        if name not in known:
            raise ValueError(f"no option of {verb} is called {did_you_mean(name, known)}")
    words = [f"{name}={notation.format_value(value)}" for name, value in options.items() if value not in ("", None)]
    return parse_options(words, verb)


def warn_each(lines: Sequence[str]) -> None:
    """Warns of what could not be answered."""
    for line in lines:
        warnings.warn(line, stacklevel=3)


def load(*records: str | Path, task: str = "") -> Results:
    """Records and published curves as they lie on disk.

    Args:
        records: results folders, CSV files with published curves, and folders of them; runs of one grid in several
            folders join, as with `records=A,B`. `published`: the curves that come with the package.
        task: one experiment or task; all.

    Raises:
        ValueError: there is nothing, or it does not go together.
    """
    if not records:
        raise ValueError('load takes the folder of a run or a CSV file: load("results/quick")')
    places = [place for one in records for place in resolve_paths(str(one), "records")]
    return Results(tuple(select_experiments(read_experiments(places), task)), tuple(places))
