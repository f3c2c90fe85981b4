"""Draws canvases with stick figures in many poses, the same on every machine.

Shapes: N images, H x W pixels, M figures of one canvas, J joints.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from benchmark.vision.data.annotations import Split, offsets
from benchmark.vision.data.poses import PoseTruth, Skeleton
from benchmark.vision.data.scenes import Canvases, are_disjoint

CANVAS_SIDE = 64  # pixels of a canvas
HEIGHTS = (22.0, 36.0)  # pixels: the range of a figure's length from head to foot, upright
MAX_FIGURES = 3  # per canvas; some canvases are empty
MARGIN = 2.0  # pixels between a figure's outermost joints and its box
JOINTS = ("head", "hip", "left_hand", "right_hand", "left_foot", "right_foot")
LIMBS = ((0, 1), (6, 2), (6, 3), (1, 4), (1, 5))  # pairs of joints; 6: the shoulder, which is not annotated
SKELETON = Skeleton(JOINTS, (0.05,) * len(JOINTS))
UNLABELLED_SHARE = 0.1  # of the figures: the hand and the foot on one side have no label

Floats: TypeAlias = npt.NDArray[np.floating]
Box: TypeAlias = tuple[float, float, float, float]


class Figure(NamedTuple):
    """One figure on a canvas."""

    joints_J2: Floats  # x, y in pixels; the last one is the shoulder
    box: Box  # x1, y1, x2, y2


def draw_split(num_canvases: int, rng: np.random.Generator) -> Split:
    """Draws canvases one after the other; one in ten is empty.

    Args:
        num_canvases: N.
        rng: The generator.
    """
    images, by_canvas = list[npt.NDArray[np.uint8]](), list[list[Figure]]()
    for _ in range(num_canvases):
        number = int(rng.integers(1, MAX_FIGURES + 1)) if rng.random() >= 0.1 else 0
        figures = place_figures(number, rng)
        images.append(draw_canvas(figures, rng))
        by_canvas.append(figures)
    return Split(Canvases.from_grey(images), annotate(by_canvas, rng))


def annotate(by_canvas: list[list[Figure]], rng: np.random.Generator) -> PoseTruth:
    """The boxes and joints of all figures; some figures lack the joints on one side."""
    figures = [figure for canvas in by_canvas for figure in canvas]
    boxes_B4 = np.array([figure.box for figure in figures], np.float32).reshape(-1, 4)
    joints_BJ2 = np.array([figure.joints_J2[: len(JOINTS)] for figure in figures], np.float32)
    keypoints_BJ3 = np.concatenate([joints_BJ2, np.full_like(joints_BJ2[..., :1], 2.0)], 2)
    for number in np.flatnonzero(rng.random(len(figures)) < UNLABELLED_SHARE):
        keypoints_BJ3[number, [2, 4] if rng.random() < 0.5 else [3, 5]] = 0
    areas_B = (boxes_B4[:, 2:] - boxes_B4[:, :2]).prod(1)
    offsets_N1 = offsets(np.array([len(canvas) for canvas in by_canvas], np.int64))
    zeros_B = np.zeros(len(figures), np.int64)
    return PoseTruth(boxes_B4, zeros_B, zeros_B.astype(bool), offsets_N1, keypoints_BJ3, areas_B, SKELETON)


def place_figures(number: int, rng: np.random.Generator) -> list[Figure]:
    """Poses figures where their boxes overlap no other; gives one up after ten places."""
    figures = list[Figure]()
    for _ in range(number):
        joints_J2 = pose_joints(rng)
        low_2, high_2 = joints_J2.min(0) - MARGIN, joints_J2.max(0) + MARGIN
        for _ in range(10):
            shift_2 = rng.uniform(0, np.maximum(CANVAS_SIDE - (high_2 - low_2), 0)) - low_2
            x1, y1, x2, y2 = np.concatenate([low_2 + shift_2, high_2 + shift_2]).tolist()
            if all(are_disjoint((x1, y1, x2, y2), other.box) for other in figures):
                figures.append(Figure((joints_J2 + shift_2).astype(np.float32), (x1, y1, x2, y2)))
                break
    return figures


def pose_joints(rng: np.random.Generator) -> Floats:
    """(J + 1, 2): the joints of a figure that faces the viewer, so that its left is on the right of the canvas."""
    height, tilt = rng.uniform(*HEIGHTS), rng.uniform(-0.2, 0.2)
    arms_2, legs_2 = rng.uniform(-0.9, 1.2, 2), rng.uniform(0.15, 0.75, 2)  # radians from level, and from downwards
    sides_2 = np.array([1.0, -1.0])  # left, right
    hip_2 = np.zeros(2)
    shoulder_2 = hip_2 + 0.3 * height * np.array([np.sin(tilt), -np.cos(tilt)])
    head_2 = hip_2 + 0.5 * height * np.array([np.sin(tilt), -np.cos(tilt)])
    hands_22 = shoulder_2 + 0.32 * height * np.stack([sides_2 * np.cos(arms_2), np.sin(arms_2)], 1)
    feet_22 = hip_2 + 0.5 * height * np.stack([sides_2 * np.sin(legs_2), np.cos(legs_2)], 1)
    return np.concatenate([[head_2, hip_2], hands_22, feet_22, [shoulder_2]]).astype(np.float32)


def draw_canvas(figures: list[Figure], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """(H, W): the figures as strokes with round heads, on noise."""
    rows, columns = np.mgrid[:CANVAS_SIDE, :CANVAS_SIDE].astype(np.float32)
    pixels_HW2 = np.stack([columns, rows], 2) + 0.5  # centres
    ink_HW = np.zeros((CANVAS_SIDE, CANVAS_SIDE), np.float32)
    for joints_J2, (_, y1, _, y2) in figures:
        distances = [distance_to_stroke(pixels_HW2, joints_J2[a], joints_J2[b]) for a, b in LIMBS]
        head_HW = np.linalg.norm(pixels_HW2 - joints_J2[0], axis=2) - 0.06 * (y2 - y1)
        nearest_HW = np.minimum(np.min(distances, axis=0), head_HW.clip(min=0))
        ink_HW = np.maximum(ink_HW, (1.6 - nearest_HW).clip(0, 1))
    noisy_HW = ink_HW * rng.uniform(0.6, 1.0) + rng.normal(0.0, 0.05, ink_HW.shape)
    return np.round(noisy_HW.clip(0, 1) * 255).astype(np.uint8)


def distance_to_stroke(pixels_HW2: Floats, start_2: Floats, end_2: Floats) -> Floats:
    """(H, W): the distance of each pixel to the line from `start_2` to `end_2`."""
    along_2 = end_2 - start_2
    share_HW = ((pixels_HW2 - start_2) @ along_2 / (along_2 @ along_2)).clip(0, 1)
    distances_HW: Floats = np.linalg.norm(pixels_HW2 - start_2 - share_HW[..., None] * along_2, axis=2)
    return distances_HW
