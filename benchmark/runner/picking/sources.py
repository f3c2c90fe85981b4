"""What `pick` chooses from: files of images in a folder, in a list, in a COCO file, or the frames of a video."""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from benchmark.experiment.pick_settings import PickSettings
from benchmark.plugins.paths import expand_home
from benchmark.runner.picking.video_frames import VIDEO_SUFFIXES, FrameTime, frame_times, write_frames
from benchmark.system import files
from benchmark.text.escaping import unescape_csv
from benchmark.text.words import plural
from benchmark.vision.data.image_files import is_image, list_images_below
from benchmark.vision.data.pascal_voc import IMAGES
from benchmark.vision.data.regular_files import printable

PATH_COLUMNS = ("path", "image", "file", "file_name", "filename", "name")  # of a CSV file, the first that it has
MAX_BYTES = 2**32  # of a list of images


@dataclass(frozen=True)
class UnlabelledFiles:
    """Files of images without labels, in the order of their paths."""

    source: str  # as the user typed it
    folder: Path  # names in the formats of annotation tools are relative to it
    paths: Sequence[Path]
    times: Sequence[FrameTime] = ()  # when each frame was taken; empty: the images are no frames of a video
    names: Sequence[str] = field(init=False)  # inside `folder`, with `/`

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", [relative_name(path, self.folder) for path in self.paths])

    def __len__(self) -> int:
        return len(self.paths)

    def without(self, positions: Sequence[int]) -> UnlabelledFiles:
        """Returns the files without those at these positions."""
        bad = set(positions)
        left = [number for number in range(len(self)) if number not in bad]
        times = [self.times[number] for number in left] if self.times else ()
        return UnlabelledFiles(self.source, self.folder, [self.paths[number] for number in left], times)

    @cached_property
    def position_by_name(self) -> dict[str, int]:
        """The position of each file by its absolute path, its name in the folder, and, where these are unique, by the
        last part of its path with and without the suffix."""
        positions = dict[str, int]()
        for keys in ([path.stem for path in self.paths], [path.name for path in self.paths]):
            counts = Counter(keys)
            positions |= {key: number for number, key in enumerate(keys) if counts[key] == 1}
        positions |= {name: number for number, name in enumerate(self.names)}
        return positions | {os.path.abspath(path): number for number, path in enumerate(self.paths)}

    def find(self, name: str) -> int | None:
        """Returns the position of the file that a label, or an earlier file of picks, names; None if there is none.

        Annotation tools put the name of a server, or of a folder of their own, before a path: these do not count.
        """
        candidates = [os.path.abspath(name)]
        for spelling in (name, unquote(name)):
            parts = os.path.normpath(spelling.rpartition("?d=")[2].replace("\\", "/")).split("/")
            candidates += ["/".join(parts[start:]) for start in range(len(parts))]
        return next((self.position_by_name[key] for key in candidates if key in self.position_by_name), None)


def relative_name(path: Path, folder: Path) -> str:
    """Returns a file's path inside a folder, with `/`; its absolute path where it lies elsewhere."""
    inside = os.path.relpath(path, folder)
    return Path(os.path.abspath(path) if inside.startswith(os.pardir) else inside).as_posix()


def list_unlabelled(settings: PickSettings, data: Path | None) -> UnlabelledFiles:
    """Lists the images that may be picked.

    Args:
        settings: the settings; `unlabelled` names a folder, a list, a COCO file or a video.
        data: the folder of data sets, in which a relative path is looked for where it does not exist as typed.

    Raises:
        ValueError: there is no such file or folder, or it holds no images.
    """
    source = find_path(settings.unlabelled, "unlabelled", data)
    if source.is_dir():
        listed = list_folder(source, settings.unlabelled)
    elif source.suffix.lower() in VIDEO_SUFFIXES:
        return list_video(source, settings)
    elif source.suffix.lower() == ".json":
        folder = find_path(settings.images, "images", data) if settings.images else source.parent
        listed = UnlabelledFiles(settings.unlabelled, folder, [folder / name for name in read_coco_names(source)])
    elif source.suffix.lower() in (".txt", ".csv"):
        listed = list_entries(source, settings.unlabelled)
    else:
        kinds = f"a folder, .txt, .csv, .json or a video ({', '.join(sorted(VIDEO_SUFFIXES))})"
        raise ValueError(f"unlabelled={settings.unlabelled}: is none of {kinds}")
    if settings.images and source.suffix.lower() != ".json":
        raise ValueError(f"images={settings.images}: has an effect only where unlabelled= is a COCO file (.json)")
    listed = UnlabelledFiles(listed.source, listed.folder, sorted(set(listed.paths)))
    if not len(listed):
        raise ValueError(f"unlabelled={settings.unlabelled}: lists no image")
    if not settings.fps:
        return listed
    return UnlabelledFiles(listed.source, listed.folder, listed.paths, frame_times(listed.paths, settings.fps))


def find_path(text: str, setting: str, data: Path | None) -> Path:
    """Returns the path of a setting: as typed, or else inside the folder of data sets."""
    path = Path(expand_home(text, f"{setting}={text}"))
    candidates = [path] if data is None else [path, data / path]
    if (existing := next((candidate for candidate in candidates if candidate.exists()), None)) is None:
        raise ValueError(f"{setting}={text}: there is no {' and no '.join(map(str, candidates))}")
    return existing


def list_folder(folder: Path, source: str) -> UnlabelledFiles:
    """Lists the images of a folder and below; in PASCAL VOC's layout, of its folder of images alone."""
    if (folder / IMAGES).is_dir():
        folder = folder / IMAGES
    images, others = list_images_below(folder)
    if not images:
        more = f", only {plural(len(others), 'other file')} ({printable(others[0].name)} ...)" if others else ""
        raise ValueError(f"unlabelled={source}: there is no image in {folder} or below{more}")
    return UnlabelledFiles(source, folder, images)


def list_entries(path: Path, source: str) -> UnlabelledFiles:
    """Lists the paths in a text file, one a line, or in a column of a CSV file.

    Relative paths are taken from the working folder if the first one exists there, else from the folder of the list.
    """
    if path.suffix.lower() == ".csv":
        rows = read_csv(path)
        column = find_column(path, rows, PATH_COLUMNS)
        entries = [row[column] for row in rows]
    else:
        lines = files.read_file(path, MAX_BYTES).decode("utf-8-sig", "surrogateescape").splitlines()
        entries = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not entries:
        raise ValueError(f"unlabelled={source}: lists no image")
    folder = Path() if os.path.exists(entries[0]) else path.parent
    if unknown := next((entry for entry in entries if not is_image(os.path.basename(entry))), None):
        raise ValueError(f"{path}: {printable(unknown)} is not the path of an image")
    return UnlabelledFiles(source, folder, [folder / entry for entry in entries])


def read_csv(path: Path) -> list[dict[str, str]]:
    """Reads the rows of a CSV file with a header. ValueError where it is empty or no text."""
    try:
        text = files.read_file(path, MAX_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    except (UnicodeDecodeError, csv.Error, OSError) as error:
        raise ValueError(f"{path} cannot be read as CSV: {error}") from error
    if not rows:
        raise ValueError(f"{path} has no row below its header")
    return [{key.strip().lower(): unescape_csv(value or "") for key, value in row.items() if key} for row in rows]


def find_column(path: Path, rows: Sequence[dict[str, str]], names: Sequence[str]) -> str:
    """Returns the first of these columns that a CSV file has. ValueError where it has none of them."""
    if (name := next((name for name in names if name in rows[0]), None)) is None:
        raise ValueError(f"{path} has no column {names[0]} (its columns: {', '.join(rows[0])})")
    return name


def read_coco_names(path: Path) -> list[str]:
    """Reads the file names of a JSON file in COCO's format; its annotations, if there are any, are not looked at."""
    content = read_json(path)
    images = content.get("images") if isinstance(content, dict) else None
    names = [image.get("file_name") for image in images if isinstance(image, dict)] if isinstance(images, list) else []
    if not names or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"{path} is no COCO file: it must have a list `images`, each with a file_name")
    return [os.path.normpath(str(name).replace("\\", "/")) for name in names]


def read_json(path: Path) -> object:
    """Reads a JSON file. ValueError where it is no JSON."""
    try:
        content: object = json.loads(files.read_file(path, MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    return content


def list_video(path: Path, settings: PickSettings) -> UnlabelledFiles:
    """Writes the frames of a video as files, unless they are there already, and lists them."""
    if not settings.fps:
        raise ValueError(
            f"unlabelled={settings.unlabelled}: set fps=N, the number of frames a second to take, as fps=1"
        )
    folder = Path(expand_home(settings.frames or f"{path.stem}.frames", "frames"))
    paths, times = write_frames(path, folder, settings.fps)
    return UnlabelledFiles(settings.unlabelled, folder, paths, times)
