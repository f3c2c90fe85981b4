"""The contract between the harness and its plug-ins: everything that a strategy, a task or an encoder imports from it.

The parts are in `benchmark/contract/`: `tasks` says what a task must have, `capabilities` what it may offer to
strategies, `data` which types are passed around, `view` what a strategy sees, `registering` how plug-ins are declared.
"""

from __future__ import annotations

from benchmark.contract.capabilities import (
    ClassifiesFeatures,
    ComputesLosses,
    DescribesBoxes,
    Differentiates,
    Embeds,
    Encodes,
    GivesPseudoLabels,
    Predicts,
    PredictsAugmented,
    PredictsPerturbed,
    Proposes,
    RunsCompanion,
    Samples,
    ShowsImages,
    ShowsLabels,
    ShowsWeights,
)
from benchmark.contract.companion import Companion
from benchmark.contract.data import (
    Annotations,
    Augmentation,
    Boxes,
    Direction,
    Encoding,
    EncodingTime,
    How,
    ImageLabel,
    Indices,
    Predictions,
    Targets,
)
from benchmark.contract.lookup import (
    WEIGHT_SUFFIXES,
    build_encoder,
    check_encoder_weights,
    encoder_code_hash,
    encoder_identity,
    find_strategy,
    hash_weight_files,
)
from benchmark.contract.machine import Machine
from benchmark.contract.metrics import (
    ACCURACY,
    MEAN_AP,
    MEAN_AP_VOC07,
    MEAN_IOU,
    OKS_AP,
    Metric,
    Scores,
    scores_by_class,
)
from benchmark.contract.registering import register, register_encoder, register_task
from benchmark.contract.requirements import Requirement
from benchmark.contract.sharded_pool import FromShards, Rows, ShardedPool
from benchmark.contract.tasks import (
    BatchSizes,
    Encoder,
    ExtendsPool,
    FromFiles,
    KeepsImagesOnDevice,
    Pool,
    ReportsBatchSizes,
    Task,
)
from benchmark.contract.view import Reference, View
from benchmark.plugins.capability_names import Need
from benchmark.plugins.registry import EncoderName, StrategyName
from benchmark.system import activity, tensor_cache, tensor_files
from benchmark.system.cuda_graphs import CapturedFunction, can_record
from benchmark.system.process_state import seeded
from benchmark.system.working_time import working_seconds

__all__ = [
    "ACCURACY",
    "MEAN_AP",
    "MEAN_AP_VOC07",
    "MEAN_IOU",
    "OKS_AP",
    "WEIGHT_SUFFIXES",
    "Annotations",
    "Augmentation",
    "BatchSizes",
    "Boxes",
    "CapturedFunction",
    "ClassifiesFeatures",
    "Companion",
    "ComputesLosses",
    "DescribesBoxes",
    "Differentiates",
    "Direction",
    "Embeds",
    "Encoder",
    "EncoderName",
    "Encodes",
    "Encoding",
    "EncodingTime",
    "ExtendsPool",
    "FromFiles",
    "FromShards",
    "GivesPseudoLabels",
    "How",
    "ImageLabel",
    "Indices",
    "KeepsImagesOnDevice",
    "Machine",
    "Metric",
    "Need",
    "Pool",
    "Predictions",
    "Predicts",
    "PredictsAugmented",
    "PredictsPerturbed",
    "Proposes",
    "Reference",
    "ReportsBatchSizes",
    "Requirement",
    "Rows",
    "RunsCompanion",
    "Samples",
    "Scores",
    "ShardedPool",
    "ShowsImages",
    "ShowsLabels",
    "ShowsWeights",
    "StrategyName",
    "Targets",
    "Task",
    "View",
    "activity",
    "build_encoder",
    "can_record",
    "check_encoder_weights",
    "encoder_code_hash",
    "encoder_identity",
    "find_strategy",
    "hash_weight_files",
    "register",
    "register_encoder",
    "register_task",
    "scores_by_class",
    "seeded",
    "tensor_cache",
    "tensor_files",
    "working_seconds",
]  # fmt: skip
