"""mmdet's detectors: the published two have the published settings, the numbers equal the library's own, and
derivatives are exact.

Shapes: N images, M boxes of one image, C classes, K = C + 1 with background last.
"""

from __future__ import annotations

import copy
import random
import urllib.request
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from _toy import look
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.func import functional_call

from benchmark.api import Boxes, Machine, find_strategy, seeded
from benchmark.plugins import discovery
from benchmark.tasks.scenes import Canvases
from benchmark.vision.data.annotations import GroundTruth, Split
from benchmark.vision.detection.detector import Batch, Detector
from benchmark.vision.detection.inputs import BatchBuilder
from benchmark.vision.detection.recipe import DetectorRecipe
from benchmark.vision.detection.task import Detection
from benchmark.vision.detection.training import build_optimiser

pytestmark = pytest.mark.mmdet

C, SMALLEST, SOFTMAX = 3, "retinanet_r18_fpn_1x_coco", "ssd300_coco"
RECIPE = DetectorRecipe(
    model="mmdet:fcos", weights="none", min_size=0, precision="float32", epochs=1, batch_size=2, lr=1e-3, warmup=0.0
)
PUBLISHED = ("fcos", "faster_rcnn")
BOXES = [
    Boxes(torch.tensor([[10.0, 12.0, 62.0, 70.0], [50.0, 20.0, 101.0, 88.0], [5.0, 5.0, 30.0, 25.0]]), torch.arange(3)),
    Boxes(torch.tensor([[30.0, 8.0, 90.0, 80.0]]), torch.tensor([1])),
]
EMPTY = Boxes(torch.empty(0, 4), torch.empty(0, dtype=torch.int64))


def build_eval(name: str, file: Path | None = None, **changes: Any) -> Any:
    """A detector of mmdet in eval mode."""
    from benchmark.vision.detection.mmdet_detectors import build_detector

    with seeded(0):
        return build_detector(replace(RECIPE, model=f"mmdet:{name}", **changes), C, file).eval()


def sure(detector: Any) -> Any:
    """The same detector with a head that finds boxes of every class."""
    with torch.no_grad(), seeded(1):
        for layer in detector.last_layers():
            layer.weight.normal_(std=0.02)
        if not detector.is_two_stage:
            detector.last_layers()[0].bias.fill_(-1.0)
    return detector


@pytest.fixture(scope="module")
def detectors() -> dict[str, Any]:
    """The detectors built so far."""
    return {}


@pytest.fixture(scope="module", params=PUBLISHED)
def published(request: pytest.FixtureRequest, detectors: dict[str, Any]) -> Any:
    """Each of the paper's detectors."""
    return detectors.setdefault(request.param, sure(build_eval(request.param)))


@pytest.fixture(scope="module", params=[*PUBLISHED, SMALLEST])
def detector(request: pytest.FixtureRequest, detectors: dict[str, Any]) -> Any:
    """Each of the paper's detectors, and one more of the zoo."""
    if request.param not in detectors:
        detectors[request.param] = sure(build_eval(request.param))
    return detectors[request.param]


def batch(seed: int = 0) -> Batch:
    """Two images of different sizes."""
    images = torch.randn(2, 3, 96, 128, generator=torch.Generator().manual_seed(seed))
    images[1, :, 90:], images[1, :, :, 110:] = 0, 0
    return Batch(images, [(96, 128), (90, 110)], [11, 12])


def random_direction(detector: Detector) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    weights = detector.last_weights()
    return {name: torch.randn(weight.shape, generator=generator) * 0.01 for name, weight in weights.items()}


# --- what is built --------------------------------------------------------------------------------
def checkpoint(name: str) -> str:
    """Where the initial weights of a published detector come from."""
    from mmengine.config import Config

    from benchmark.vision.detection.mmdet_detectors import find_config
    from benchmark.vision.detection.mmdet_settings import PUBLISHED_CONFIGS

    config = Config.fromfile(find_config(name, PUBLISHED_CONFIGS[name][0]))
    return str(config.model.backbone.init_cfg.checkpoint)


def settings(loss: Any, *names: str) -> tuple[Any, ...]:
    return type(loss).__name__, *(getattr(loss, name) for name in names)


def test_fcos_is_the_published_one() -> None:
    detector = build_eval("fcos")
    inner, head = detector.inner, detector.inner.bbox_head
    assert checkpoint("fcos") == "open-mmlab://detectron/resnet50_caffe"
    assert detector.pixel_format.mean == pytest.approx((102.9801, 115.9465, 122.7717))
    assert detector.pixel_format.deviation == (1, 1, 1)
    assert detector.pixel_format.bgr
    assert (inner.backbone.depth, inner.backbone.style, inner.backbone.norm_eval) == (50, "caffe", True)
    assert inner.backbone.layer2[0].conv1.stride == (2, 2)
    norms = [module for module in inner.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert not any(parameter.requires_grad for module in norms for parameter in module.parameters())
    assert not any(module.training for module in norms)
    assert frozen(inner.backbone) == ["conv1", "layer1"]
    neck = inner.neck
    assert (neck.start_level, neck.num_outs) == (1, 5)
    assert (neck.add_extra_convs, neck.relu_before_extra_convs) == ("on_output", True)
    assert detector.channels == [256] * 5
    for tower in (head.cls_convs, head.reg_convs):
        assert [(module.conv.out_channels, module.with_norm, module.with_bias) for module in tower] == [
            (256, False, True)
        ] * 4
    assert (head.center_sampling, head.norm_on_bbox, head.centerness_on_reg) == (False, False, False)
    assert head.conv_cls.out_channels == head.num_classes == C
    assert settings(head.loss_cls, "gamma", "alpha", "loss_weight") == ("FocalLoss", 2.0, 0.25, 1.0)
    assert settings(head.loss_bbox, "mode", "linear", "loss_weight") == ("IoULoss", "log", False, 1.0)
    assert settings(head.loss_centerness, "use_sigmoid", "loss_weight") == ("CrossEntropyLoss", True, 1.0)
    assert (head.test_cfg.nms_pre, head.test_cfg.score_thr, head.test_cfg.max_per_img) == (1000, 0.05, 100)
    assert dict(head.test_cfg.nms) == {"type": "nms", "iou_threshold": 0.5}
    assert [layer is getattr(head, f"conv_{name}") for layer, name in zip(
        detector.last_layers(), ("cls", "reg", "centerness"), strict=True
    )] == [True] * 3  # fmt: skip


def test_faster_rcnn_is_the_published_one() -> None:
    detector = build_eval("faster_rcnn")
    inner, head = detector.inner, detector.inner.roi_head.bbox_head
    assert checkpoint("faster_rcnn") == "torchvision://resnet50"
    assert detector.pixel_format.mean == pytest.approx((123.675, 116.28, 103.53))
    assert detector.pixel_format.deviation == pytest.approx((58.395, 57.12, 57.375))
    assert not detector.pixel_format.bgr
    assert (inner.backbone.depth, inner.backbone.style, inner.backbone.norm_eval) == (50, "pytorch", True)
    assert frozen(inner.backbone) == ["conv1", "layer1"]
    assert inner.backbone.layer2[0].bn1.weight.requires_grad
    inner.backbone.train()
    assert not inner.backbone.layer2[0].bn1.training
    assert (inner.neck.start_level, inner.neck.num_outs, detector.channels) == (0, 5, [256] * 5)
    assert [module.out_features for module in head.shared_fcs] == [1024, 1024]
    assert (head.fc_cls.out_features, head.fc_reg.out_features, head.num_classes) == (C + 1, 4 * C, C)
    for module, sigmoid in ((inner.rpn_head, True), (head, False)):
        assert settings(module.loss_cls, "use_sigmoid", "loss_weight") == ("CrossEntropyLoss", sigmoid, 1.0)
        assert settings(module.loss_bbox, "loss_weight") == ("L1Loss", 1.0)
    first, second = inner.test_cfg.rpn, inner.test_cfg.rcnn
    assert (first.nms_pre, first.max_per_img, first.nms.iou_threshold) == (1000, 1000, 0.7)
    assert (second.score_thr, second.nms.iou_threshold, second.max_per_img) == (0.05, 0.5, 100)
    expected = [inner.rpn_head.rpn_cls, inner.rpn_head.rpn_reg, head.fc_cls, head.fc_reg]
    assert all(layer is other for layer, other in zip(detector.last_layers(), expected, strict=True))


def frozen(backbone: nn.Module) -> list[str]:
    """The names of the convolutional parts that are not trained."""
    parts = {name: list(part.parameters()) for name, part in backbone.named_children() if "bn" not in name}
    return [
        name
        for name, parameters in parts.items()
        if parameters and not any(parameter.requires_grad for parameter in parameters)
    ]


@pytest.mark.parametrize(("stages", "parts"), [(-1, []), (0, ["conv1"]), (2, ["conv1", "layer1", "layer2"])])
def test_frozen_stages_are_the_recipes(stages: int, parts: list[str]) -> None:
    assert frozen(build_eval(SMALLEST, frozen_stages=stages).inner.backbone) == parts


def test_equal_seeds_give_equal_weights_and_no_other_generator_is_drawn_from() -> None:
    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first, second = build_eval(SMALLEST).state_dict(), build_eval(SMALLEST).state_dict()
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002
    assert all(torch.equal(value, second[name]) for name, value in first.items())


# --- weights --------------------------------------------------------------------------------------
def test_weights_of_a_file_go_into_the_backbone(tmp_path: Path) -> None:
    path, state = tmp_path / "weights.pth", build_eval(SMALLEST).inner.backbone.state_dict()
    state["layer4.1.conv2.weight"].fill_(0.5)
    torch.save(state | {"fc.weight": torch.zeros(2, 2)}, path)
    loaded_state = build_eval(SMALLEST, path, weights=str(path)).inner.backbone.state_dict()
    assert all(torch.equal(value, loaded_state[name]) for name, value in state.items())
    torch.save(state | {"conv1.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(ValueError, match=r"conv1\.weight holds \(2, 2\), the model \(64, 3, 7, 7\)"):
        build_eval(SMALLEST, path, weights=str(path))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for downloads, and no network."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", unreachable)
    monkeypatch.setattr("torch.hub.urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


@pytest.mark.parametrize("name", [*PUBLISHED, SMALLEST])
def test_weights_that_cannot_be_fetched(name: str, cache: Path) -> None:
    says = rf"^model=mmdet:{name}: its weights cannot be fetched \(.*\): give weights=FILE, or weights=none,frozen"
    with pytest.raises(ValueError, match=says):
        build_eval(name, weights="default")


def test_default_weights_are_loaded_and_run_no_code(cache: Path) -> None:
    from mmengine.runner.checkpoint import get_torchvision_models

    path = cache / get_torchvision_models()["resnet18"].rpartition("/")[2]
    state = build_eval(SMALLEST).inner.backbone.state_dict()
    state["conv1.weight"].fill_(0.25)
    cache.mkdir(parents=True)
    torch.save(state, path)
    assert torch.equal(build_eval(SMALLEST, weights="default").inner.backbone.conv1.weight, state["conv1.weight"])
    torch.save(state | {"code": print}, path)
    with pytest.raises(ValueError, match="cannot be fetched"):
        build_eval(SMALLEST, weights="default")


# --- names ----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("name", "says"), [
    ("retinanet_r18_fpn_1x_cocoo", r"no such configuration \(did you mean mmdet:retinanet_r18_fpn_1x_coco or"),
    ("fkos", r"did you mean mmdet:fcos\?"),
    ("qqqqqqqq", r"mmdet has no such configuration \(\d+ are in .*configs\)"),
    ("rpn_r50_fpn_1x_coco", r"cannot be trained from boxes alone \(.*: its head has another number of classes\)"),
    ("mask-rcnn_r50_fpn_1x_coco", r"cannot be trained from boxes alone \(AttributeError: .*masks"),
    ("retinanet_tta", r"cannot be trained from boxes alone"),
])  # fmt: skip
def test_a_name_that_is_none_for_us(name: str, says: str) -> None:
    with pytest.raises(ValueError, match=rf"^model=mmdet:{name}: .*{says}") as raised:
        build_eval(name)
    assert "\n" not in str(raised.value)


def test_the_head_of_a_published_one_is_not_tried_but_others_are_once() -> None:
    from benchmark.vision.detection.mmdet_detectors import VERIFIED_CONFIGS

    build_eval(SMALLEST)
    assert {*PUBLISHED, SMALLEST} <= VERIFIED_CONFIGS
    assert "rpn_r50_fpn_1x_coco" not in VERIFIED_CONFIGS


def test_a_name_with_its_folder() -> None:
    assert build_eval(f"retinanet/{SMALLEST}").inner.bbox_head.num_classes == C


@pytest.mark.parametrize(("absent", "says"), [("mmdet", "mmdet"), ("mmcv._ext", "mmcv with its operators compiled")])
def test_without_mmdet(absent: str, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmark.vision.detection import mmdet_settings

    find = mmdet_settings.find_spec
    monkeypatch.setattr(mmdet_settings, "find_spec", lambda name: None if name == absent else find(name))
    with pytest.raises(ValueError, match=rf"^model=mmdet:fcos needs {says}: type make mmdet \(compiles mmcv"):
        build_eval("fcos")


def test_settings_without_effect() -> None:
    with pytest.raises(ValueError, match=rf"^frozen_stages=2 has no effect with model=mmdet:{SOFTMAX}$"):
        build_eval(SOFTMAX, frozen_stages=2)


# --- the library's numbers ------------------------------------------------------------------------
@torch.no_grad()
def test_detections_are_the_librarys(detector: Any) -> None:
    from benchmark.vision.detection.mmdet_detectors import data_samples

    inputs = batch()
    head = detector.inner.roi_head if detector.is_two_stage else detector.inner.bbox_head
    before = copy.deepcopy(head.test_cfg)
    if not detector.is_two_stage:
        head.test_cfg.nms_pre = 100  # fewer than there are: picked by class score before centerness comes in
    expected = detector.inner.predict(inputs.images_N3HW, data_samples(inputs), rescale=False)
    detections = detector.detect(detector.feature_maps(inputs.images_N3HW), inputs)
    head.test_cfg = before
    for image_detections, sample in zip(detections, expected, strict=True):
        theirs = sample.pred_instances
        assert len(image_detections.labels_M) == len(theirs) > 5
        assert torch.equal(image_detections.labels_M, theirs.labels)
        torch.testing.assert_close(image_detections.confidence_M, theirs.scores)
        torch.testing.assert_close(image_detections.corners_M4, theirs.bboxes)
        torch.testing.assert_close(image_detections.scores_MK.sum(1), torch.ones(len(theirs)))
        own_M = image_detections.scores_MK.gather(1, image_detections.labels_M[:, None])[:, 0]
        whole_M = (
            image_detections.scores_MK[:, -1] > 0
        )  # a sigmoid head whose scores sum to more than one is scaled to one
        torch.testing.assert_close(own_M[whole_M], image_detections.confidence_M[whole_M])
        assert (own_M <= image_detections.confidence_M + 1e-6).all()
        height, width = sample.img_shape
        assert (image_detections.corners_M4 >= 0).all()
        assert (image_detections.corners_M4 <= torch.tensor([width, height, width, height])).all()
    if detector.is_two_stage:
        proposals = detector.inner.rpn_head.predict(
            tuple(detector.feature_maps(inputs.images_N3HW)), data_samples(inputs)
        )
        for image_detections, proposed in zip(detections, proposals, strict=True):
            at_MR = (image_detections.proposals_M4[:, None] == proposed.bboxes).all(2)
            assert at_MR.any(1).all()
            deltas = check_refined(detector, inputs, image_detections)
            assert deltas < 1e-2


def check_refined(detector: Any, inputs: Batch, detections: Any) -> float:
    """The largest distance in pixels between a box and the box that the head computes from its proposal."""
    by_image = detector.detect(detector.feature_maps(inputs.images_N3HW), inputs)
    number = next(i for i, other in enumerate(by_image) if torch.equal(other.corners_M4, detections.corners_M4))
    head = detector.inner.roi_head
    rois = torch.cat([torch.full((len(detections.labels_M), 1), float(number)), detections.proposals_M4], 1)
    out = head._bbox_forward(tuple(detector.feature_maps(inputs.images_N3HW)), rois)
    deltas_MC4 = out["bbox_pred"].view(-1, C, 4)[torch.arange(len(rois)), detections.labels_M]
    boxes_M4 = head.bbox_head.bbox_coder.decode(detections.proposals_M4, deltas_MC4, max_shape=inputs.sizes[number])
    torch.testing.assert_close(out["cls_score"].softmax(1), detections.scores_MK, atol=1e-4, rtol=1e-3)
    return (boxes_M4 - detections.corners_M4).abs().max().item()


@torch.no_grad()
def test_a_softmax_head_has_its_own_background() -> None:
    detector, inputs = build_eval(SOFTMAX), Batch(torch.randn(1, 3, 320, 320), [(320, 320)], [0])
    [detections] = detector.detect(detector.feature_maps(inputs.images_N3HW), inputs)
    assert len(detections.labels_M) > 5
    torch.testing.assert_close(detections.scores_MK.sum(1), torch.ones(len(detections.labels_M)))
    torch.testing.assert_close(
        detections.scores_MK.gather(1, detections.labels_M[:, None])[:, 0], detections.confidence_M
    )
    with pytest.raises(ValueError, match=rf"^model=mmdet:{SOFTMAX}: its last layers are not known"):
        detector.last_weights()


@torch.no_grad()
def test_features_are_the_inputs_of_the_last_layers(published: Any) -> None:
    inputs = batch()
    maps, head = published.feature_maps(inputs.images_N3HW), published.inner
    pooled_ND = published.pooled_features(maps, inputs)
    if published.is_two_stage:
        assert pooled_ND.shape == (2, 1024)
        assert (pooled_ND >= 0).all()
    else:
        assert pooled_ND.shape == (2, 512)
        outputs = [[nn.Sequential(*tower)(level).mean((2, 3)) for level in maps]
                   for tower in (head.bbox_head.cls_convs, head.bbox_head.reg_convs)]  # fmt: skip
        expected = torch.cat([torch.stack(levels).mean(0) for levels in outputs], 1)
        torch.testing.assert_close(pooled_ND, expected)
    features = published.pooled_features([level[1:] for level in maps], inputs.select_image(1))
    torch.testing.assert_close(pooled_ND[1:], features, rtol=1e-3, atol=1e-5)


@torch.no_grad()
def test_channels_last_changes_nothing() -> None:
    inputs, plain = batch(), sure(build_eval("faster_rcnn", channels_last=False))
    detections = plain.detect(plain.feature_maps(inputs.images_N3HW), inputs)
    plain.to(memory_format=torch.channels_last)
    last = inputs.images_N3HW.contiguous(memory_format=torch.channels_last)
    other = plain.detect(plain.feature_maps(last), Batch(last, inputs.sizes, inputs.seeds))
    for expected, image_detections in zip(detections, other, strict=True):
        torch.testing.assert_close(expected.confidence_M[:20], image_detections.confidence_M[:20], rtol=1e-3, atol=1e-4)
    with pytest.raises(ValueError, match="set channels_last=false, because mmcv's ModulatedDeformConv2dPack"):
        build_eval("fcos_r50-dcn-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco", channels_last=True)


# --- losses ---------------------------------------------------------------------------------------
def own_loss(detector: Any, inputs: Batch, targets: Sequence[Boxes], number: int) -> Tensor:
    """The library's loss of one image, differentiable, with the backbone computed anew."""
    from benchmark.vision.detection.mmdet_detectors import data_samples

    single = inputs.select_image(number)
    with seeded(inputs.seeds[number]):
        losses = detector.inner.loss(single.images_N3HW, data_samples(single, [targets[number]]))
    if detector.name == "mmdet:fcos":
        num_positives = count_positives(detector, single, targets[number])
        losses["loss_cls"] = losses["loss_cls"] * max(num_positives, 1) / (num_positives + 1)
    parts = [value if isinstance(value, list) else [value] for name, value in losses.items() if "loss" in name]
    return torch.stack([value for part in parts for value in part]).sum()


def count_positives(detector: Any, inputs: Batch, target: Boxes) -> int:
    """The places that learn a box of the only image."""
    from mmengine.structures import InstanceData

    head = detector.inner.bbox_head
    sizes = [level.shape[-2:] for level in detector.feature_maps(inputs.images_N3HW)]
    boxes = InstanceData(bboxes=target.corners_M4, labels=target.labels_M)
    labels, _ = head.get_targets(head.prior_generator.grid_priors(sizes, device="cpu"), [boxes])
    return int((torch.cat(labels) < C).sum())


def test_the_published_fcos_divides_by_positives_and_images() -> None:
    """As mmdet 2.4, on a batch of two images with and without boxes; the other losses are those of mmdet 3."""
    from benchmark.vision.detection.mmdet_detectors import data_samples

    detector, inputs = sure(build_eval("fcos")), batch()
    maps = detector.feature_maps(inputs.images_N3HW)
    for targets in (BOXES, [BOXES[0], EMPTY], [EMPTY, EMPTY]):
        losses = detector.inner.loss(inputs.images_N3HW, data_samples(inputs, targets))
        num = sum(count_positives(detector, inputs.select_image(n), target) for n, target in enumerate(targets))
        expected = losses["loss_cls"] * max(num, 1) / (num + 2) + losses["loss_bbox"] + losses["loss_centerness"]
        torch.testing.assert_close(detector.loss(maps, inputs, targets), expected, rtol=1e-4, atol=1e-5)
        assert num == 0 or num > 20
    assert not detector.inner.bbox_head.loss_cls._forward_pre_hooks_with_kwargs


def test_losses_are_of_each_image_alone(detector: Any) -> None:
    inputs, modes = batch(), [module.training for module in detector.modules()]
    state = torch.random.get_rng_state()
    for targets in (BOXES, [BOXES[0], EMPTY], [EMPTY, EMPTY]):
        losses_N = detector(inputs, targets)
        alone = [detector(inputs.select_image(number), [targets[number]])[0] for number in range(2)]
        theirs = [own_loss(detector, inputs, targets, number) for number in range(2)]
        torch.testing.assert_close(losses_N, torch.stack(alone), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(losses_N, torch.stack(theirs), rtol=1e-4, atol=1e-5)
    assert [module.training for module in detector.modules()] == modes
    assert torch.equal(torch.random.get_rng_state(), state)
    assert "extract_feat" not in vars(detector.inner)


def test_directional_derivatives_are_exact(detector: Any) -> None:
    inputs, direction, weights = batch(), random_direction(detector), detector.last_weights()
    with torch.no_grad(), forward_ad.dual_level():
        at = {name: forward_ad.make_dual(weight, direction[name]) for name, weight in weights.items()}
        derivatives_N = forward_ad.unpack_dual(functional_call(detector, at, (inputs, BOXES))).tangent
    for number in range(2):
        gradients = torch.autograd.grad(own_loss(detector, inputs, BOXES, number), list(weights.values()))
        parts = zip(gradients, direction.values(), strict=True)
        expected = sum((gradient * way).sum() for gradient, way in parts)
        torch.testing.assert_close(derivatives_N[number], expected, rtol=1e-3, atol=1e-6)


def test_hessian_products_are_those_of_finite_differences(detector: Any) -> None:
    inputs, names = batch(), list(detector.last_weights())
    name = names[2] if detector.is_two_stage else names[0]  # the class layer
    weight, way = detector.last_weights()[name], random_direction(detector)[name]

    def gradient(at: Tensor, create_graph: bool = False) -> Tensor:
        losses_N = functional_call(detector, {name: at}, (inputs, BOXES))
        return torch.autograd.grad(losses_N.sum(), at, create_graph=create_graph)[0]

    start = weight.detach().clone().requires_grad_()
    product = torch.autograd.grad((gradient(start, create_graph=True) * way).sum(), start)[0]
    ahead, behind = (gradient((weight + step * way).detach().requires_grad_()) for step in (0.02, -0.02))
    expected = (ahead - behind) / 0.04
    assert product.norm() > 0
    assert (product - expected).norm() < 0.03 * expected.norm()


def test_the_focal_loss_never_takes_the_compiled_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    import mmdet.models.losses.focal_loss as library

    def compiled(*_: Any, **__: Any) -> Tensor:
        raise AssertionError

    detector = sure(build_eval(SMALLEST))
    inputs = batch()
    expected = detector(inputs, BOXES)
    monkeypatch.setattr(library, "sigmoid_focal_loss", compiled)
    monkeypatch.setattr(library.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    torch.testing.assert_close(detector(inputs, BOXES), expected)


def test_training_lowers_the_loss(published: Any) -> None:
    detector = copy.deepcopy(published)
    sgd, losses = build_optimiser(detector, replace(RECIPE, model="mmdet:fcos")), []
    for group in sgd.param_groups:
        group["lr"] = 2e-3
    detector.train()
    before = detector.inner.backbone.conv1.weight.clone()
    for _ in range(4):
        inputs = batch()
        with seeded(5):
            loss = detector.loss(detector.feature_maps(inputs.images_N3HW), inputs, BOXES)
        sgd.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(detector.parameters(), 10.0)
        sgd.step()
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert torch.equal(detector.inner.backbone.conv1.weight, before)


# --- as a task --------------------------------------------------------------------------------
def split(number: int, seed: int) -> Split:
    """Noisy images of 96 x 128 pixels with one bright box each; the last has none."""
    rng = np.random.default_rng(seed)
    images_N3HW = rng.integers(0, 100, (number, 3, 96, 128), dtype=np.uint8)
    corners = np.array([(x, y, x + 40, y + 30) for x, y in rng.integers(0, 60, (number - 1, 2))], np.float32)
    for image, (x1, y1, x2, y2) in zip(images_N3HW, corners.astype(int), strict=False):
        image[:, y1:y2, x1:x2] += 120
    first_N1 = np.minimum(np.arange(number + 1), number - 1)
    labels = rng.integers(0, C, number - 1)
    return Split(
        Canvases(torch.from_numpy(images_N3HW)), GroundTruth(corners, labels, np.zeros(number - 1, bool), first_N1)
    )


@pytest.fixture(scope="module", params=PUBLISHED)
def task(request: pytest.FixtureRequest, machine: Machine) -> Detection:
    """A pool of 15 images; strategies may use every capability of the task."""
    recipe = replace(RECIPE, model=f"mmdet:{request.param}")
    return Detection(machine, recipe, split(15, 0), split(2, 1), num_classes=C, map_at="50")


@pytest.fixture(scope="module")
def fitted(task: Detection) -> Any:
    return sure(task.fit(np.arange(3), 0))


LABELS = [
    "random", "entropy", "margin", "coreset", "learning_loss", "isal[depth=2,repeats=1]", "gradient_similarity",
    "localization_stability", "localization_tightness", "box_count",
]  # fmt: skip


@pytest.mark.parametrize("label", LABELS)
def test_strategies_choose(task: Detection, fitted: Any, label: str) -> None:
    discovery.discover()
    plugin, values = find_strategy(label)
    if "proposals" in plugin.resolve_needs(values) and not fitted.is_two_stage:
        pytest.skip("one-stage")
    companion = plugin.companion(**values) if plugin.companion else None
    model = fitted if companion is None else task.fit(np.arange(2), 0, companion)
    view = look(task, plugin.resolve_needs(values), companion, num_labelled=4, model=model)
    picks = plugin.function(view, 2, np.random.default_rng(0), **values)
    assert len(set(picks.tolist()) & set(view.unlabelled.tolist())) == 2


def test_influence_through_the_task(task: Detection, fitted: Any) -> None:
    """Pseudo-labels and batches included. All images are in one batch, because rounding decides between boxes that fit
    a proposal equally well."""
    indices, direction = np.arange(4, 6), random_direction(fitted)
    targets = task.pseudo_labels(fitted, indices, 1, 0.1)
    derivatives_N, losses_N = (
        task.directional(fitted, indices, targets, direction),
        task.losses(fitted, indices, targets),
    )
    for derivative, loss in zip(derivatives_N, losses_N, strict=True):
        gradients = torch.autograd.grad(loss, list(task.weights(fitted).values()), retain_graph=True)
        expected = sum((gradient * way).sum() for gradient, way in zip(gradients, direction.values(), strict=True))
        torch.testing.assert_close(derivative, expected, rtol=1e-3, atol=1e-6)


def test_scores_and_pixels(task: Detection, fitted: Any) -> None:
    assert set(task.score(fitted)) >= {"map", "ap", "ap50"}
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[0] = 255  # red
    resized = BatchBuilder(RECIPE, fitted.pixel_format, torch.device("cpu"))([image], [0])
    red = resized.batch.images_N3HW[0, 2 if fitted.pixel_format.bgr else 0].mean().item()
    assert red == pytest.approx(255 - 122.7717 if fitted.pixel_format.bgr else (255 - 123.675) / 58.395, rel=1e-4)


def test_a_backbone_that_starts_from_nothing_trains_its_norms() -> None:
    for stages, learns in ((1, False), (-1, True)):
        detector = build_eval("fcos", frozen_stages=stages).train()
        norm = detector.inner.backbone.layer2[0].bn1  # type: ignore[union-attr, index]
        assert norm.training == norm.weight.requires_grad == learns


def test_a_model_that_remembers_earlier_losses_is_refused() -> None:
    with pytest.raises(ValueError, match="depend on earlier losses") as caught:
        build_eval("dynamic-rcnn_r50_fpn_1x_coco")
    assert "\n" not in str(caught.value)
