"""Inspects a folder in which a task found no boxes, and suggests parameters with which a task can read it."""

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

MAX_FOLDERS, MAX_DEPTH, MAX_LISTS = 2000, 4, 500  # folders that are searched, their depth, lists per folder
MAX_TRIES = 12  # suggestions that are tried out
TRAIN_PREFIXES = ("train",)  # beginnings of the names of training splits
TEST_PREFIXES = ("val", "test", "eval", "dev")  # beginnings of the names of test splits, likeliest first
TEST_SHARE = "0.2"  # of the images, if nothing says which are test images
FILES_WITHOUT_BOXES = re.compile(r"caption|keypoint|panoptic|stuff|image_info")  # COCO's files of other kinds
DEFAULTS = {
    "voc": {"images": pascal_voc.IMAGES, "annotations": pascal_voc.ANNOTATIONS, "lists": pascal_voc.LISTS}
    | {"train": "train", "test": "val"},
    "coco": {"images": coco_json.IMAGES, "annotations": coco_json.ANNOTATIONS}
    | {"train": "train2017", "test": "val2017"},
}
Parameters = dict[str, str]


@dataclass(frozen=True)
class FolderContents:
    """The files in a folder and below; file names without extension, by the relative path of their folder."""

    images: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    xml_files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    text_files: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    json_files: list[str] = field(default_factory=list)  # relative paths

    def add_file(self, folder: str, name: str) -> None:
        """Adds one file."""
        stem, extension = os.path.splitext(name)
        if extension.lower() == ".json":
            self.json_files.append(os.path.normpath(os.path.join(folder, name)))
        elif (files := {".xml": self.xml_files, ".txt": self.text_files}.get(extension.lower())) is not None:
            files[folder].add(stem)
        elif extension.lower() in EXTENSIONS:
            self.images[folder].add(stem)

    def __str__(self) -> str:
        folders = sorted({*self.images, *self.xml_files, *self.text_files})
        texts = [f"{printable(folder)}/ ({', '.join(self.describe_folder(folder))})" for folder in folders]
        texts += map(printable, sorted(self.json_files))
        more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
        return ", ".join(texts[:10]) + more or "neither images nor annotations"

    def describe_folder(self, folder: str) -> Iterator[str]:
        """Describes in words what one folder holds; names text files if they are few."""
        for files, kind in ((self.images, "images"), (self.xml_files, "XML files"), (self.text_files, "text files")):
            if folder in files:
                few = files is self.text_files and len(files[folder]) < 6
                yield (
                    ", ".join(printable(f"{name}.txt") for name in sorted(files[folder]))
                    if few
                    else f"{len(files[folder])} {kind}"
                )


def folders_within(folders: Collection[str], parent: str) -> list[str]:
    """Those of the folders that are `parent` or below it."""
    return [folder for folder in folders if parent in (".", folder) or folder.startswith(f"{parent}/")]


def files_below(files: Mapping[str, set[str]], parent: str) -> set[str]:
    """The files in a folder and below, as paths relative to it."""
    relative = {folder: os.path.relpath(folder, parent) for folder in folders_within(files, parent)}
    return {os.path.normpath(os.path.join(path, name)) for folder, path in relative.items() for name in files[folder]}


def with_parents(folders: Collection[str]) -> list[str]:
    """These folders and all their parent folders, deeper ones first."""
    paths = {str(parent) for folder in folders for parent in (Path(folder), *Path(folder).parents)}
    return sorted(paths, key=lambda folder: (-len(Path(folder).parts), folder))


def list_contents(root: Path) -> FolderContents:
    """Lists the files in a folder and below, without hidden files and folders."""
    contents = FolderContents()
    for path, folders, names in islice(os.walk(root, followlinks=True), MAX_FOLDERS):
        relative = os.path.relpath(path, root)
        is_deepest = relative.count(os.sep) + (relative != ".") >= MAX_DEPTH
        folders[:] = [] if is_deepest else sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                contents.add_file(relative, name)
    return contents


def suggest_parameters(folder: Path, root: str, fallback: str) -> str:
    """Describes a folder and suggests a task with parameters that can read it.

    Args:
        folder: The folder to inspect.
        root: The same folder as the user wrote it.
        fallback: What to suggest if nothing in the folder can be read.

    Returns:
        The text for the end of an error message.
    """
    if not folder.is_dir():
        siblings = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        return f"In {folder.parent} there are: {', '.join(map(printable, siblings[:10])) or 'no files'}; {fallback}"
    contents = list_contents(folder)
    for task, parameters in islice(candidates(folder, contents), MAX_TRIES):
        if can_read(task, folder, parameters):
            return f"It holds {contents}. Try {format_task(task, root, parameters)}"
    return f"It holds {contents}{explain_failure(folder, contents)}; {fallback}"


def explain_failure(folder: Path, contents: FolderContents) -> str:
    """Says why none of a folder's annotation files can be used, from the first of each kind."""
    try:
        for json_file in sorted(contents.json_files)[:1]:
            coco_json.read_entries(folder / json_file)
        for subfolder, names in sorted(contents.xml_files.items())[:1]:
            voc_annotations.read_annotation(folder / subfolder / f"{min(names)}.xml")
    except ValueError as error:
        return f"; {error}"
    if contents.xml_files or contents.json_files:
        return "; not every annotation has its image there"
    return "; boxes are read from Pascal VOC's XML and COCO's JSON files: export them as one of these"


def candidates(folder: Path, contents: FolderContents) -> Iterator[tuple[str, Parameters]]:
    """Tasks and parameters that may read the folder, likeliest first."""
    yield from (("voc", parameters) for parameters in voc_by_lists(folder, contents))
    yield from (("voc", parameters) for parameters in voc_by_folders(contents))
    yield from (("coco", parameters) for parameters in coco_by_names(folder, contents))
    yield from (("voc", parameters) for parameters in voc_without_splits(contents))
    yield from (("coco", parameters) for parameters in coco_without_splits(folder, contents))


def voc_by_lists(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """XML files whose splits are listed in text files."""
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
    """The images that each text file of a folder lists; text files that list anything else are left out."""
    ids, xml_names = dict[str, set[str]](), files_below(contents.xml_files, annotations)
    for name in sorted(contents.text_files[lists]) if len(contents.text_files[lists]) < MAX_LISTS else ():
        try:
            images = set(pascal_voc.read_image_list(folder / lists / f"{name}.txt", xml_names))
        except ValueError:
            continue
        if images <= xml_names:
            ids[name] = images
    return ids


def voc_by_folders(contents: FolderContents) -> Iterator[Parameters]:
    """XML files in a folder for each split."""
    for pattern, train, test in split_patterns(sorted(contents.xml_files)):
        folders = [find_image_folder(contents, pattern.replace(SPLIT_PLACEHOLDER, split)) for split in (train, test)]
        if (images := common_pattern(folders, (train, test))) is not None:
            yield {"annotations": pattern, "images": images, "train": train, "test": test}


def voc_without_splits(contents: FolderContents) -> Iterator[Parameters]:
    """XML files that nothing divides into splits."""
    yield from (layout | {"split": TEST_SHARE} for layout in voc_layouts(contents))


def voc_layouts(contents: FolderContents) -> Iterator[Parameters]:
    """Folders of XML files, those with most files first, each with the folder of its images."""

    def sort_key(folder: str) -> tuple[int, bool]:
        num_files = sum(len(contents.xml_files[path]) for path in folders_within(contents.xml_files, folder))
        return -num_files, os.path.basename(folder) != pascal_voc.ANNOTATIONS

    for folder in sorted(with_parents(contents.xml_files), key=sort_key):
        images = find_image_folder(contents, folder)
        if images is not None:
            yield {"annotations": folder, "images": images}


def find_image_folder(contents: FolderContents, annotations: str) -> str | None:
    """The folder that holds most of the images of a folder of XML files; None if there is none."""
    paths = [os.path.split(path) for path in sorted(files_below(contents.xml_files, annotations))]
    folders = {
        folder
        for subfolder, name in paths[:: len(paths) // 5 + 1]
        for image_folder, images in contents.images.items()
        if name in images and (folder := strip_suffix(image_folder, subfolder)) is not None
    }

    def num_images(folder: str) -> int:
        return sum(
            name in contents.images.get(os.path.normpath(os.path.join(folder, subfolder)), ())
            for subfolder, name in paths
        )

    return max(sorted(folders), key=num_images, default=None)


def strip_suffix(path: str, suffix: str) -> str | None:
    """The folder from which the relative path `suffix` leads to `path`; None if there is none."""
    if suffix in ("", path):
        return "." if suffix else path
    return path.removesuffix(f"/{suffix}") if path.endswith(f"/{suffix}") else None


def coco_by_names(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """JSON files that have the names of splits in their paths."""
    json_files = [path for path in sorted(contents.json_files) if not FILES_WITHOUT_BOXES.search(path)]
    for pattern, train, test in split_patterns(json_files):
        folders = [
            find_coco_images(folder, contents, pattern.replace(SPLIT_PLACEHOLDER, split)) for split in (train, test)
        ]
        if (images := common_pattern(folders, (train, test))) is not None:
            yield {"annotations": pattern, "images": images, "train": train, "test": test}


def coco_without_splits(folder: Path, contents: FolderContents) -> Iterator[Parameters]:
    """Single JSON files."""
    for json_file in sorted(contents.json_files):
        images = find_coco_images(folder, contents, json_file)
        if images is not None:
            yield {"annotations": json_file, "images": images, "split": TEST_SHARE}


def find_coco_images(folder: Path, contents: FolderContents, json_file: str) -> str | None:
    """The folder to which the file names in a JSON file are relative; None if not all images are in one."""
    try:
        entries, _, _ = coco_json.read_entries(folder / json_file)
        names = [coco_json.parse_file_name(folder / json_file, entry) for entry in entries]
    except ValueError:
        return None
    parent = os.path.dirname(json_file)
    matches = (
        image_folder
        for image_folder in sorted(with_parents(contents.images), key=lambda path: (path != parent, path))
        if all(os.path.isfile(folder / image_folder / name) for name in names)
    )
    return next(matches, None)


def split_patterns(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Pairs of paths that differ in the name of a split: the path with SPLIT for the name, and the two names."""
    for prefix in TEST_PREFIXES:
        for path in paths:
            for train in names_with_prefix(split_words(path), TRAIN_PREFIXES):
                pattern = path.replace(train, SPLIT_PLACEHOLDER)
                for test in names_with_prefix({word for other in paths for word in split_words(other)}, (prefix,)):
                    if pattern.replace(SPLIT_PLACEHOLDER, test) in paths:
                        yield pattern, train, test


def common_pattern(folders: Sequence[str | None], names: tuple[str, str]) -> str | None:
    """Two folders as one path, with SPLIT for the name of the split where they differ; None if that is impossible."""
    train_folder, test_folder = folders
    if train_folder is None or test_folder is None or train_folder == test_folder:
        return train_folder if train_folder == test_folder else None
    pattern = train_folder.replace(names[0], SPLIT_PLACEHOLDER)
    return pattern if pattern.replace(SPLIT_PLACEHOLDER, names[1]) == test_folder else None


def split_words(path: str) -> list[str]:
    """The words of a path: `annotations/instances_train2017.json` has four."""
    return re.findall(r"[A-Za-z0-9]+", path)


def names_with_prefix(names: Collection[str], prefixes: Sequence[str]) -> list[str]:
    """The names that begin with a prefix in any case, in the order of the prefixes, shorter names first."""
    return [
        name
        for prefix in prefixes
        for name in sorted(set(names), key=lambda name: (len(name), name))
        if name.lower().startswith(prefix)
    ]


def can_read(task: str, folder: Path, parameters: Parameters) -> bool:
    """Whether a task's reader finds all annotations and images with these parameters."""
    values = DEFAULTS[task] | parameters
    share = float(values["split"]) if "split" in values else None
    train, test, images, annotations = (values[key] for key in ("train", "test", "images", "annotations"))
    try:
        if task == "voc":
            layout = pascal_voc.Layout(images, annotations, values["lists"])
            pascal_voc.check_files_exist(folder, train, test, layout, share)
        else:
            coco_json.check_files_exist(folder, train, test, images, annotations, share)
    except (LayoutError, ValueError):
        return False
    return True


def format_task(task: str, root: str, parameters: Parameters) -> str:
    """The task as a user writes it; `root` becomes the deepest folder that holds all parts."""
    paths = {key: parameters[key] for key in ("images", "annotations", "lists") if key in parameters}
    folders = [os.path.dirname(path) if path.endswith(".json") else path for path in paths.values()]
    prefixes = [folder.split(SPLIT_PLACEHOLDER)[0] for folder in folders]
    common = os.path.commonpath(prefixes) if "." not in folders else ""
    relative = {key: os.path.relpath(path, common or ".") for key, path in paths.items()}
    values = {"root": os.path.normpath(os.path.join(root, common))} | parameters | relative
    not_default = {key: value for key, value in values.items() if value != DEFAULTS[task].get(key)}
    return f"{task}[{','.join(f'{key}={quote(value)}' for key, value in not_default.items())}]"


def quote(value: str) -> str:
    """A parameter's value, in quotes if it would be parsed as something else."""
    return value if re.fullmatch(r"[\w./ -]*\w[\w./ -]*|\.", value) else json.dumps(value, ensure_ascii=False)
