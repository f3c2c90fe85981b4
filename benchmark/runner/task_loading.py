"""Builds the tasks of a run, one in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable

from benchmark.api import Machine, Requirement, Task, check_encoder_weights
from benchmark.experiment.cell import Cell
from benchmark.experiment.spec import Spec
from benchmark.seeds import seed
from benchmark.system import activity
from benchmark.system.process_state import isolate_plugin
from benchmark.text.words import describe_error


def check_encoders(cells: Iterable[Cell], machine: Machine) -> None:
    """Raises ValueError where an encoder's weight file is missing or does not fit, before images are read."""
    plugins = {plugin_and_label for cell in cells for plugin_and_label in cell.strategy.nested_plugins()}
    for label in {label for plugin, label in plugins if plugin.kind == "encoder"}:
        check_encoder_weights(label, machine)


class TaskLoader:
    """Builds the tasks on a machine at first use, and keeps the last one in memory."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.by_label: dict[str, Task | Exception] = {}
        self.missing_by_label: dict[str, list[Requirement]] = {}

    def __call__(self, spec: Spec) -> Task | Exception:
        """Returns the task, or the exception that its construction raised; see `build_task`."""
        if spec.label not in self.by_label:
            self.by_label.clear()
            self.by_label[spec.label] = build_task(spec, self.machine)
        return self.by_label[spec.label]

    def find_missing(self, spec: Spec) -> list[Requirement]:
        """Returns the packages and data sets that a task needs and that are not there."""
        if spec.label not in self.missing_by_label:
            self.missing_by_label[spec.label] = spec.plugin.find_missing(self.machine, spec.values)
        return self.missing_by_label[spec.label]


def check_processes(spec: Spec, machine: Machine) -> None:
    """Raises ValueError for a task that does not train on several GPUs, where it should."""
    num = machine.processes_per_fit
    if num > 1 and not getattr(spec.plugin.task_class, "trains_in_processes", False):
        raise ValueError(f"gpus_per_cell={num}: {spec.name} trains on one GPU; only detection trains on several")


def build_task(spec: Spec, machine: Machine) -> Task | Exception:
    """Builds a task; returns the exception if that fails, with which all cells of the task then fail."""
    try:
        check_processes(spec, machine)
        with isolate_plugin(spec.label, seed("global build", spec.label)), activity.stage(f"loading {spec.label}"):
            task: Task = spec.plugin.build(machine, spec.values)
        return task
    except Exception as error:
        return error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        failure = RuntimeError(describe_error(error))
        failure.__cause__ = error
        return failure
