"""Detectors of mmdet 3: the published FCOS and Faster R-CNN, and every detector of its zoo that learns from boxes
alone.

`mmdet:fcos` is fcos_r50-caffe_fpn_gn-head_1x_coco without normalisation in its head (`norm_cfg=None`; the zoo's head
uses group normalisation). The rest is the zoo's: a caffe-style ResNet-50 on BGR pixels minus (102.9801, 115.9465,
122.7717), whose batch normalisation is neither trained nor updated; an FPN on stages 2 to 4, with P6 and P7 computed
from P5 after a ReLU; towers of four convolutions with 256 channels; no centre sampling and no `norm_on_bbox` (so
distances are exp); centerness on the class tower; focal loss (2, 0.25), -log IoU and binary cross-entropy, each with
weight 1; 1000 candidates per level with scores above 0.05, suppression at 0.5, 100 boxes. The focal loss is divided by
the number of positives plus the number of images, as in mmdet 2.4, which ISAL used; mmdet 3 divides by the positives.

`mmdet:faster_rcnn` is faster-rcnn_r50_fpn_1x_coco unchanged: torchvision's ResNet-50 on normalised RGB, whose batch
normalisation is trained but not updated; 1000 proposals from 1000 candidates per level (2000 in training); a head of
two linear layers with 1024 units; cross-entropy and L1 losses; scores above 0.05, suppression at 0.5, 100 boxes.

In every configuration the following changes: the classes; the frozen stages, which the recipe sets (the two above
freeze the stem and stage 1, the recipe's default); SyncBN, which becomes BN; and the focal loss, which uses mmdet's
PyTorch formula on a GPU too, because its compiled operator has no second derivatives. Data, schedule and optimiser are
the recipe's.

Shapes: N images, H x W pixels of the padded batch, A places of one image on one level, S candidates and M boxes of one
image, R proposals, C classes, K = C + 1 with background last, D features.
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.api import Boxes
from benchmark.vision.detection.detector import (
    Batch,
    Detector,
    PixelFormat,
    add_background,
    record_calls,
    training_mode,
)
from benchmark.vision.detection.inputs import round_up_side
from benchmark.vision.detection.mmdet_losses import add_images_to_divisor, one_hot_targets
from benchmark.vision.detection.mmdet_settings import (
    INSTALL_MMDET,
    PUBLISHED_CONFIGS,
    IneffectiveSettingError,
    accepts_parameter,
    adapt_settings,
    explain_failure,
    load_tensors_only,
    missing_package,
    pixel_format_of,
)
from benchmark.vision.detection.recipe import MMDET_PREFIX, DetectorRecipe
from benchmark.vision.detection.suppression import Detections
from benchmark.vision.detection.torchvision_detectors import UNUSED_WEIGHTS
from benchmark.vision.weights import load_weights

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # raised while the libraries are imported
    if not missing_package():
        import mmdet
        from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
        from mmdet.models.detectors import SingleStageDetector, TwoStageDetector
        from mmdet.models.layers import multiclass_nms
        from mmdet.models.losses import FocalLoss
        from mmdet.models.roi_heads import BaseRoIHead, CascadeRoIHead, StandardRoIHead
        from mmdet.models.roi_heads.bbox_heads import BBoxHead
        from mmdet.models.utils import filter_scores_and_topk
        from mmdet.registry import MODELS
        from mmdet.structures import DetDataSample
        from mmengine.config import Config, ConfigDict
        from mmengine.logging import MMLogger
        from mmengine.registry import DefaultScope
        from mmengine.structures import InstanceData

        torch.meshgrid(torch.zeros(1), torch.zeros(1))  # warns, once per process, of a default that mmdet relies on
LAST_LAYER_NAMES = re.compile(r"_(cls|reg|centerness|iou|score|pred)$")  # endings of the names of a head's last layers
TRIAL_SIDE = 320  # side in pixels of the image that `try_detector` uses
VERIFIED_CONFIGS = set(PUBLISHED_CONFIGS)  # configurations known to work: trying one can take a minute


class MmdetDetector(Detector):
    """Any detector of mmdet. A box has one score; the rest of its distribution goes to background."""

    is_two_stage = False
    inner: Any

    def __init__(self, inner: nn.Module, name: str, pixels: PixelFormat) -> None:
        super().__init__()
        self.inner, self.name, self.pixel_format = inner.eval(), name, pixels
        for module in inner.modules():
            if isinstance(module, FocalLoss):
                module.register_forward_pre_hook(one_hot_targets)
        with torch.no_grad():
            self.channels = [level.shape[1] for level in self.backbone_maps(torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE))]

    def backbone_maps(self, images_N3HW: Tensor) -> Sequence[Tensor]:
        """Returns the neck's outputs, made contiguous: mmcv's operators read maps with channels last incorrectly."""
        return [level.contiguous() for level in self.inner.extract_feat(images_N3HW)]

    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """The sum of all loss terms that the library itself would train on, as one term."""
        heads = [head for name, head in self.inner.named_children() if name not in ("backbone", "neck")]
        with self._use_maps(maps), training_mode(self.inner, *heads):
            losses = self.inner.loss(batch.images_N3HW, data_samples(batch, targets))
        return {"loss": self.inner.parse_losses(losses)[0]}

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores boxes as the library does."""
        with self._use_maps(maps):
            samples = self.inner.predict(batch.images_N3HW, data_samples(batch), rescale=False)
        return [self._to_detections(sample.pred_instances) for sample in samples]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the feature maps, averaged over places and then over levels; concatenated where their channels
        differ."""
        means = [level.mean((2, 3)) for level in maps]
        return torch.stack(means).mean(0) if len(set(self.channels)) == 1 else torch.cat(means, 1)

    def last_layers(self) -> list[nn.Module]:
        """Finds the last layers by name: those of the RPN, if there is one, then those of the head (a cascade's last
        head).

        Raises:
            ValueError: no layer has such a name.
        """
        heads = [*filter(None, [getattr(self.inner, "rpn_head", None)]), final_head(self.inner)]
        named = [pair for head in heads for pair in head.named_children() if LAST_LAYER_NAMES.search(pair[0])]
        layers: list[nn.Module] = [layer for _, layer in named if isinstance(layer, nn.Conv2d | nn.Linear)]
        if not layers:
            raise ValueError(f"model={self.name}: its last layers are not known, and influence is computed over them")
        return layers

    @contextmanager
    def _use_maps(self, maps: Sequence[Tensor]) -> Iterator[None]:
        """Makes the library's methods use these feature maps instead of computing them."""
        self.inner.extract_feat = lambda images_N3HW: tuple(maps)
        try:
            yield
        finally:
            del self.inner.extract_feat

    def _to_detections(self, instances: InstanceData) -> Detections:
        """The library's boxes, each with its score for its class and the rest for background."""
        scores_MK = instances.scores.new_zeros(len(instances.scores), final_head(self.inner).num_classes + 1)
        scores_MK[:, -1] = 1 - instances.scores
        scores_MK.scatter_(1, instances.labels[:, None], instances.scores[:, None])
        return Detections(instances.bboxes, instances.labels, instances.scores, scores_MK)


class DenseMmdet(MmdetDetector):
    """One-stage detectors whose head predicts as most of mmdet's do: FCOS, RetinaNet, ATSS."""

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores a box by its class probability, times centerness where there is such a branch. The threshold applies
        to the class probability alone."""
        head = self.inner.bbox_head
        outputs = head(tuple(maps))
        sizes = [level.shape[-2:] for level in outputs[0]]
        priors = head.prior_generator.grid_priors(sizes, dtype=maps[0].dtype, device=maps[0].device)
        detections = []
        for number, sample in enumerate(data_samples(batch)):
            levels = zip(priors, *([level[number] for level in kind] for kind in outputs), strict=True)
            candidates = InstanceData.cat([decode_candidates(head, sample.img_shape, *level) for level in levels])
            instances = head._bbox_post_process(candidates, cfg=head.test_cfg, img_meta=sample.metainfo)
            detections.append(Detections(instances.bboxes, instances.labels, instances.scores, instances.rows))
        return detections

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the inputs of the class layer and of the box layer, averaged over places and then over levels."""
        try:
            layers = self.last_layers()[:2]
        except ValueError:
            return super().pooled_features(maps, batch)
        with record_calls(layers) as calls:
            self.inner.bbox_head(tuple(maps))
        inputs_by_layer = [[call.input for call in calls if call.layer is layer] for layer in layers]
        means = [[inputs.mean((2, 3)) for inputs in level] for level in zip(*inputs_by_layer, strict=True)]
        return torch.stack([torch.cat(level, 1) for level in means]).mean(0)


class PublishedFcos(DenseMmdet):
    """FCOS with the losses of mmdet 2.4, which ISAL used."""

    def loss_terms(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> dict[str, Tensor]:
        """The sum of its three losses."""
        with add_images_to_divisor(self.inner.bbox_head.loss_cls, len(targets)):
            return super().loss_terms(maps, batch, targets)


class TwoStageMmdet(MmdetDetector):
    """Detectors that refine the RPN's proposals as Faster R-CNN and Cascade R-CNN do."""

    is_two_stage = True

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """Scores a box by its class probability."""
        proposals, refined = self._refine_proposals(maps, batch)
        pairs = zip(refined, proposals, strict=True)
        return [self._suppress(instances, proposal.bboxes) for instances, proposal in pairs]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """(N, D): the inputs of the class layer, averaged over the proposals of each image."""
        layer = final_head(self.inner).fc_cls
        with record_calls([layer]) as calls:
            proposals, _ = self._refine_proposals(maps, batch)
        features_RD = torch.cat([layer.weight.new_zeros(0, layer.in_features), *(call.input for call in calls)])
        parts = features_RD.split([len(image_proposals) for image_proposals in proposals])
        return torch.stack([part.sum(0) / max(len(part), 1) for part in parts])

    def _refine_proposals(self, maps: Sequence[Tensor], batch: Batch) -> tuple[list[InstanceData], list[InstanceData]]:
        """The proposals of each image, and row by row the boxes and class probabilities that they are refined to."""
        maps, samples = tuple(maps), data_samples(batch)
        proposals = self.inner.rpn_head.predict(maps, samples, rescale=False)
        metas = [sample.metainfo for sample in samples]
        return proposals, self.inner.roi_head.predict_bbox(maps, metas, proposals, rcnn_test_cfg=None, rescale=False)

    def _suppress(self, instances: InstanceData, proposals_R4: Tensor) -> Detections:
        """The library's class-wise suppression of one image's boxes, each with its proposal."""
        test_settings, num_classes = self.inner.roi_head.test_cfg, final_head(self.inner).num_classes
        limits = (test_settings.score_thr, test_settings.nms, test_settings.max_per_img)
        boxes_M5, labels_M, candidate_M = multiclass_nms(instances.bboxes, instances.scores, *limits, return_inds=True)
        row_M = candidate_M // num_classes
        return Detections(boxes_M5[:, :4], labels_M, boxes_M5[:, 4], instances.scores[row_M], proposals_R4[row_M])


def final_head(inner: Any) -> Any:
    """The head that predicts classes and boxes; of a cascade, its last head."""
    head = inner.roi_head.bbox_head if hasattr(inner, "roi_head") else inner.bbox_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def data_samples(batch: Batch, targets: Sequence[Boxes] = ()) -> list[DetDataSample]:
    """mmdet's data samples for a batch: image sizes and, if given, targets."""
    shape, samples = tuple(batch.images_N3HW.shape[2:]), []
    for number, size in enumerate(batch.sizes):
        padded = tuple(round_up_side(side) for side in size)
        sample = DetDataSample(metainfo={
            "img_id": number, "img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0),
            "pad_shape": padded, "batch_input_shape": shape,
        })  # fmt: skip
        if targets:
            sample.gt_instances = InstanceData(bboxes=targets[number].corners_M4, labels=targets[number].labels_M)
        samples.append(sample)
    return samples


def decode_candidates(
    head: Any, size: tuple[int, int], priors: Tensor, logits: Tensor, deltas: Tensor, factor: Tensor | None = None
) -> InstanceData:
    """The candidates of one image on one level, selected and decoded as in mmdet, with all class scores of each."""
    scores_AK = flatten_places(logits, head.cls_out_channels)
    scores_AK = scores_AK.sigmoid() if head.use_sigmoid_cls else scores_AK.softmax(1)
    scores_AC, test_settings = scores_AK[:, : head.num_classes], head.test_cfg
    best = filter_scores_and_topk(scores_AC, test_settings.get("score_thr", 0), test_settings.get("nms_pre", -1))
    scores_S, labels_S, place_S = best[:3]
    deltas_S = flatten_places(deltas, head.bbox_coder.encode_size)[place_S]
    boxes_S4 = head.bbox_coder.decode(priors[place_S], deltas_S, max_shape=size)
    candidates = InstanceData(bboxes=boxes_S4, scores=scores_S, labels=labels_S, rows=scores_AK[place_S])
    if factor is not None:
        candidates.score_factors = flatten_places(factor, 1)[place_S, 0].sigmoid()
    if head.use_sigmoid_cls:
        factor_S = candidates.get("score_factors", scores_S.new_ones(len(scores_S)))
        candidates.rows = add_background(candidates.rows * factor_S[:, None])
    return candidates


def flatten_places(values: Tensor, columns: int) -> Tensor:
    """(A, columns), from (channels, height, width)."""
    return values.permute(1, 2, 0).reshape(-1, columns)


# --- from a name to a model -----------------------------------------------------------------------
def build_detector(recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> Detector:
    """Builds the mmdet detector that the recipe names. Random draws come from torch's generator alone.

    Raises:
        ValueError: mmdet is missing, there is no such configuration, its model does not learn from boxes alone, the
            weights cannot be loaded, or a setting has no effect.
    """
    if package := missing_package():
        raise ValueError(f"model={recipe.model} needs {package}: {INSTALL_MMDET}")
    MMLogger.get_current_instance().setLevel("ERROR")  # otherwise it prints how every parameter is initialised
    name = recipe.model.removeprefix(MMDET_PREFIX)
    source, changes = PUBLISHED_CONFIGS.get(name, (name, {}))
    path = find_config(recipe.model, source)
    with warnings.catch_warnings(), DefaultScope.overwrite_default_scope("mmdet"):
        warnings.simplefilter("ignore")  # raised while configurations are imported
        with explain_failure(recipe.model):
            config = Config.fromfile(path)
            config.merge_from_dict(changes)
            settings = adapt_settings(config.model.to_dict(), num_classes, recipe.weights == "default")
            pixels = pixel_format_of(settings.pop("data_preprocessor", None) or {})
            freeze_stages(settings["backbone"], recipe)
            inner = MODELS.build(ConfigDict(settings))
        initialise(inner, recipe, weights)
        with explain_failure(recipe.model):
            kind = PublishedFcos if name == "fcos" else detector_class(inner)
            detector = kind(inner, recipe.model, pixels)
            if name not in VERIFIED_CONFIGS:
                try_detector(detector, num_classes)
                VERIFIED_CONFIGS.add(name)
    check_memory_format(detector, recipe)
    return detector


def find_config(model: str, name: str) -> Path:
    """The file of a configuration, named with or without its folder.

    Raises:
        ValueError: there is none; the message lists the nearest names.
    """
    zoo = Path(mmdet.__file__).parent / ".mim" / "configs"
    paths = [path for path in sorted(zoo.glob("*/*.py")) if path.parent.name != "_base_"]
    path_by_name = {path.stem: path for path in paths} | {f"{path.parent.name}/{path.stem}": path for path in paths}
    if (config_name := name.removesuffix(".py")) in path_by_name:
        return path_by_name[config_name]
    names = [*PUBLISHED_CONFIGS, *path_by_name]
    close = [f"{MMDET_PREFIX}{near}" for near in difflib.get_close_matches(config_name, names, n=3)]
    near = f"did you mean {' or '.join(close)}?" if close else f"{len(paths)} are in {zoo}"
    raise ValueError(f"model={model}: mmdet has no such configuration ({near})")


def freeze_stages(backbone: dict[str, Any], recipe: DetectorRecipe) -> None:
    """Sets the frozen stages of a backbone that has this setting. A backbone trained from scratch trains its
    normalisation too."""
    owner = MODELS.get(backbone["type"])
    if recipe.weights == "none" and recipe.frozen_stages < 0:
        norm_cfg = {**(backbone.get("norm_cfg") or {"type": "BN"}), "requires_grad": True}
        settings = {"norm_eval": False, "norm_cfg": norm_cfg}
        backbone |= {name: value for name, value in settings.items() if accepts_parameter(owner, name)}
    if accepts_parameter(owner, "frozen_stages"):
        backbone["frozen_stages"] = recipe.frozen_stages
    elif recipe.frozen_stages != DetectorRecipe.frozen_stages:
        raise IneffectiveSettingError(f"frozen_stages={recipe.frozen_stages} has no effect with model={recipe.model}")


def initialise(inner: Any, recipe: DetectorRecipe, weights: Path | None) -> None:
    """Runs the library's initialisation, which may download weights, and then loads a file of backbone weights."""
    try:
        with load_tensors_only():
            inner.init_weights()
    except Exception as error:
        if recipe.weights != "default":
            raise
        reason = str(error).splitlines()[0]
        instead = "give weights=FILE, or weights=none,frozen_stages=-1"
        raise ValueError(f"model={recipe.model}: its weights cannot be fetched ({reason}): {instead}") from error
    if weights is not None:
        load_weights(inner.backbone, weights, UNUSED_WEIGHTS)


def detector_class(inner: Any) -> type[MmdetDetector]:
    """The wrapper for a model: the most capable one whose assumptions the model's classes meet."""

    def inherits(module: Any, owner: type, *names: str) -> bool:
        return all(getattr(type(module), name, None) is getattr(owner, name) for name in names)

    head, roi_head = final_head(inner), getattr(inner, "roi_head", None)
    if roi_head is not None:
        is_common = inherits(inner, TwoStageDetector, "predict") and inherits(roi_head, BaseRoIHead, "predict")
        is_common &= any(inherits(roi_head, owner, "predict_bbox") for owner in (StandardRoIHead, CascadeRoIHead))
        is_common &= inherits(head, BBoxHead, "predict_by_feat", "_predict_by_feat_single")
        return TwoStageMmdet if is_common else MmdetDetector
    steps = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    is_common = inherits(inner, SingleStageDetector, "predict") and inherits(head, BaseDenseHead, *steps)
    custom = getattr(getattr(head, "loss_cls", None), "custom_cls_channels", False)
    return DenseMmdet if is_common and not custom else MmdetDetector


@torch.no_grad()
def try_detector(detector: MmdetDetector, num_classes: int) -> None:
    """Runs everything that a task needs of a detector on a grey image with one box."""
    assert final_head(detector.inner).num_classes == num_classes, "its head has another number of classes"
    has_history = hasattr(getattr(detector.inner, "roi_head", None), "iou_history")
    assert not has_history, "its samplers depend on earlier losses, which checkpoints do not store"
    batch = Batch(torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE), [(TRIAL_SIDE, TRIAL_SIDE)], [0])
    maps = detector.feature_maps(batch.images_N3HW)
    box = Boxes(torch.tensor([[80.0, 80.0, 200.0, 220.0]]), torch.tensor([0]))
    assert detector.loss(maps, batch, [box]).ndim == 0, "its loss is not a scalar"
    detector.detect(maps, batch)
    detector.pooled_features(maps, batch)


def check_memory_format(detector: MmdetDetector, recipe: DetectorRecipe) -> None:
    """Raises ValueError for channels last where operators of mmcv would read weights or inputs incorrectly."""
    classes = {type(module) for module in detector.inner.modules()}
    operators = {owner.__name__ for owner in classes if owner.__module__.startswith("mmcv.ops")}
    if recipe.channels_last and (unsafe := operators - {"RoIAlign"}):
        reason = f"mmcv's {min(unsafe)} reads channels-last tensors incorrectly"
        raise ValueError(f"model={recipe.model}: set channels_last=false, because {reason}")
