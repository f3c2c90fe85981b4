"""Composes settings from the command line and configs/, and builds the grid of a run. The only importer of Hydra."""

from __future__ import annotations

import dataclasses
import itertools
import typing
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from benchmark.experiment import own_data
from benchmark.experiment.auto_seeds import AutoSeeds
from benchmark.experiment.cell import Cell
from benchmark.experiment.grid import Experiment, Grid
from benchmark.experiment.own_data import OwnDataDefaults
from benchmark.experiment.run_settings import Settings, known_settings, setting_types
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import ORDINARY, STAGGERED
from benchmark.plugins import registry
from benchmark.plugins.key_value import read_settings
from benchmark.plugins.paths import CONFIGS, expand_home, grid_names
from benchmark.plugins.registry import convert_value
from benchmark.text import notation
from benchmark.text.words import did_you_mean, first_sentence


def grid_purpose(name: str) -> str:
    """The purpose of a grid: the first sentence of the comment in its file, after the line for Hydra."""
    _, *lines = (CONFIGS / "grid" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return first_sentence("\n".join(line.lstrip("# ") for line in comment))


def compose_settings(arguments: Sequence[str], verb: str = "") -> Settings:
    """Composes the settings of a command: its arguments, over the grid's file, over configs/config.yaml.

    Args:
        arguments: `key=value` arguments as typed.
        verb: the command; "": all settings are allowed.

    Raises:
        ValueError: a setting is unknown or does not fit; the message is one line.
    """
    fields = typing.get_type_hints(Settings)
    typed_values = read_settings(arguments, setting_types(verb))
    name = typed_values.get("grid", "quick")
    if name not in grid_names():
        raise ValueError(f"no grid is called {did_you_mean(name, grid_names())}")
    values = {**compose_grid(name), **typed_values, "grid": name}
    values["out"] = values["out"] or f"results/{name}"
    for key in FOLDER_SETTINGS:
        values[key] = values[key] and expand_home(str(values[key]), f"{key}={values[key]}")
    return Settings(**{key: convert_value(f"{key}={values[key]}", values[key], kind) for key, kind in fields.items()})


FOLDER_SETTINGS = ("data", "out", "plugins")  # settings that name one folder


def compose_grid(name: str) -> dict[str, Any]:
    """Composes config.yaml and a grid with Hydra, as a plain dictionary."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
            values = OmegaConf.to_container(compose("config", overrides=[f"grid={name}"]), resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"grid={name}: {str(error).strip().splitlines()[0]}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def unknown_pool_size(task: Spec) -> int:
    """Raises ValueError: the default `count_pool` of `build_grid`, for callers that build no task."""
    raise ValueError(f"{task.label}: the size of its pool is not known: set initial=, budget= and rounds=")


def build_grid(
    settings: Settings,
    count_pool: Callable[[Spec], int] = unknown_pool_size,
    recorded_schedules: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Grid:
    """Builds the grid of these settings. The plug-ins must have been discovered.

    Args:
        settings: the settings.
        count_pool: returns the number of images in a task's pool; called where a schedule depends on it.
        recorded_schedules: the schedules that the results folder has records of, by experiment; they are continued.

    Raises:
        ValueError: a setting does not fit, or there is nothing to run.
    """
    entries, remarks = settings.experiments, list[str]()
    if settings.tasks is not None:
        entries = dict(pair for text in settings.tasks for pair in select_experiments(text, settings))
    if not entries:
        raise ValueError("tasks=[]: nothing to run")
    for name, entry in entries.items():
        if settings.tasks is not None and name not in settings.experiments:
            task, remark = Spec.read("task", name), inheritance_remark(name, entry, settings)
            if entry is None:
                entries[name], remark = own_data_entry(task, settings, count_pool, recorded_schedules.get(name, {}))
            remarks += [remark] * bool(remark)
    experiments = tuple(build_experiment(name, entry, settings) for name, entry in entries.items())
    return Grid(settings.grid, experiments, tuple(remarks))


def select_experiments(text: object, settings: Settings) -> list[tuple[str, Any]]:
    """Selects the experiments that one item of `tasks` names.

    The item names the grid's experiment of that name, or else all the grid's experiments on the task of that name. A
    task with other parameters takes the schedule and strategies of the grid's first experiment on the task. For any
    other task the entry is None.
    """
    name, overrides = notation.parse_label(text)
    same_task = experiments_on_task(name, settings)
    matches = [pair for pair in settings.experiments.items() if pair[0] == name] or same_task
    if matches and not overrides:
        return matches
    tasks = registry.REGISTRY["task"]
    if name not in tasks:
        suggestion = did_you_mean(name, [*settings.experiments, *tasks])
        raise ValueError(f"tasks={text}: no task, and no experiment of grid={settings.grid}, is called {suggestion}")
    return [(Spec.read("task", text).label, {**same_task[0][1], "task": text} if same_task else None)]


def experiments_on_task(task_name: str, settings: Settings) -> list[tuple[str, Any]]:
    """The grid's experiments on the task of a name, with any parameters."""
    return [pair for pair in settings.experiments.items() if notation.parse_label(pair[1]["task"])[0] == task_name]


def inheritance_remark(label: str, entry: Mapping[str, Any] | None, settings: Settings) -> str:
    """Describes what a task with other parameters inherits from an experiment of the grid; "" for nothing."""
    if entry is None:
        return ""
    source, original = experiments_on_task(notation.parse_label(label)[0], settings)[0]
    values = {key: value for key, value in entry.items() if key in EXPERIMENT_FIELDS and key != "task"}
    inherited = {key: value for key, value in values.items() if getattr(settings, key) is None}
    settings_text = format_settings(inherited_settings(settings) | inherited)
    origin = f"the grid's experiment {source} on {Spec.read('task', original['task']).label}"
    remark = f"{label} is not in grid={settings.grid}; what you did not set is taken from {origin}: {settings_text}"
    return remark if inherited else ""


def inherited_settings(settings: Settings) -> dict[str, Any]:
    """The settings that a grid's file changes for all its tasks, as `workers=8`, and that the user did not change."""
    values, defaults = compose_grid(settings.grid), {setting.name: setting.default for setting in known_settings()}
    excluded = {"experiments", "grid", *FOLDER_SETTINGS}
    changed_by_grid = {
        key: value
        for key, value in values.items()
        if key not in excluded and notation.format_value(value) != defaults[key]
    }
    return {key: value for key, value in changed_by_grid.items() if getattr(settings, key) == value}


def format_settings(values: Mapping[str, Any]) -> str:
    """Writes settings of an experiment as they are typed."""
    labels = {"strategies": lambda item: Spec.read("strategy", item).label}
    return " ".join(
        f"{key}=[{','.join(map(labels.get(key, str), value))}]"
        if isinstance(value, list)
        else f"{key}={notation.format_value(value)}"
        for key, value in values.items()
    )


def own_data_entry(
    task: Spec, settings: Settings, count_pool: Callable[[Spec], int], recorded_schedule: Mapping[str, Any]
) -> tuple[dict[str, Any], str]:
    """Builds the entry of an experiment on a task that the grid does not have.

    Args:
        task: the task.
        settings: the settings of the run; they take precedence.
        count_pool: returns the number of images in a task's pool; called where a size is missing.
        recorded_schedule: the schedule that the results folder has records of; it takes precedence over defaults.

    Returns:
        The entry, and a line that lists the defaults it uses; "" where everything was set.
    """
    defaults = OwnDataDefaults.read(CONFIGS / "own_data.yaml")
    typed_values = {
        key: value for key in EXPERIMENT_FIELDS if key != "task" and (value := getattr(settings, key)) is not None
    }
    default_strategies = defaults.strategies_for(task.plugin.capabilities(task.values))
    strategies = [Spec.read("strategy", text) for text in typed_values.get("strategies", default_strategies)]
    schedule = {
        **recorded_schedule,
        **{key: value for key, value in typed_values.items() if key not in ("strategies", "seeds")},
    }
    check_schedule(schedule)
    reads_held_out, num_pool = any("held_out" in strategy.needs for strategy in strategies), 0
    if any(name not in schedule for name in own_data.SIZES[: 3 + reads_held_out]):
        num_pool = count_pool(task)
        schedule |= defaults.schedule_sizes(num_pool, schedule, defaults.step_size(num_pool) if reads_held_out else 0)
    if "strategies" not in typed_values:
        strategies = [strategy for strategy in strategies if Cell(task, strategy, Schedule(**schedule), 0).is_runnable]
    entry = {
        "strategies": [strategy.label for strategy in strategies],
        "seeds": defaults.seeds,
        **schedule,
        **typed_values,
    }
    unset = {key: value for key, value in entry.items() if key not in typed_values}
    settings_text = format_settings(inherited_settings(settings) | unset)
    source = (
        f" (a pool of {num_pool:,} images)" if num_pool else f" (as in {settings.out})" if recorded_schedule else ""
    )
    remark = f"{task.label} is not in grid={settings.grid}; what you did not set: {settings_text}{source}"
    return {**entry, "task": task.label}, remark if unset else ""


def check_schedule(fields: Mapping[str, Any]) -> None:
    """ValueError where these fields fit no schedule, whatever its other fields are."""
    Schedule(**{"initial": 1, "budget": 1, "rounds": 1, **fields})
    if fields.get("budget_in") == "boxes" and "budget" not in fields:
        raise ValueError("budget_in=boxes: set budget=N, the number of boxes bought between two trainings")


EXPERIMENT_FIELDS: dict[str, Any] = {  # the type of each field of an experiment in a grid file
    "task": str | dict, "strategies": list, "seeds": int | list | str,
    "initial": int, "budget": int, "rounds": int, "validation": int, "budget_in": str, "until": str,
    "one_pass": bool, "first_budget": int, "initial_by": str,
}  # fmt: skip
MAX_SEEDS = 10_000  # a limit, since a typing error could otherwise fill the memory
SCHEDULE_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(Schedule) if field.default is not dataclasses.MISSING
}


def build_experiment(name: str, entry: dict[str, Any], settings: Settings) -> Experiment:
    """Builds an experiment from an entry of a grid file and the settings, which take precedence."""
    overrides = {
        key: value for key in EXPERIMENT_FIELDS if key != "task" and (value := getattr(settings, key)) is not None
    }
    values = {**SCHEDULE_DEFAULTS, **(entry or {}), **overrides}
    for key in values:
        if key not in EXPERIMENT_FIELDS:
            raise ValueError(f"grid={settings.grid}: {name} has no setting {did_you_mean(key, EXPERIMENT_FIELDS)}")
    for key, kind in EXPERIMENT_FIELDS.items():
        if key not in values:
            raise ValueError(f"grid={settings.grid}: {name} lacks {key}")
        convert_value(f"grid={settings.grid}: {name}: {key}={values[key]}", values[key], kind)
    strategies = tuple(
        {spec.label: spec for spec in map(partial(Spec.read, "strategy"), values["strategies"])}.values()
    )
    if not strategies:
        raise ValueError("strategies=[]: nothing to run")
    if settings.sets is not None:
        values["seeds"] = settings.sets
    auto = build_auto_seeds(strategies, settings) if values["seeds"] == AUTO else None
    if auto:
        values["seeds"] = auto.max_seeds
    seeds = list(range(min(values["seeds"], MAX_SEEDS + 1))) if isinstance(values["seeds"], int) else values["seeds"]
    if len(seeds) > MAX_SEEDS:
        raise ValueError(f"seeds={values['seeds']}: at most {MAX_SEEDS}")
    if isinstance(seeds, str) or not seeds or any(type(number) is not int or number < 0 for number in seeds):
        raise ValueError(f"seeds={values['seeds']}: must be a number of seeds, a list of seeds, or auto")
    if max(seeds) >= 2**63:
        raise ValueError(f"seeds={values['seeds']}: each must be below 2^63")
    if values["initial_by"]:  # equal parameters, however they were typed, are one schedule
        values["initial_by"] = Spec.read("strategy", values["initial_by"]).label
    schedule = Schedule(**{field.name: values[field.name] for field in dataclasses.fields(Schedule)})
    task, numbers = Spec.read("task", values["task"]), tuple(dict.fromkeys(seeds))
    variants = (ORDINARY,) if settings.sets is None else STAGGERED
    return Experiment(name, task, schedule, strategies, numbers, auto, variants=variants)


AUTO = "auto"


def build_auto_seeds(strategies: Sequence[Spec], settings: Settings) -> AutoSeeds:
    """The rule of seeds=auto. ValueError where there is nothing to compare, or the reference is not run."""
    labels = [spec.label for spec in strategies]
    reference = labels[0] if settings.reference is None else Spec.read("strategy", settings.reference).label
    if reference not in labels:
        raise ValueError(f"reference={reference}: not among the strategies {', '.join(labels)}")
    if len(labels) < 2:
        raise ValueError("seeds=auto compares strategies with a reference: there is only one strategy")
    return AutoSeeds(reference, settings.level, settings.max_seeds)
