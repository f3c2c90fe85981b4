"""The contract between the harness and its plug-ins: all that a strategy, a task or an encoder imports of it.

Its parts lie in `benchmark/contract/`: `tasks` says what a task must have, `capabilities` what it may offer to
strategies, `data` what it hands out, `view` what a strategy sees, `registering` how plug-ins are declared.
"""

from __future__ import annotations

from benchmark.contract.capabilities import (
    ClassifiesFeatures,
    CompanionRuns,
    ComputesLosses,
    DescribesBoxes,
    Differentiates,
    Embeds,
    Encodes,
    LabelsItself,
    Predicts,
    PredictsAugmented,
    PredictsPerturbed,
    Proposes,
    Samples,
    ShowsImages,
    ShowsLabels,
    ShowsWeights,
)
from benchmark.contract.data import (
    Annotations,
    Augmentation,
    Boxes,
    Direction,
    Encoding,
    EncodingTime,
    How,
    Indices,
    Predictions,
    Targets,
)
from benchmark.contract.machine import Machine
from benchmark.contract.named import WEIGHTS, check_encoder, encoder, encoder_code, files, identity, strategy
from benchmark.contract.registering import register, register_encoder, register_task
from benchmark.contract.scores import ACCURACY, MEAN_AP, MEAN_IOU, Metric, Scores, by_class
from benchmark.contract.tasks import Batched, BatchSizes, Companion, Encoder, FromFiles, Pool, Task
from benchmark.contract.view import Reference, View
from benchmark.plugins.capabilities import Need
from benchmark.plugins.registry import EncoderName, StrategyName
from benchmark.system import activity, tensor_files
from benchmark.system.process_state import seeded
from benchmark.system.working_time import working_seconds

__all__ = [
    "ACCURACY", "MEAN_AP", "MEAN_IOU", "WEIGHTS", "Annotations", "Augmentation", "BatchSizes", "Batched", "Boxes",
    "ClassifiesFeatures", "Companion", "CompanionRuns", "ComputesLosses", "DescribesBoxes", "Differentiates",
    "Direction", "Embeds", "Encoder", "EncoderName", "Encodes", "Encoding", "EncodingTime", "FromFiles", "How",
    "Indices", "LabelsItself", "Machine", "Metric", "Need", "Pool", "Predictions", "Predicts", "PredictsAugmented",
    "PredictsPerturbed", "Proposes", "Reference", "Samples", "Scores", "ShowsImages", "ShowsLabels", "ShowsWeights",
    "StrategyName", "Targets", "Task", "View", "activity", "by_class", "check_encoder", "encoder", "encoder_code",
    "files", "identity", "register", "register_encoder", "register_task", "seeded", "strategy", "tensor_files",
    "working_seconds",
]  # fmt: skip
