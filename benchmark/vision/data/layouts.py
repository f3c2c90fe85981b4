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
from benchmark.vision.data.annotations import SPLIT, LayoutError
from benchmark.vision.data.image_files import EXTENSIONS
from benchmark.vision.data.regular_files import shown

FOLDERS, DEPTH, MOST_LISTS, TRIES = 2000, 4, 500, 12  # looked into: so many folders, so deep; tried: so many ways
TRAIN, TEST = ("train",), ("val", "test", "eval", "dev")  # how the names of splits begin, likeliest first
SHARE = "0.2"  # of a test set, where nothing says which images are in it
OTHERS = re.compile(r"caption|keypoint|panoptic|stuff|image_info")  # COCO's files without boxes
DEFAULTS = {
    "voc": {"images": pascal_voc.IMAGES, "annotations": pascal_voc.ANNOTATIONS, "lists": pascal_voc.LISTS}
    | {"train": "train", "test": "val"},
    "coco": {"images": coco_json.IMAGES, "annotations": coco_json.ANNOTATIONS}
    | {"train": "train2017", "test": "val2017"},
}
Parameters = dict[str, str]


@dataclass(frozen=True)
class Contents:
    """The files in a folder and below, by the folder that they are in, relative to it."""

    images: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # names without ending
    pages: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the same of XML files
    lists: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # the same of text files
    tables: list[str] = field(default_factory=list)  # JSON files, with their folders

    def add(self, folder: str, name: str) -> None:
        """Notes one file."""
        stem, ending = os.path.splitext(name)
        if ending.lower() == ".json":
            self.tables.append(os.path.normpath(os.path.join(folder, name)))
        elif (kind := {".xml": self.pages, ".txt": self.lists}.get(ending.lower())) is not None:
            kind[folder].add(stem)
        elif ending.lower() in EXTENSIONS:
            self.images[folder].add(stem)

    def __str__(self) -> str:
        folders = sorted({*self.images, *self.pages, *self.lists})
        texts = [f"{shown(folder)}/ ({', '.join(self.kinds(folder))})" for folder in folders]
        texts += map(shown, sorted(self.tables))
        more = f" and {len(texts) - 10} more" if len(texts) > 10 else ""
        return ", ".join(texts[:10]) + more or "neither images nor annotations"

    def kinds(self, folder: str) -> Iterator[str]:
        """What is in one folder, in words."""
        for kind, what in ((self.images, "images"), (self.pages, "XML files"), (self.lists, "text files")):
            if folder in kind:
                few = kind is self.lists and len(kind[folder]) < 6
                yield (
                    ", ".join(shown(f"{name}.txt") for name in sorted(kind[folder]))
                    if few
                    else f"{len(kind[folder])} {what}"
                )


def homes(kind: Collection[str], folder: str) -> list[str]:
    """Those of the folders that are a folder, or below it."""
    return [home for home in kind if folder in (".", home) or home.startswith(f"{folder}/")]


def below(kind: Mapping[str, set[str]], folder: str) -> set[str]:
    """The files of a kind in a folder and below, by their paths from there."""
    inside = {home: os.path.relpath(home, folder) for home in homes(kind, folder)}
    return {os.path.normpath(os.path.join(path, name)) for home, path in inside.items() for name in kind[home]}


def with_parents(folders: Collection[str]) -> list[str]:
    """These folders and those around them, deeper ones first."""
    every = {str(parent) for folder in folders for parent in (Path(folder), *Path(folder).parents)}
    return sorted(every, key=lambda folder: (-len(Path(folder).parts), folder))


def contents(root: Path) -> Contents:
    """What there is, hidden files and folders aside."""
    found = Contents()
    for home, folders, names in islice(os.walk(root, followlinks=True), FOLDERS):
        inside = os.path.relpath(home, root)
        deep = inside.count(os.sep) + (inside != ".") >= DEPTH
        folders[:] = [] if deep else sorted(name for name in folders if not name.startswith("."))
        for name in names:
            if not name.startswith("."):
                found.add(inside, name)
    return found


def advice(folder: Path, root: str, otherwise: str) -> str:
    """What there is in a folder, and the task with the parameters that would read it.

    Args:
        folder: the folder that was looked into.
        root: the same as the user gave it.
        otherwise: what to say where nothing in it can be read.
    """
    if not folder.is_dir():
        beside = sorted(path.name for path in folder.parent.iterdir()) if folder.parent.is_dir() else []
        return f"In {folder.parent} there are: {', '.join(map(shown, beside[:10])) or 'no files'}; {otherwise}"
    found = contents(folder)
    for task, given in islice(suggestions(folder, found), TRIES):
        if fits(task, folder, given):
            return f"It holds {found}. Try {written(task, root, given)}"
    return f"It holds {found}{hindrance(folder, found)}; {otherwise}"


def hindrance(folder: Path, found: Contents) -> str:
    """Why none of a folder's files will do, from the first of them."""
    try:
        for table in sorted(found.tables)[:1]:
            coco_json.parsed(folder / table)
        for inside, names in sorted(found.pages.items())[:1]:
            voc_annotations.page(folder / inside / f"{min(names)}.xml")
    except ValueError as error:
        return f"; {error}"
    if found.pages or found.tables:
        return "; not every annotation has its image there"
    return "; boxes are read from Pascal VOC's XML and COCO's JSON files: export them so"


def suggestions(folder: Path, found: Contents) -> Iterator[tuple[str, Parameters]]:
    """Tasks and parameters that may read what is there, likeliest first."""
    yield from (("voc", given) for given in voc_by_lists(folder, found))
    yield from (("voc", given) for given in voc_by_folders(found))
    yield from (("coco", given) for given in coco_by_names(folder, found))
    yield from (("voc", given) for given in voc_undivided(found))
    yield from (("coco", given) for given in coco_undivided(folder, found))


def voc_by_lists(folder: Path, found: Contents) -> Iterator[Parameters]:
    """Annotations of which text files list some for a split."""
    for layout in layouts(found):
        for lists in sorted(found.lists, key=lambda name: ("Main" not in name, name)):
            ids = listed_ids(folder, found, layout["annotations"], lists)
            for train in alike(ids, TRAIN):
                yield from (
                    layout | {"lists": lists, "train": train, "test": test}
                    for test in alike(ids, TEST)
                    if not ids[train] & ids[test]
                )
            if ids:
                longest = max(sorted(ids), key=lambda name: len(ids[name]))
                yield layout | {"lists": lists, "train": longest, "split": SHARE}


def listed_ids(folder: Path, found: Contents, annotations: str, lists: str) -> dict[str, set[str]]:
    """The images of each text file of a folder that lists annotations and nothing else."""
    ids, known = dict[str, set[str]](), below(found.pages, annotations)
    for name in sorted(found.lists[lists]) if len(found.lists[lists]) < MOST_LISTS else ():
        try:
            images = set(pascal_voc.image_ids(folder / lists / f"{name}.txt", known))
        except ValueError:
            continue
        if images <= known:
            ids[name] = images
    return ids


def voc_by_folders(found: Contents) -> Iterator[Parameters]:
    """Annotations in a folder for each split."""
    for pages, train, test in patterns(sorted(found.pages)):
        folders = [images_of(found, pages.replace(SPLIT, name)) for name in (train, test)]
        if (images := pattern_of(folders, (train, test))) is not None:
            yield {"annotations": pages, "images": images, "train": train, "test": test}


def voc_undivided(found: Contents) -> Iterator[Parameters]:
    """Annotations that nothing divides."""
    yield from (layout | {"split": SHARE} for layout in layouts(found))


def layouts(found: Contents) -> Iterator[Parameters]:
    """Folders of annotations, those with most of them first, each with the folder of its images."""

    def order(pages: str) -> tuple[int, bool]:
        number = sum(len(found.pages[home]) for home in homes(found.pages, pages))
        return -number, os.path.basename(pages) != pascal_voc.ANNOTATIONS

    for pages in sorted(with_parents(found.pages), key=order):
        images = images_of(found, pages)
        if images is not None:
            yield {"annotations": pages, "images": images}


def images_of(found: Contents, annotations: str) -> str | None:
    """The folder that has most of the images that a folder annotates."""
    names = [os.path.split(name) for name in sorted(below(found.pages, annotations))]
    folders = {
        folder
        for inside, name in names[:: len(names) // 5 + 1]
        for home, images in found.images.items()
        if name in images and (folder := without(home, inside)) is not None
    }

    def number(folder: str) -> int:
        return sum(
            name in found.images.get(os.path.normpath(os.path.join(folder, inside)), ()) for inside, name in names
        )

    return max(sorted(folders), key=number, default=None)


def without(home: str, inside: str) -> str | None:
    """The folder that a path leads to `home` from; None where it leads elsewhere."""
    if inside in ("", home):
        return "." if inside else home
    return home.removesuffix(f"/{inside}") if home.endswith(f"/{inside}") else None


def coco_by_names(folder: Path, found: Contents) -> Iterator[Parameters]:
    """JSON files whose names tell splits."""
    tables = [table for table in sorted(found.tables) if not OTHERS.search(table)]
    for pages, train, test in patterns(tables):
        folders = [home_of(folder, found, pages.replace(SPLIT, name)) for name in (train, test)]
        if (images := pattern_of(folders, (train, test))) is not None:
            yield {"annotations": pages, "images": images, "train": train, "test": test}


def coco_undivided(folder: Path, found: Contents) -> Iterator[Parameters]:
    """JSON files by themselves."""
    for table in sorted(found.tables):
        images = home_of(folder, found, table)
        if images is not None:
            yield {"annotations": table, "images": images, "split": SHARE}


def home_of(folder: Path, found: Contents, table: str) -> str | None:
    """The folder that the file names of a JSON file start from."""
    try:
        pictures, _, _ = coco_json.parsed(folder / table)
        names = [coco_json.file_name(folder / table, picture) for picture in pictures]
    except ValueError:
        return None
    there = (
        home
        for home in sorted(with_parents(found.images), key=lambda home: (home != os.path.dirname(table), home))
        if all(os.path.isfile(folder / home / name) for name in names)
    )
    return next(there, None)


def patterns(paths: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    """Paths that differ in the names of two splits: with SPLIT for the name, and the names."""
    for kind in TEST:
        for one in paths:
            for train in alike(words(one), TRAIN):
                pattern = one.replace(train, SPLIT)
                for test in alike({word for path in paths for word in words(path)}, (kind,)):
                    if pattern.replace(SPLIT, test) in paths:
                        yield pattern, train, test


def pattern_of(folders: Sequence[str | None], names: tuple[str, str]) -> str | None:
    """Two folders as one path, with SPLIT for the name of the split where they differ."""
    one, other = folders
    if one is None or other is None or one == other:
        return one if one == other else None
    pattern = one.replace(names[0], SPLIT)
    return pattern if pattern.replace(SPLIT, names[1]) == other else None


def words(path: str) -> list[str]:
    """The words of a path: `annotations/instances_train2017.json` has four."""
    return re.findall(r"[A-Za-z0-9]+", path)


def alike(names: Collection[str], beginnings: Sequence[str]) -> list[str]:
    """Those that begin so, in the order of the beginnings, shorter ones first."""
    return [
        name
        for beginning in beginnings
        for name in sorted(set(names), key=lambda name: (len(name), name))
        if name.lower().startswith(beginning)
    ]


def fits(task: str, folder: Path, given: Parameters) -> bool:
    """Whether a task's reader finds all annotations and images with these parameters."""
    every = DEFAULTS[task] | given
    share = float(every["split"]) if "split" in every else None
    try:
        if task == "voc":
            layout = pascal_voc.Layout(every["images"], every["annotations"], every["lists"])
            pascal_voc.check_parts(folder, every["train"], every["test"], layout, share)
        else:
            coco_json.check_parts(folder, every["train"], every["test"], every["images"], every["annotations"], share)
    except (LayoutError, ValueError):
        return False
    return True


def written(task: str, root: str, given: Parameters) -> str:
    """The task as a user writes it, with the folder that all parts are in for its root."""
    paths = {key: given[key] for key in ("images", "annotations", "lists") if key in given}
    folders = [os.path.dirname(path) if path.endswith(".json") else path for path in paths.values()]
    common = os.path.commonpath([folder.split(SPLIT)[0] for folder in folders]) if "." not in folders else ""
    moved = {key: os.path.relpath(path, common or ".") for key, path in paths.items()}
    values = {"root": os.path.normpath(os.path.join(root, common))} | given | moved
    kept = {key: value for key, value in values.items() if value != DEFAULTS[task].get(key)}
    return f"{task}[{','.join(f'{key}={quoted(value)}' for key, value in kept.items())}]"


def quoted(value: str) -> str:
    """A parameter's value, in quotes where it would be read as something else."""
    return value if re.fullmatch(r"[\w./ -]*\w[\w./ -]*|\.", value) else json.dumps(value, ensure_ascii=False)
