"""Frames of videos: numbered files in a folder, or frames that are decoded from a video (with PyAV)."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from benchmark.system import activity, files
from benchmark.vision.data.regular_files import printable

SOURCE_FILE = "video.json"  # in a folder of frames: the video that they were taken from
JPEG_QUALITY = 95
ROUNDING = 1e-6  # seconds: 0.6 - 0.2 is a little less than 0.4
VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm"})


class FrameTime(NamedTuple):
    """When a frame was taken.

    Args:
        video: The folder of the frames of one video.
        seconds: Since the frame with number 0.
    """

    video: str
    seconds: float


def frame_times(paths: Sequence[Path], fps: float) -> list[FrameTime]:
    """The times of frames in files, from the last number in each name: `clip/frame_000120.jpg` is frame 120 of `clip`.

    Args:
        paths: The files; each folder is a video of its own.
        fps: Frames per second.

    Raises:
        ValueError: A name has no number.
    """
    return [FrameTime(str(path.parent), frame_number(path) / fps) for path in paths]


def frame_number(path: Path) -> int:
    """The number of a frame. Raises ValueError if its name has none."""
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise ValueError(f"{printable(path)} has no number in its name, so it is no frame of a video: remove fps=")
    return int(numbers[-1])


def thin_out(
    times: Sequence[FrameTime], ranked: Sequence[int], least_seconds: float, taken: Sequence[int] = ()
) -> list[int]:
    """Goes through ranked frames and keeps each that is far enough in time from all better ones of its video.

    Args:
        times: The time of every frame.
        ranked: Positions of frames, the most wanted first.
        least_seconds: The least distance between two frames that stay.
        taken: Positions of frames that are labelled already; others must be far enough from them too.

    Returns:
        The positions that stay, in their order.
    """
    chosen: list[int] = []
    seconds_by_video: dict[str, list[float]] = {}
    for position in taken:
        seconds_by_video.setdefault(times[position].video, []).append(times[position].seconds)
    for position in ranked:
        video, seconds = times[position]
        earlier = seconds_by_video.setdefault(video, [])
        if all(abs(seconds - other) >= least_seconds - ROUNDING for other in earlier):
            earlier.append(seconds)
            chosen.append(position)
    return chosen


def write_frames(video: Path, folder: Path, fps: float) -> tuple[list[Path], list[FrameTime]]:
    """Takes frames from a video at regular times, and writes them as files, unless they are there already.

    Args:
        video: The file of the video.
        folder: The folder to write to; frame N is `frame_N.jpg`.
        fps: Frames per second.

    Returns:
        The files, and the time of each.

    Raises:
        ValueError: PyAV is not installed, the video cannot be decoded, or the folder holds frames of another one.
    """
    status = video.stat()
    source = {"video": str(video), "bytes": status.st_size, "changed": status.st_mtime_ns, "fps": fps}
    marker = folder / SOURCE_FILE
    if marker.is_file():
        content = json.loads(files.read_file(marker))
        num_frames = content.pop("frames", 0)
        if content != source:
            raise ValueError(
                f"{folder} holds the frames of {content.get('video')} at another time or fps: set frames=DIR"
            )
    else:
        num_frames = 0
        for image in activity.track(decode_frames(video, fps), f"decoding {video.name}", "frames"):
            packed = io.BytesIO()
            image.save(packed, "JPEG", quality=JPEG_QUALITY)
            files.write_atomically(frame_path(folder, num_frames), packed.getvalue())
            num_frames += 1
        files.write_atomically(marker, json.dumps({**source, "frames": num_frames}))
    paths = [frame_path(folder, number) for number in range(num_frames)]
    return paths, frame_times(paths, fps)


def frame_path(folder: Path, number: int) -> Path:
    """The file of a frame."""
    return folder / f"frame_{number:07d}.jpg"


def decode_frames(video: Path, fps: float) -> Iterator[Image.Image]:
    """Yields the frame that a video shows at 0 seconds, at 1 / fps, at 2 / fps and so on.

    Raises:
        ValueError: PyAV is not installed, or the video cannot be decoded.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(
            "reading videos needs PyAV: pip install 'al-benchmark[video]', or unpack their frames"
        ) from error
    number, last = 0, None
    try:
        with av.open(str(video)) as container:
            for frame in container.decode(video=0):
                while last is not None and frame.time > number / fps + ROUNDING:
                    yield last.to_image()
                    number += 1
                last = frame
    except (av.FFmpegError, IndexError, ValueError) as error:
        raise ValueError(f"{printable(video)} cannot be decoded as a video: {error}") from error
    if last is None:
        raise ValueError(f"{printable(video)} cannot be decoded as a video: it has no frame")
    if last.time >= number / fps - ROUNDING:
        yield last.to_image()
