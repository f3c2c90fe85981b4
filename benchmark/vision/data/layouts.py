"""What lies in a folder that holds no boxes where a task looks for them, and which parameters would find them."""

from __future__ import annotations

import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from benchmark.vision.data import coco_json, pascal_voc, voc_annotations
from benchmark.vision.data.annotations import SPLIT_PLACEHOLDER, LayoutError
from benchmark.vision.data.image_files import EXTENSIONS
from benchmark.vision.data.regular_files import printable

MAX_FOLDERS, MAX_DEPTH, MAX_LISTS, MAX_TRIES = (
    2000,
    4,
    500,
    12,
)  # looked into: so many folders, so deep; tried: so many ways
TRAIN_PREFIXES, TEST_PREFIXES = (
    ("train",),
    ("val", "test", "eval", "dev"),
)  # how the names of splits begin, likeliest first
TEST_SHARE = "0.2"  # of a test set, where nothing says which images are in it
FILES_WITHOUT_BOXES = re.compile(r"caption|keypoint|panoptic|stuff|image_info")  # COCO's files without boxes
DEFAULTS = {
    "voc": {"images": pascal_voc.IMAGES, "annotations": pascal_voc.ANNOTATIONS, "lists": pascal_voc.LISTS}
    | {"train": "train", "test": "val"},
    "coco": {"images": coco_json.IMAGES, "annotations": coco_json.ANNOTATIONS}
    | {"train": "train2017", "test": "val2017"},
}
Parameters = dict[str, str]


@dataclass(frozen=True)
class FolderContents:
    """The files in a folder and below, by the folder that they are in, relative to it."""

    images: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # names without ending
    xml_files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the same of XML files
    text_files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the same of text files
    json_files: list[str] = field(default_factory=list)  # JSON files, with their folders

    def add_file(self, folder: str, name: str) -> None:
        """Notes one file."""
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".json":
            self.json_files.append(os.path.normpath(os.path.join(folder, name)))
        elif (kind := {".xml": self.xml_files, ".txt": self.text_files}.get(ending.lower())) is not None:
            kind[folder].add(stem)
        elif ending.lower() in EXTENSIONS:
            self.images[folder].add(stem)

    def __str__(self) -> str:
        folders = sorted({*self.images, *self.xml_files, *self.text_files})
        texts = [f"{printable(folder)}/ ({', '.join(self.describe_folder(folder))})" for folder in folders]
        texts += map(printable, sorted(self.json_files))
        more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
        return ", ".join(texts[:10]) + more or "neither images nor annotations"

    def describe_folder(self, folder: str) -> Iterator[str]:
        """What is in one folder, in words."""
        for kind, what in ((self.images, "images"), (self.xml_files, "XML files"), (self.text_files, "text files")):
            if folder in kind:
                few = kind is self.text_files and len(kind[folder]) < 6
                yield (
                    ", ".join(printable(f"{name}.txt") for name in sorted(kind[folder]))
                    if few
                    else f"{len(kind[folder])} {what}"
                )


def folders_within(folders: Collection[str], folder: str) -> list[str]:
    """Those of the folders that are a folder, or below it."""
    return [home for home in folders if folder in (".", home) or home.startswith(f"{folder}/")]


def files_below(files: Mapping[str, set[str]], folder: str) -> set[str]:
    """The files of a kind in a folder and below, by their paths from there."""
    inside = {home: os.path.relpath(home, folder) for home in folders_within(files, folder)}
    return {os.path.normpath(os.path.join(path, name)) for home, path in inside.items() for name in files[home]}


def with_parents(folders: Collection[str]) -> list[str]:
    """These folders and those around them, deeper ones first."""
    every = {str(parent) for folder in folders for parent in (Path(folder), *Path(folder).parents)}
    return sorted(every, key=lambda folder: (-len(Path(folder).parts), folder))


def list_contents(root: Path) -> FolderContents:
    """What there is, hidden files and folders aside."""
    found = FolderContents()
    for home, folders, names in islice(os.walk(root, followlinks=True), MAX_FOLDERS):
        inside = os.path.relpath(home, root)
        deep = inside.count(os.sep) + (inside != ".") >= MAX_DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                found.add_file(inside, name)
    return found


def suggest_parameters(folder: Path, root: str, fallback: str) -> str:
    """What there is in a folder, and the task with the parameters that would read it.

    Args:
        folder: the folder that was looked into.
        root: the same as the user gave it.
        otherwise: what to say where nothing in it can be read.
    """
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        return f"In {folder.parent} there are: {', '.join(map(printable, beside[:10])) or 'no files'}; {fallback}"
    found = list_contents(folder)
    for task, given in islice(candidates(folder, found), MAX_TRIES):
        if can_read(task, folder, given):
            return f"It holds {found}. Try {format_task(task, root, given)}"
    return f"It holds {found}{explain_failure(folder, found)}; {fallback}"


def explain_failure(folder: Path, contents: FolderContents) -> str:
    """Why none of a folder's files will do, from the first of them."""
    try:
        for table in sorted(contents.json_files)[:1]:
            coco_json.read_entries(folder / table)
        for inside, names in sorted(contents.xml_files.items())[:1]:
            voc_annotations.read_annotation(folder / inside / f"{min(names)}.xml")
    except ValueError as error:
        return f"; {error}"
    if contents.xml_files or contents.json_files:
        return "; not every annotation has its image there"
    return "; boxes are read from Pascal VOC's XML and COCO's JSON files: export them so"


def candidates(folder: Path, contents: FolderContents) -> Iterator[tuple[str, Parameters]]:
    """Tasks and parameters that may read what is there, likeliest first."""
    yield from (("voc", given) for given in voc_by_lists(folder, contents))
    yield from (("voc", given) for given in voc_by_folders(contents))
    yield from (("coco", given) for given in coco_by_names(folder, contents))
    yield from (("voc", given) for given in voc_without_splits(contents))
    yield from (("coco", given) for given in coco_without_splits(folder, contents))


def voc_by_lists(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """Annotations of which text files list some for a split."""
    for layout in voc_layouts(contents):
        for lists in sorted(contents.text_files, key=lambda name: ("Main" not in name, name)):
            ids = read_image_lists(folder, contents, layout["annotations"], lists)
            for train in names_with_prefix(ids, TRAIN_PREFIXES):
                yield from (
                    layout | {"lists": lists, "train": train, "test": test}
                    for test in names_with_prefix(ids, TEST_PREFIXES)
                    if not ids[train] & ids[test]
                )
            if ids:
                longest = max(sorted(ids), key=lambda name: len(ids[name]))
                yield layout | {"lists": lists, "train": longest, "split": TEST_SHARE}


def read_image_lists(folder: Path, contents: FolderContents, annotations: str, lists: str) -> dict[str, set[str]]:
    """The images of each text file of a folder that lists annotations and nothing else."""
    ids, known = dict[str, set[str]](), files_below(contents.xml_files, annotations)
    for name in sorted(contents.text_files[lists]) if len(contents.text_files[lists]) < MAX_LISTS else ():
        try:
            images = set(pascal_voc.read_image_list(folder / lists / f"{name}.txt", known))
        except ValueError:
            continue
        if images <= known:
            ids[name] = images
    return ids


def voc_by_folders(contents: FolderContents) -> Iterator[Parameters]:
    """Annotations in a folder for each split."""
    for pages, train, test in split_patterns(sorted(contents.xml_files)):
        folders = [find_image_folder(contents, pages.replace(SPLIT_PLACEHOLDER, name)) for name in (train, test)]
        if (images := common_pattern(folders, (train, test))) is not None:
            yield {"annotations": pages, "images": images, "train": train, "test": test}


def voc_without_splits(contents: FolderContents) -> Iterator[Parameters]:
    """Annotations that nothing divides."""
    yield from (layout | {"split": TEST_SHARE} for layout in voc_layouts(contents))


def voc_layouts(contents: FolderContents) -> Iterator[Parameters]:
    """Folders of annotations, those with most of them first, each with the folder of its images."""

    def order(pages: str) -> tuple[int, bool]:
        number = sum(len(contents.xml_files[home]) for home in folders_within(contents.xml_files, pages))
        return -number, os.path.basename(pages) != pascal_voc.ANNOTATIONS

    for pages in sorted(with_parents(contents.xml_files), key=order):
        images = find_image_folder(contents, pages)
        if images is not None:
            yield {"annotations": pages, "images": images}


def find_image_folder(contents: FolderContents, annotations: str) -> str | None:
    """The folder that has most of the images that a folder annotates."""
    names = [os.path.split(name) for name in sorted(files_below(contents.xml_files, annotations))]
    folders = {
        folder
        for inside, name in names[:: len(names) // 5 + 1]
        for home, images in contents.images.items()
        if name in images and (folder := strip_suffix(home, inside)) is not None
    }

    def number(folder: str) -> int:
        return sum(
            name in contents.images.get(os.path.normpath(os.path.join(folder, inside)), ()) for inside, name in names
        )

    return max(sorted(folders), key=number, default=None)


def strip_suffix(path: str, suffix: str) -> str | None:
    """The folder that a path leads to `home` from; None where it leads elsewhere."""
    if suffix in ("", path):
        return "." if suffix else path
    return path.removesuffix(f"/{suffix}") if path.endswith(f"/{suffix}") else None


def coco_by_names(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """JSON files whose names tell splits."""
    tables = [table for table in sorted(contents.json_files) if not FILES_WITHOUT_BOXES.search(table)]
    for pages, train, test in split_patterns(tables):
        folders = [find_coco_images(folder, contents, pages.replace(SPLIT_PLACEHOLDER, name)) for name in (train, test)]
        if (images := common_pattern(folders, (train, test))) is not None:
            yield {"annotations": pages, "images": images, "train": train, "test": test}


def coco_without_splits(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """JSON files by themselves."""
    for table in sorted(contents.json_files):
        images = find_coco_images(folder, contents, table)
        if images is not None:
            yield {"annotations": table, "images": images, "split": TEST_SHARE}


def find_coco_images(folder: Path, contents: FolderContents, json_file: str) -> str | None:
    """The folder that the file names of a JSON file start from."""
    try:
        pictures, _, _ = coco_json.read_entries(folder / json_file)
        names = [coco_json.parse_file_name(folder / json_file, picture) for picture in pictures]
    except ValueError:
        return None
    there = (
        home
        for home in sorted(with_parents(contents.images), key=lambda home: (home != os.path.dirname(json_file), home))
        if all(os.path.isfile(folder / home / name) for name in names)
    )
    return next(there, None)


def split_patterns(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Paths that differ in the names of two splits: with SPLIT for the name, and the names."""
    for kind in TEST_PREFIXES:
        for one in paths:
            for train in names_with_prefix(split_words(one), TRAIN_PREFIXES):
                pattern = one.replace(train, SPLIT_PLACEHOLDER)
                for test in names_with_prefix({word for path in paths for word in split_words(path)}, (kind,)):
                    if pattern.replace(SPLIT_PLACEHOLDER, test) in paths:
                        yield pattern, train, test


def common_pattern(folders: Sequence[str | None], names: tuple[str, str]) -> str | None:
    """Two folders as one path, with SPLIT for the name of the split where they differ."""
    one, other = folders
    if one is None or other is None or one == other:
        return one if one == other else None
    pattern = one.replace(names[0], SPLIT_PLACEHOLDER)
    return pattern if pattern.replace(SPLIT_PLACEHOLDER, names[1]) == other else None


def split_words(path: str) -> list[str]:
    """The words of a path: `annotations/instances_train2017.json` has four."""
    return re.findall(r"[A-Za-z0-9]+", path)


def names_with_prefix(names: Collection[str], prefixes: Sequence[str]) -> list[str]:
    """Those that begin so, in the order of the beginnings, shorter ones first."""
    return [
        name
        for beginning in prefixes
        for name in sorted(set(names), key=lambda name: (len(name), name))
        if name.lower().startswith(beginning)
    ]


def can_read(task: str, folder: Path, parameters: Parameters) -> bool:
    """Whether a task's reader finds all annotations and images with these parameters."""
    every = DEFAULTS[task] | parameters
    share = float(every["split"]) if "split" in every else None
    try:
        if task == "voc":
            layout = pascal_voc.Layout(every["images"], every["annotations"], every["lists"])
            pascal_voc.check_files_exist(folder, every["train"], every["test"], layout, share)
        else:
            coco_json.check_files_exist(
                folder, every["train"], every["test"], every["images"], every["annotations"], share
            )
    except (LayoutError, ValueError):
        return False
    return True


def format_task(task: str, root: str, parameters: Parameters) -> str:
    """The task as a user writes it, with the folder that all parts are in for its root."""
    paths = {key: parameters[key] for key in ("images", "annotations", "lists") if key in parameters}
    folders = [os.path.dirname(path) if path.endswith(".json") else path for path in paths.values()]
    common = (
        os.path.commonpath([folder.split(SPLIT_PLACEHOLDER)[0] for folder in folders]) if "." not in folders else ""
    )
    moved = {key: os.path.relpath(path, common or ".") for key, path in paths.items()}
    values = {"root": os.path.normpath(os.path.join(root, common))} | parameters | moved
    kept = {key: value for key, value in values.items() if value != DEFAULTS[task].get(key)}
    return f"{task}[{','.join(f'{key}={quote(value)}' for key, value in kept.items())}]"


def quote(value: str) -> str:
    """A parameter's value, in quotes where it would be read as something else."""
    return value if re.fullmatch(r"[\w./ -]*\w[\w./ -]*|\.", value) else json.dumps(value, ensure_ascii=False)
