"""The files that picks are written to, in the formats of annotation tools, and read from to not pick them again."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from benchmark.runner.picking.picks import Pick, Picks, PredictedObject
from benchmark.runner.picking.sources import PATH_COLUMNS, find_column, read_csv, read_json
from benchmark.system import files
from benchmark.text.escaping import escape_csv
from benchmark.text.words import did_you_mean

SUFFIX_FORMATS = {".csv": "csv", ".jsonl": "cvat"}  # the formats that the suffix of a file tells
DIGITS = 9  # significant digits of a score


def find_format(to: str, chosen: str) -> str:
    """Returns the format of the file `to`: the chosen one, or that of its suffix."""
    if chosen and chosen not in FORMATS:
        raise ValueError(f"format={chosen}: there is no format {did_you_mean(chosen, FORMATS)}")
    if chosen:
        return chosen
    if not to:
        return "csv"
    suffix = os.path.splitext(to)[1].lower()
    if suffix not in SUFFIX_FORMATS:
        names = ", ".join(FORMATS)
        raise ValueError(f"to={to}: its suffix does not tell the format: set format= to one of {names}")
    return SUFFIX_FORMATS[suffix]


def format_picks(picks: Picks, chosen: str, url_prefix: str) -> str:
    """Writes picks in a format, as text.

    Args:
        picks: the picks.
        chosen: one of FORMATS.
        url_prefix: what goes before a path to make an URL, for Label Studio.
    """
    return FORMATS[chosen](picks, url_prefix)


def write_csv(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Writes a table as CSV."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([escape_csv(value) for value in row] for row in rows)
    return text.getvalue()


def format_score(pick: Pick) -> str:
    """Returns a score as text, "" where there is none."""
    return "" if pick.score is None else f"{pick.score:.{DIGITS}g}"


def to_csv(picks: Picks, url_prefix: str) -> str:
    """Returns rank, path and score of each pick."""
    return write_csv(
        ("rank", "path", "score"), ((pick.rank, str(pick.path), format_score(pick)) for pick in picks.picks)
    )


def to_superannotate(picks: Picks, url_prefix: str) -> str:
    """Returns name and score of each pick; SuperAnnotate knows items by the last part of their path."""
    names = [pick.path.name for pick in picks.picks]
    if twice := next((name for number, name in enumerate(names) if name in names[:number]), None):
        raise ValueError(
            f"format=superannotate: two picks are called {twice}, and items are known by their names there"
        )
    return write_csv(("name", "score"), ((pick.path.name, format_score(pick)) for pick in picks.picks))


def to_cvat(picks: Picks, url_prefix: str) -> str:
    """Returns a manifest of CVAT: a task that is made with it shows the images in this order."""
    lines: list[dict[str, Any]] = [{"version": "1.1"}, {"type": "images"}]
    for pick in picks.picks:
        stem, extension = os.path.splitext(pick.name)
        lines.append({"name": stem, "extension": extension, "width": pick.size[0], "height": pick.size[1]})
    return "".join(f"{json.dumps(line)}\n" for line in lines)


def to_coco(picks: Picks, url_prefix: str) -> str:
    """Returns the picks as COCO's images, with predicted boxes as annotations that have a score."""
    category = {name: number for number, name in enumerate(picks.classes, 1)}
    images = [
        {"id": pick.rank, "file_name": pick.name, "width": pick.size[0], "height": pick.size[1], "rank": pick.rank}
        | ({} if pick.score is None else {"score": pick.score})
        for pick in picks.picks
    ]
    annotations = list[dict[str, Any]]()
    for pick in picks.picks:
        for thing in pick.predictions:
            if thing.corners is not None:
                x1, y1, x2, y2 = thing.corners
                annotations.append({
                    "id": len(annotations) + 1, "image_id": pick.rank, "category_id": category[thing.label],
                    "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0,
                    "score": thing.confidence,
                })  # fmt: skip
    categories = [{"id": number, "name": name, "supercategory": ""} for name, number in category.items()]
    content = {"images": images, "annotations": annotations, "categories": categories}
    return json.dumps(content, indent=1) + "\n"


def to_labelstudio(picks: Picks, url_prefix: str) -> str:
    """Returns a task of Label Studio for each pick, with what the model predicts as a prediction."""
    tasks = list[dict[str, Any]]()
    for pick in picks.picks:
        data: dict[str, Any] = {"image": url_prefix + quote(pick.name), "rank": pick.rank}
        if pick.score is not None:
            data["score"] = pick.score
        task: dict[str, Any] = {"data": data}
        if pick.predictions:
            results = [labelstudio_result(number, thing, pick) for number, thing in enumerate(pick.predictions)]
            confidence = min(thing.confidence for thing in pick.predictions)
            task["predictions"] = [{"model_version": picks.strategy, "score": confidence, "result": results}]
        tasks.append(task)
    return json.dumps(tasks, indent=1) + "\n"


def labelstudio_result(number: int, thing: PredictedObject, pick: Pick) -> dict[str, Any]:
    """Returns a prediction for a labelling interface whose image is `image` and whose control is `label`."""
    width, height = pick.size
    result: dict[str, Any] = {
        "id": f"{pick.rank}-{number}", "from_name": "label", "to_name": "image", "score": thing.confidence
    }  # fmt: skip
    if thing.corners is None:
        return {**result, "type": "choices", "value": {"choices": [thing.label]}}
    x1, y1, x2, y2 = thing.corners
    box = {"x": x1 / width, "y": y1 / height, "width": (x2 - x1) / width, "height": (y2 - y1) / height}
    value = {name: 100 * share for name, share in box.items()} | {"rotation": 0, "rectanglelabels": [thing.label]}
    sizes = {"original_width": width, "original_height": height, "image_rotation": 0}
    return {**result, **sizes, "type": "rectanglelabels", "value": value}


WRITERS = (to_csv, to_coco, to_labelstudio, to_cvat, to_superannotate)
FORMATS: dict[str, Callable[[Picks, str], str]] = {writer.__name__.removeprefix("to_"): writer for writer in WRITERS}
WITH_PREDICTIONS = (to_coco, to_labelstudio)  # these hold what the model predicts


def write_picks(path: Path, text: str) -> None:
    """Writes picks to a file.

    Raises:
        ValueError: the file holds something else, as earlier picks with labels.
    """
    if path.exists():
        if files.read_file(path) == text.encode("utf-8", "backslashreplace"):
            return
        raise ValueError(
            f"to={path}: the file exists and holds something else: write to another file, and set picked={path} so "
            "that those images are not picked again"
        )
    files.write_atomically(path, text)


def read_picked_names(path: Path) -> list[str]:
    """Reads which images a file of picks names, in any of FORMATS; a CSV file may have more columns by now.

    Raises:
        ValueError: the file is of no such format.
    """
    suffix = path.suffix.lower()
    if suffix == ".csv":
        rows = read_csv(path)
        column = find_column(path, rows, PATH_COLUMNS)
        return [row[column] for row in rows]
    try:
        names = read_jsonl_names(path) if suffix == ".jsonl" else list_json_names(read_json(path))
    except (KeyError, TypeError, json.JSONDecodeError):
        names = []
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"picked={path}: is no file of picks ({', '.join(FORMATS)})")
    return names


def read_jsonl_names(path: Path) -> list[str]:
    """Reads the names in a manifest of CVAT."""
    lines = [json.loads(line) for line in files.read_file(path).splitlines()]
    return [f"{line['name']}{line['extension']}" for line in lines if "name" in line]


def list_json_names(content: Any) -> list[str]:
    """Returns the names in the content of a COCO file or of tasks of Label Studio."""
    if isinstance(content, dict):
        return [image["file_name"] for image in content["images"]]
    return [task["data"]["image"] for task in content]
