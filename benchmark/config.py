"""From command-line words to cells: what is run, under which label, key and path."""

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
from benchmark.experiment.schedule import Schedule
from benchmark.experiment.settings import Settings, known_settings, setting_types
from benchmark.experiment.spec import Spec
from benchmark.experiment.variants import ORDINARY, STAGGERED
from benchmark.plugins import registry
from benchmark.plugins.paths import CONFIGS, expand_home
from benchmark.plugins.paths import grid_names as names
from benchmark.plugins.registry import convert_value
from benchmark.plugins.settings import read_settings
from benchmark.text import notation
from benchmark.text.words import did_you_mean, first_sentence


def grid_purpose(name: str) -> str:
    """What a grid is for: the first sentence of its file's comment, behind Hydra's line."""
    _, *lines = (CONFIGS / "grid" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
    return first_sentence("\n".join(line.lstrip("# ") for line in comment))


def compose_settings(arguments: Sequence[str], verb: str = "") -> Settings:
    """Settings from `key=value` words.

    Args:
        words: as they were typed.
        verb: the command that takes them; "": all settings are taken.

    Raises:
        ValueError: something does not fit; in one line.
    """
    fields = typing.get_type_hints(Settings)
    given = read_settings(arguments, setting_types(verb))
    name = given.get("grid", "quick")
    if name not in names():
        raise ValueError(f"no grid is called {did_you_mean(name, names())}")
    values = {**compose_grid(name), **given, "grid": name}
    values["out"] = values["out"] or f"results/{name}"
    for key in FOLDER_SETTINGS:
        values[key] = values[key] and expand_home(str(values[key]), f"{key}={values[key]}")
    return Settings(**{key: convert_value(f"{key}={values[key]}", values[key], kind) for key, kind in fields.items()})


FOLDER_SETTINGS = ("data", "out", "plugins")  # the settings that name one folder each


def compose_grid(name: str) -> dict[str, Any]:
    """Hydra's composition of config.yaml and a grid, as a plain dictionary."""
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONFIGS.resolve()), version_base="1.3"):
            values = OmegaConf.to_container(compose("config", overrides=[f"grid={name}"]), resolve=True)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        raise ValueError(f"grid={name}: {str(error).strip().splitlines()[0]}") from error
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def unknown_pool_size(task: Spec) -> int:
    """Stands where no task is built. Raises ValueError."""
    raise ValueError(f"{task.label}: the size of its pool is not known: set initial=, budget= and rounds=")


def build_grid(
    settings: Settings,
    count_pool: Callable[[Spec], int] = unknown_pool_size,
    recorded_schedules: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Grid:
    """The grid of these settings. The plug-ins must have been discovered.

    Args:
        chosen: the settings.
        num_pool: tells how many images a task's pool has; asked where a schedule depends on it.
        recorded: schedules, by experiment, that the results folder has records of: they go on.

    Raises:
        ValueError: something does not fit, or there is nothing to run.
    """
    wanted, remarks = settings.experiments, list[str]()
    if settings.tasks is not None:
        wanted = dict(pick for text in settings.tasks for pick in select_experiments(text, settings))
    if not wanted:
        raise ValueError("tasks=[]: nothing to run")
    for name, entry in wanted.items():
        if settings.tasks is not None and name not in settings.experiments:
            task, remark = Spec.read("task", name), inheritance_remark(name, entry, settings)
            if entry is None:
                wanted[name], remark = own_data_entry(task, settings, count_pool, recorded_schedules.get(name, {}))
            remarks += [remark] * bool(remark)
    experiments = tuple(build_experiment(name, entry, settings) for name, entry in wanted.items())
    return Grid(settings.grid, experiments, tuple(remarks))


def select_experiments(text: object, settings: Settings) -> list[tuple[str, Any]]:
    """The grid's experiment of that name, or else all on the task of that name. The task with other parameters takes
    the place of the first experiment on a task of its name. Of any other task the grid says nothing: None."""
    name, given = notation.parse_label(text)
    alike = experiments_on_task(name, settings)
    found = [pair for pair in settings.experiments.items() if pair[0] == name] or alike
    if found and not given:
        return found
    tasks = registry.REGISTRY["task"]
    if name not in tasks:
        told = did_you_mean(name, [*settings.experiments, *tasks])
        raise ValueError(f"tasks={text}: no task, and no experiment of grid={settings.grid}, is called {told}")
    return [(Spec.read("task", text).label, {**alike[0][1], "task": text} if alike else None)]


def experiments_on_task(task_name: str, settings: Settings) -> list[tuple[str, Any]]:
    """The grid's experiments on the task of that name, whatever its parameters."""
    return [pair for pair in settings.experiments.items() if notation.parse_label(pair[1]["task"])[0] == task_name]


def inheritance_remark(label: str, entry: Mapping[str, Any] | None, settings: Settings) -> str:
    """A line that tells what a task with other parameters takes over from an experiment of the grid, "" for nothing."""
    if entry is None:
        return ""
    source, original = experiments_on_task(notation.parse_label(label)[0], settings)[0]
    values = {key: value for key, value in entry.items() if key in EXPERIMENT_FIELDS and key != "task"}
    taken = {key: value for key, value in values.items() if getattr(settings, key) is None}
    lent = format_settings(inherited_settings(settings) | taken)
    whose = f"the grid's experiment {source} on {Spec.read('task', original['task']).label}"
    remark = f"{label} is not in grid={settings.grid}; what you did not set is that of {whose}: {lent}"
    return remark if taken else ""


def inherited_settings(settings: Settings) -> dict[str, Any]:
    """What a grid's file sets besides its experiments, as `workers=8` for its own tasks, and nobody changed."""
    values, defaults = compose_grid(settings.grid), {one.name: one.default for one in known_settings()}
    usual = {"experiments", "grid", *FOLDER_SETTINGS}
    set_there = {
        key: value
        for key, value in values.items()
        if key not in usual and notation.format_value(value) != defaults[key]
    }
    return {key: value for key, value in set_there.items() if getattr(settings, key) == value}


def format_settings(values: Mapping[str, Any]) -> str:
    """Settings of an experiment, as they are typed."""
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
    """An experiment on a task that the grid does not have, and a line that tells what nobody set, "" for nothing."""
    defaults = OwnDataDefaults.read(CONFIGS / "own_data.yaml")
    given = {key: value for key in EXPERIMENT_FIELDS if key != "task" and (value := getattr(settings, key)) is not None}
    served = defaults.strategies_for(task.plugin.capabilities(task.values))
    strategies = [Spec.read("strategy", text) for text in given.get("strategies", served)]
    schedule = {
        **recorded_schedule,
        **{key: value for key, value in given.items() if key not in ("strategies", "seeds")},
    }
    check_schedule(schedule)
    reads_aside, pool = any("held_out" in one.needs for one in strategies), 0
    if any(name not in schedule for name in own_data.SIZES[: 3 + reads_aside]):
        pool = count_pool(task)
        schedule |= defaults.schedule_sizes(pool, schedule, defaults.step_size(pool) if reads_aside else 0)
    if "strategies" not in given:
        strategies = [one for one in strategies if Cell(task, one, Schedule(**schedule), 0).is_runnable]
    entry = {"strategies": [one.label for one in strategies], "seeds": defaults.seeds, **schedule, **given}
    unset = {key: value for key, value in entry.items() if key not in given}
    words = format_settings(inherited_settings(settings) | unset)
    source = f" (a pool of {pool:,} images)" if pool else f" (as in {settings.out})" if recorded_schedule else ""
    remark = f"{task.label} is not in grid={settings.grid}; what you did not set: {words}{source}"
    return {**entry, "task": task.label}, remark if unset else ""


def check_schedule(fields: Mapping[str, Any]) -> None:
    """ValueError where settings of a schedule do not fit, whatever the others will be."""
    Schedule(**{"initial": 1, "budget": 1, "rounds": 1, **fields})
    if fields.get("budget_in") == "boxes" and "budget" not in fields:
        raise ValueError("budget_in=boxes: say how many boxes are bought between two fits: budget=N")


EXPERIMENT_FIELDS: dict[str, Any] = {  # what an experiment of a grid file consists of
    "task": str | dict, "strategies": list, "seeds": int | list | str,
    "initial": int, "budget": int, "rounds": int, "validation": int, "budget_in": str, "until": str,
    "one_pass": bool,
}  # fmt: skip
MAX_SEEDS = 10_000  # a slip of the keyboard would otherwise fill the memory
SCHEDULE_DEFAULTS = {
    one.name: one.default for one in dataclasses.fields(Schedule) if one.default is not dataclasses.MISSING
}


def build_experiment(name: str, entry: dict[str, Any], settings: Settings) -> Experiment:
    """One entry of a grid file, with what the user set on top of it."""
    told = {key: value for key in EXPERIMENT_FIELDS if key != "task" and (value := getattr(settings, key)) is not None}
    full = {**SCHEDULE_DEFAULTS, **(entry or {}), **told}
    for key in full:
        if key not in EXPERIMENT_FIELDS:
            raise ValueError(f"grid={settings.grid}: {name} has no setting {did_you_mean(key, EXPERIMENT_FIELDS)}")
    for key, kind in EXPERIMENT_FIELDS.items():
        if key not in full:
            raise ValueError(f"grid={settings.grid}: {name} lacks {key}")
        convert_value(f"grid={settings.grid}: {name}: {key}={full[key]}", full[key], kind)
    strategies = tuple({spec.label: spec for spec in map(partial(Spec.read, "strategy"), full["strategies"])}.values())
    if not strategies:
        raise ValueError("strategies=[]: nothing to run")
    if settings.sets is not None:
        full["seeds"] = settings.sets
    auto = build_auto_seeds(strategies, settings) if full["seeds"] == AUTO else None
    if auto:
        full["seeds"] = auto.max_seeds
    seeds = list(range(min(full["seeds"], MAX_SEEDS + 1))) if isinstance(full["seeds"], int) else full["seeds"]
    if len(seeds) > MAX_SEEDS:
        raise ValueError(f"seeds={full['seeds']}: at most {MAX_SEEDS}")
    if isinstance(seeds, str) or not seeds or any(type(number) is not int or number < 0 for number in seeds):
        raise ValueError(f"seeds={full['seeds']}: a number of seeds, a list of them, or auto")
    if max(seeds) >= 2**63:
        raise ValueError(f"seeds={full['seeds']}: each must be below 2^63")
    schedule = Schedule(**{one.name: full[one.name] for one in dataclasses.fields(Schedule)})
    task, numbers = Spec.read("task", full["task"]), tuple(dict.fromkeys(seeds))
    variants = (ORDINARY,) if settings.sets is None else STAGGERED
    return Experiment(name, task, schedule, strategies, numbers, auto, variants=variants)


AUTO = "auto"


def build_auto_seeds(strategies: Sequence[Spec], settings: Settings) -> AutoSeeds:
    """How seeds=auto decides. ValueError where there is nothing to compare, or the reference is not run."""
    labels = [spec.label for spec in strategies]
    reference = labels[0] if settings.reference is None else Spec.read("strategy", settings.reference).label
    if reference not in labels:
        raise ValueError(f"reference={reference}: not among the strategies {', '.join(labels)}")
    if len(labels) < 2:
        raise ValueError("seeds=auto compares strategies with a reference: there is only one strategy")
    return AutoSeeds(reference, settings.level, settings.max_seeds)
