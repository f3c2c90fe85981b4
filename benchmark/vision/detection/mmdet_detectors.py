"""Detectors of mmdet 3: the published FCOS and Faster R-CNN, and whatever in its zoo learns from boxes alone.

`mmdet:fcos` is fcos_r50-caffe_fpn_gn-head_1x_coco with one change: no normalisation in its head (`norm_cfg=None`; the
zoo's has GN). As the zoo has it: ResNet-50 in caffe style on BGR pixels less (102.9801, 115.9465, 122.7717), its batch
normalisation neither trained nor updated; an FPN on stages 2 to 4 with P6 and P7 from P5, after a ReLU; towers of four
convolutions of 256 channels; no centre sampling, no `norm_on_bbox` (so exp), centerness on the class tower; focal loss
(2, 0.25), -log IoU, binary cross-entropy, weights of one; 1000 candidates a level with scores above 0.05, suppression
at 0.5, 100 boxes. `mmdet:faster_rcnn` is faster-rcnn_r50_fpn_1x_coco as it is: ResNet-50 of torchvision on normalised
RGB, its batch normalisation trained but not updated; 1000 proposals, of 1000 candidates a level (2000 in training); a
head of two matrices of 1024; cross-entropies and L1; scores above 0.05, suppression at 0.5, 100 boxes.

These change in every configuration: the classes; the frozen stages, as the recipe says (the zoo's two freeze the stem
and stage 1, the recipe's default); SyncBN becomes BN; and the focal loss is mmdet's formula in PyTorch on a GPU too:
its compiled operator has no second derivatives. Data, schedule and optimiser are the recipe's. The
focal loss is divided by the number of positives; mmdet 2.4, which ISAL used, added the number of images to it.

Shapes: N images, H x W pixels of the padded batch, A places of one image on one level, S candidates and M boxes of one
image, R proposals, C classes, K = C + 1 with background last, D features.
"""

from __future__ import annotations

import difflib
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmark.api import Boxes
from benchmark.vision.detection.detector import (
    Batch,
    Detections,
    Detector,
    PixelFormat,
    add_background,
    record_calls,
    training_mode,
)
from benchmark.vision.detection.inputs import round_up_side
from benchmark.vision.detection.mmdet_settings import (
    PUBLISHED_CONFIGS,
    IneffectiveSettingError,
    accepts_parameter,
    adapt_settings,
    explain_failure,
    pixel_format_of,
)
from benchmark.vision.detection.recipe import MMDET_PREFIX, DetectorRecipe
from benchmark.vision.detection.torchvision_detectors import UNUSED_WEIGHTS
from benchmark.vision.weights import load_weights


def missing_package() -> str:
    """What must be installed before mmdet can be used; "" for nothing."""
    if find_spec("mmdet") is None:
        return "mmdet"
    compiled = find_spec("mmcv") is not None and find_spec("mmcv._ext") is not None
    return "" if compiled else "mmcv with its operators compiled"


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the libraries import
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

        torch.meshgrid(torch.zeros(1), torch.zeros(1))  # warns of a default that mmdet relies on, once a process
LAST_LAYER_NAMES = re.compile(r"_(cls|reg|centerness|iou|score|pred)$")  # names of a head's last layers
TRIAL_SIDE = 320  # pixels of the image that a model is tried on
VERIFIED_CONFIGS = set(PUBLISHED_CONFIGS)  # configurations known to be detectors: it can take a minute to find out


class MmdetDetector(Detector):
    """Any detector of mmdet: of a box it knows one score, and leaves the rest to background."""

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
        """The outputs of the neck. Contiguous: mmcv's operators read wrong numbers from maps with channels last."""
        return [level.contiguous() for level in self.inner.extract_feat(images_N3HW)]

    def loss(self, maps: Sequence[Tensor], batch: Batch, targets: Sequence[Boxes]) -> Tensor:
        """All entries of the library's dictionary that it would train on."""
        heads = [head for name, head in self.inner.named_children() if name not in ("backbone", "neck")]
        with self._given(maps), training_mode(self.inner, *heads):
            losses = self.inner.loss(batch.images_N3HW, data_samples(batch, targets))
        total: Tensor = self.inner.parse_losses(losses)[0]
        return total

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """A score is the library's."""
        with self._given(maps):
            found = self.inner.predict(batch.images_N3HW, data_samples(batch), rescale=False)
        return [self._alone(one.pred_instances) for one in found]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """The feature maps, averaged over places and then over levels, side by side where their channels differ."""
        means = [level.mean((2, 3)) for level in maps]
        return torch.stack(means).mean(0) if len(set(self.channels)) == 1 else torch.cat(means, 1)

    def last_layers(self) -> list[nn.Module]:
        """By name: those of the RPN, where there is one, then of the head (a cascade's last). ValueError for none."""
        heads = [*filter(None, [getattr(self.inner, "rpn_head", None)]), final_head(self.inner)]
        named = [pair for head in heads for pair in head.named_children() if LAST_LAYER_NAMES.search(pair[0])]
        layers: list[nn.Module] = [layer for _, layer in named if isinstance(layer, nn.Conv2d | nn.Linear)]
        if not layers:
            raise ValueError(f"model={self.name}: which layers are its last is not known, and influence is over those")
        return layers

    @contextmanager
    def _given(self, maps: Sequence[Tensor]) -> Iterator[None]:
        """The library's own methods run on these feature maps instead of computing them."""
        self.inner.extract_feat = lambda images_N3HW: tuple(maps)
        try:
            yield
        finally:
            del self.inner.extract_feat

    def _alone(self, found: InstanceData) -> Detections:
        scores_MK = found.scores.new_zeros(len(found.scores), final_head(self.inner).num_classes + 1)
        scores_MK[:, -1] = 1 - found.scores
        scores_MK.scatter_(1, found.labels[:, None], found.scores[:, None])
        return Detections(found.bboxes, found.labels, found.scores, scores_MK)


class DenseMmdet(MmdetDetector):
    """One-stage detectors whose head predicts as most of mmdet's do: FCOS, RetinaNet, ATSS."""

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """A score is the class probability, times centerness where there is such a branch; the first is filtered by."""
        head = self.inner.bbox_head
        outputs = head(tuple(maps))
        sizes = [level.shape[-2:] for level in outputs[0]]
        priors = head.prior_generator.grid_priors(sizes, dtype=maps[0].dtype, device=maps[0].device)
        found = []
        for number, sample in enumerate(data_samples(batch)):
            levels = zip(priors, *([level[number] for level in kind] for kind in outputs), strict=True)
            candidates = InstanceData.cat([decode_candidates(head, sample.img_shape, *level) for level in levels])
            kept = head._bbox_post_process(candidates, cfg=head.test_cfg, img_meta=sample.metainfo)
            found.append(Detections(kept.bboxes, kept.labels, kept.scores, kept.rows))
        return found

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """The inputs of the class and of the box layer, averaged over places and then over levels."""
        try:
            layers = self.last_layers()[:2]
        except ValueError:
            return super().pooled_features(maps, batch)
        with record_calls(layers) as calls:
            self.inner.bbox_head(tuple(maps))
        seen = [[call.input for call in calls if call.layer is layer] for layer in layers]
        levels = [torch.cat([one.mean((2, 3)) for one in level], 1) for level in zip(*seen, strict=True)]
        return torch.stack(levels).mean(0)


class TwoStageMmdet(MmdetDetector):
    """Detectors that refine proposals as Faster R-CNN and Cascade R-CNN do; a proposal is the RPN's."""

    is_two_stage = True

    def detect(self, maps: Sequence[Tensor], batch: Batch) -> list[Detections]:
        """A score is the class probability."""
        proposals, found = self._refined(maps, batch)
        return [self._kept(one, proposal.bboxes) for one, proposal in zip(found, proposals, strict=True)]

    def pooled_features(self, maps: Sequence[Tensor], batch: Batch) -> Tensor:
        """The inputs of the class layer, averaged over the proposals of each image."""
        layer = final_head(self.inner).fc_cls
        with record_calls([layer]) as calls:
            proposals, _ = self._refined(maps, batch)
        features_RD = torch.cat([layer.weight.new_zeros(0, layer.in_features), *(call.input for call in calls)])
        parts = features_RD.split([len(one) for one in proposals])
        return torch.stack([part.sum(0) / max(len(part), 1) for part in parts])

    def _refined(self, maps: Sequence[Tensor], batch: Batch) -> tuple[list[InstanceData], list[InstanceData]]:
        """The proposals of each image; and, row by row, the boxes and class probabilities that become of them."""
        maps, wanted = tuple(maps), data_samples(batch)
        proposals = self.inner.rpn_head.predict(maps, wanted, rescale=False)
        metas = [sample.metainfo for sample in wanted]
        return proposals, self.inner.roi_head.predict_bbox(maps, metas, proposals, rcnn_test_cfg=None, rescale=False)

    def _kept(self, found: InstanceData, proposals_R4: Tensor) -> Detections:
        rule, num_classes = self.inner.roi_head.test_cfg, final_head(self.inner).num_classes
        boxes_M5, labels_M, which_M = multiclass_nms(
            found.bboxes, found.scores, rule.score_thr, rule.nms, rule.max_per_img, return_inds=True
        )
        row_M = which_M // num_classes
        return Detections(boxes_M5[:, :4], labels_M, boxes_M5[:, 4], found.scores[row_M], proposals_R4[row_M])


def final_head(inner: Any) -> Any:
    """What says classes and boxes: the head, or the last of a cascade."""
    head = inner.roi_head.bbox_head if hasattr(inner, "roi_head") else inner.bbox_head
    return head[-1] if isinstance(head, nn.ModuleList) else head


def data_samples(batch: Batch, targets: Sequence[Boxes] = ()) -> list[DetDataSample]:
    """What mmdet calls data samples: sizes and, where there are any, targets."""
    shape, found = tuple(batch.images_N3HW.shape[2:]), []
    for number, size in enumerate(batch.sizes):
        padded = tuple(round_up_side(side) for side in size)
        sample = DetDataSample(metainfo={
            "img_id": number, "img_shape": size, "ori_shape": size, "scale_factor": (1.0, 1.0),
            "pad_shape": padded, "batch_input_shape": shape,
        })  # fmt: skip
        if targets:
            sample.gt_instances = InstanceData(bboxes=targets[number].corners_M4, labels=targets[number].labels_M)
        found.append(sample)
    return found


def decode_candidates(
    head: Any, size: tuple[int, int], priors: Tensor, logits: Tensor, deltas: Tensor, factor: Tensor | None = None
) -> InstanceData:
    """The candidates of one image on one level, as the library picks and decodes them, with all scores of each."""
    scores_AK = flatten_places(logits, head.cls_out_channels)
    scores_AK = scores_AK.sigmoid() if head.use_sigmoid_cls else scores_AK.softmax(1)
    scores_AC, rule = scores_AK[:, : head.num_classes], head.test_cfg
    picked = filter_scores_and_topk(scores_AC, rule.get("score_thr", 0), rule.get("nms_pre", -1))
    scores_S, labels_S, place_S = picked[:3]
    deltas_S = flatten_places(deltas, head.bbox_coder.encode_size)[place_S]
    boxes_S4 = head.bbox_coder.decode(priors[place_S], deltas_S, max_shape=size)
    found = InstanceData(bboxes=boxes_S4, scores=scores_S, labels=labels_S, rows=scores_AK[place_S])
    if factor is not None:
        found.score_factors = flatten_places(factor, 1)[place_S, 0].sigmoid()
    if head.use_sigmoid_cls:
        found.rows = add_background(found.rows * found.get("score_factors", scores_S.new_ones(len(scores_S)))[:, None])
    return found


def flatten_places(values: Tensor, columns: int) -> Tensor:
    """(A, columns), from (channels, height, width)."""
    return values.permute(1, 2, 0).reshape(-1, columns)


def one_hot_targets(loss: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    """Classes as columns: mmdet then takes its formula in PyTorch instead of its compiled operator."""
    scores, target, *rest = given
    if scores.dim() != target.dim():
        target = F.one_hot(target, scores.shape[1] + 1)[:, : scores.shape[1]]
    return scores, target, *rest


# --- from a name to a model -----------------------------------------------------------------------
def build_detector(recipe: DetectorRecipe, num_classes: int, weights: Path | None) -> Detector:
    """The detector of that name. Draws from torch's generator alone.

    Raises ValueError where mmdet is missing, no configuration has that name, its model does not learn from boxes alone,
    weights cannot be had, or a setting has no effect.
    """
    if what := missing_package():
        raise ValueError(f"model={recipe.model} needs {what}: make mmdet (compiles mmcv for about ten minutes)")
    MMLogger.get_current_instance().setLevel("ERROR")  # it would print how every parameter is initialised
    name = recipe.model.removeprefix(MMDET_PREFIX)
    source, changes = PUBLISHED_CONFIGS.get(name, (name, {}))
    path = find_config(recipe.model, source)
    with warnings.catch_warnings(), DefaultScope.overwrite_default_scope("mmdet"):
        warnings.simplefilter("ignore")  # of what configurations import
        with explain_failure(recipe.model):
            config = Config.fromfile(path)
            config.merge_from_dict(changes)
            settings = adapt_settings(config.model.to_dict(), num_classes, recipe.weights == "default")
            pixels = pixel_format_of(settings.pop("data_preprocessor", None) or {})
            freeze_stages(settings["backbone"], recipe)
            inner = MODELS.build(ConfigDict(settings))
        initialise(inner, recipe, weights)
        with explain_failure(recipe.model):
            detector = detector_class(inner)(inner, recipe.model, pixels)
            if name not in VERIFIED_CONFIGS:
                try_detector(detector, num_classes)
                VERIFIED_CONFIGS.add(name)
    check_memory_format(detector, recipe)
    return detector


def find_config(model: str, name: str) -> Path:
    """The file of a configuration, named with or without its folder. ValueError with the nearest names."""
    zoo = Path(mmdet.__file__).parent / ".mim" / "configs"
    paths = [path for path in sorted(zoo.glob("*/*.py")) if path.parent.name != "_base_"]
    found = {path.stem: path for path in paths} | {f"{path.parent.name}/{path.stem}": path for path in paths}
    if (wanted := name.removesuffix(".py")) in found:
        return found[wanted]
    close = [f"{MMDET_PREFIX}{near}" for near in difflib.get_close_matches(wanted, [*PUBLISHED_CONFIGS, *found], n=3)]
    near = f"did you mean {' or '.join(close)}?" if close else f"{len(paths)} are in {zoo}"
    raise ValueError(f"model={model}: mmdet has no such configuration ({near})")


def freeze_stages(backbone: dict[str, Any], recipe: DetectorRecipe) -> None:
    """Sets the frozen stages of a backbone that has the setting; one that starts from nothing trains its norms too."""
    if recipe.weights == "none" and recipe.frozen_stages < 0:
        trained = {
            "norm_eval": False,
            "norm_cfg": {**(backbone.get("norm_cfg") or {"type": "BN"}), "requires_grad": True},
        }
        backbone |= {
            name: value for name, value in trained.items() if accepts_parameter(MODELS.get(backbone["type"]), name)
        }
    if accepts_parameter(MODELS.get(backbone["type"]), "frozen_stages"):
        backbone["frozen_stages"] = recipe.frozen_stages
    elif recipe.frozen_stages != DetectorRecipe.frozen_stages:
        raise IneffectiveSettingError(f"frozen_stages={recipe.frozen_stages} has no effect with model={recipe.model}")


def initialise(inner: Any, recipe: DetectorRecipe, weights: Path | None) -> None:
    """The library's initialisation, which fetches weights where the settings name some; then those of a file."""
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


@contextmanager
def load_tensors_only() -> Iterator[None]:
    """torch.load refuses what could run code; mmengine would load it all the same."""
    name = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        os.environ.pop(name)
        if before is not None:
            os.environ[name] = before


def detector_class(inner: Any) -> type[MmdetDetector]:
    """How much we can ask of a model: all of it where it predicts as the library's common classes do."""

    def common(one: Any, owner: type, *names: str) -> bool:
        return all(getattr(type(one), name, None) is getattr(owner, name) for name in names)

    head, refines = final_head(inner), getattr(inner, "roi_head", None)
    if refines is not None:
        ours = common(inner, TwoStageDetector, "predict") and common(refines, BaseRoIHead, "predict")
        ours &= any(common(refines, owner, "predict_bbox") for owner in (StandardRoIHead, CascadeRoIHead))
        return (
            TwoStageMmdet
            if ours and common(head, BBoxHead, "predict_by_feat", "_predict_by_feat_single")
            else MmdetDetector
        )
    steps = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")
    ours = common(inner, SingleStageDetector, "predict") and common(head, BaseDenseHead, *steps)
    custom = getattr(getattr(head, "loss_cls", None), "custom_cls_channels", False)
    return DenseMmdet if ours and not custom else MmdetDetector


@torch.no_grad()
def try_detector(detector: MmdetDetector, num_classes: int) -> None:
    """Tries whatever a task asks of a detector on a grey image with one box."""
    assert final_head(detector.inner).num_classes == num_classes, "its head has other classes"
    remembers = hasattr(getattr(detector.inner, "roi_head", None), "iou_history")
    assert not remembers, "its samplers remember earlier losses, which no checkpoint holds"
    batch = Batch(torch.zeros(1, 3, TRIAL_SIDE, TRIAL_SIDE), [(TRIAL_SIDE, TRIAL_SIDE)], [0])
    maps = detector.feature_maps(batch.images_N3HW)
    box = Boxes(torch.tensor([[80.0, 80.0, 200.0, 220.0]]), torch.tensor([0]))
    assert detector.loss(maps, batch, [box]).ndim == 0, "its loss is no number"
    detector.detect(maps, batch)
    detector.pooled_features(maps, batch)


def check_memory_format(detector: MmdetDetector, recipe: DetectorRecipe) -> None:
    """ValueError for channels last where operators of mmcv would read them wrongly; feature maps are safe."""
    theirs = {type(one).__name__ for one in detector.inner.modules() if type(one).__module__.startswith("mmcv.ops")}
    if recipe.channels_last and (unsafe := theirs - {"RoIAlign"}):
        raise ValueError(f"model={recipe.model}: give channels_last=false, {min(unsafe)} of mmcv reads it wrongly")
