"""A file on disk is used only if its digest fits its content and its name; a file that is not used is reported."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from _cells import bytes_of, cell, run
from safetensors.torch import save_file
from test_cached_files import KINDS, linear

from benchmark.analysis.figures.gallery import Gallery
from benchmark.api import Machine
from benchmark.plugins.registry import Plugin
from benchmark.runner import fit_cache, gallery_writer
from benchmark.runner.events import Round
from benchmark.system import remarks, tensor_files
from benchmark.system.digests import digest
from benchmark.vision.encoding import encodings


@pytest.fixture(autouse=True)
def nothing_was_said() -> Iterator[None]:
    """Forgets, before a test, which files were read and which remarks were made."""
    for cached in (remarks.remark_once, tensor_files.is_sound_version):
        cached.cache_clear()
    yield
    for cached in (remarks.remark_once, tensor_files.is_sound_version):
        cached.cache_clear()


def name_of(kind: str) -> str:
    """Returns where a file of a kind lies; encodings are identified by their folder too."""
    return {"encodings": "encodings/abc/7.safetensors", "checkpoint": "key.checkpoint"}.get(kind, "key.safetensors")


def stored(kind: str, folder: Path) -> Path:
    """Writes a file of a kind."""
    path = folder / name_of(kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind][0](path)
    return path


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_goes_unseen(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, rng, load = stored(kind, tmp_path), np.random.default_rng(0), KINDS[kind][1]
    whole = path.read_bytes()
    places = {*rng.integers(0, len(whole), 120).tolist(), len(whole) - 1, 8, 9}
    for place in places:
        path.write_bytes(flipped(whole, place, int(rng.integers(8))))
        tensor_files.is_sound_version.cache_clear()
        assert load(path) is None, place
        assert not path.exists()
    damaged = [line for line in caplog.messages if line.startswith(f"{path} is damaged (")]
    old = [line for line in caplog.messages if "older release" in line]
    assert len(damaged) > len(places) * 3 / 4
    assert len(old) <= 1, "the word digest itself was hit, or what holds it"
    assert len(damaged) + len(old) == len(caplog.messages)
    path.write_bytes(whole)
    assert load(path) is not None


def swapped(content: bytes) -> bytes:
    """Swaps two bytes of the weights, so that the sum of all bytes stays the same."""
    last = next(n for n in range(len(content) - 2, 0, -1) if content[n] != content[-1])
    return content[:last] + content[-1:] + content[last + 1 : -1] + content[last : last + 1]


def no_metadata(path: Path) -> None:
    save_file(linear().state_dict(), path)


def other_seconds(path: Path) -> None:
    content = path.read_bytes()
    place = content.index(b'"seconds":"') + 11
    path.write_bytes(flipped(content, place, 6))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "two bytes exchanged": lambda path: path.write_bytes(swapped(path.read_bytes())),
    "an exponent's bit": lambda path: path.write_bytes(flipped(path.read_bytes(), -1, 0)),
    "empty": lambda path: path.write_bytes(b""),
    "torn": lambda path: os.truncate(path, 150),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "another fit's": lambda path: (
        fit_cache.save_model(path.with_name("other.safetensors"), linear(), 1.5)
        and path.with_name("other.safetensors").rename(path)
    ),
    "seconds that are no number": other_seconds,
    "no metadata": no_metadata,
    "seconds without a digest": lambda path: save_file(linear().state_dict(), path, metadata={"seconds": "1.5"}),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_cell_trains_anew_what_is_damaged_and_says_so(
    damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run([cell("random", rounds=2)], tmp_path)
    before, caches = bytes_of(tmp_path / "run"), sorted((tmp_path / "fits").iterdir())
    assert caplog.messages == []
    for path in caches:
        DAMAGE[damage](path)
    for path in (tmp_path / "run").rglob("seed-0.jsonl"):
        path.unlink()
    events = run([cell("random", rounds=2)], tmp_path)
    assert [isinstance(event, Round) and event.measured.shared_fit for event in events] == [False] * 2
    assert bytes_of(tmp_path / "run") == before
    if "no metadata" in damage or "without" in damage:
        assert caplog.messages == [
            f"{tmp_path / 'fits'} holds files of an older release, without digests: what they hold is computed again"
        ]
    else:
        starts = {line.partition(" (")[0] for line in caplog.messages}
        assert starts == {f"{path} is damaged" for path in caches}
        assert all("): it is removed, and what it held is computed again" in line for line in caplog.messages)
        assert len(caplog.messages) == 2
    caplog.clear()
    [*again] = run([cell("margin", rounds=1)], tmp_path)
    assert [isinstance(event, Round) and event.measured.shared_fit for event in again] == [True]
    assert caplog.messages == []


def in_the_way(path: Path, what: str) -> None:
    """Puts something else where a cache should be."""
    {"file": path.touch, "folder of a fit's name": path.mkdir, "fifo": lambda: os.mkfifo(path)}[what]()


def test_what_is_no_file_costs_the_cache_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run([cell("random")], tmp_path)
    names = [path.name for path in (tmp_path / "fits").iterdir()]
    for number, what in enumerate(("folder of a fit's name", "fifo")):
        (home := tmp_path / str(number)).mkdir()
        (home / "fits").mkdir()
        for name in names:
            in_the_way(home / "fits" / name, what)
        assert all(isinstance(event, Round) for event in run([cell("random")], home))
        assert bytes_of(home / "run") == bytes_of(tmp_path / "run")
        assert sum("is not a file" in line for line in caplog.messages) == 3 * (number + 1)
    assert all(isinstance(event, Round) for event in run([cell("margin", rounds=1)], tmp_path / "1"))


@pytest.mark.parametrize("what", ["file", "dangling link", "link to itself", "read-only", "folder that takes no file"])
def test_a_cache_that_cannot_be_written_is_said_once(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([cell("random")], tmp_path)
    (home := tmp_path / "other").mkdir()
    if what == "file":
        (home / "fits").touch()
    elif "link" in what:
        (home / "fits").symlink_to("nowhere" if "dangling" in what else "fits")
    else:
        (home / "fits").mkdir()
        deny(home / "fits", errno.EROFS if what == "read-only" else errno.EACCES, monkeypatch)
    events = run([cell("random"), cell("margin", rounds=1)], home)
    assert [isinstance(event, Round) and event.measured.shared_fit for event in events] == [False] * 4
    assert (home / "run" / cell_of("random")).read_bytes() == (tmp_path / "run" / cell_of("random")).read_bytes()
    [line] = caplog.messages
    assert line.startswith(f"{home / 'fits'} ")
    assert line.endswith(": what it would keep is computed whenever it is needed")
    assert {path.suffix for path in home.glob("fits/*")} <= {".lock"}


def cell_of(strategy: str) -> str:
    """Returns the file of records of a strategy's cell."""
    return f"cells/{cell(strategy).path}.jsonl"


def deny(folder: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a folder unwritable as the system would (tests may run as root, who may write anywhere)."""
    error = OSError(code, os.strerror(code))

    def save(tensors: object, path: Path, **more: object) -> None:
        raise error if path.parent == folder else AssertionError

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.parent == folder and (path.exists() or code == errno.EROFS):
            raise error

    monkeypatch.setattr(tensor_files, "save_file", save)
    monkeypatch.setattr(Path, "unlink", unlink)


def test_a_damaged_fit_that_cannot_be_removed_costs_its_training(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([cell("random", rounds=1)], tmp_path)
    [path] = (tmp_path / "fits").iterdir()
    path.write_bytes(damaged := flipped(path.read_bytes(), -1, 0))
    deny(path.parent, errno.EROFS, monkeypatch)
    [event] = run([cell("margin", rounds=1)], tmp_path)
    assert isinstance(event, Round)
    assert not event.measured.shared_fit
    assert path.read_bytes() == damaged
    assert caplog.messages == [
        f"{path} is damaged (its digest does not fit): it cannot be removed (Read-only file system), and what it held "
        "is computed again",
        f"{path.parent} cannot be written (Read-only file system): what it would keep is computed whenever it is "
        "needed",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_what_lies_under_another_name_is_not_used(kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, load = stored(kind, tmp_path), KINDS[kind][1]
    other = path.with_name(f"other{path.suffix}")
    other.write_bytes(path.read_bytes())
    assert load(other) is None
    assert load(path) is not None
    if kind == "encodings":  # the same images by another encoder
        (elsewhere := path.parent.with_name("def") / path.name).parent.mkdir()
        elsewhere.write_bytes(path.read_bytes())
        assert load(elsewhere) is None
    assert len(caplog.messages) == 1 + (kind == "encodings")


def test_a_shard_is_read_whole_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads, read = stored("encodings", tmp_path), list[Path](), tensor_files.read
    monkeypatch.setattr(tensor_files, "read", lambda path, name: reads.append(path) or read(path, name))
    for which in ([0, 3], [5], list(range(20))):
        assert encodings.load_shard(path, torch.tensor(which)) is not None
    assert len(reads) == 1
    path.write_bytes(flipped(path.read_bytes(), -1, 0))
    os.utime(path, ns=(1, 1))
    assert encodings.load_shard(path, torch.tensor([0])) is None
    assert len(reads) == 2


def test_a_link_in_the_place_of_a_draft_is_not_followed(tmp_path: Path) -> None:
    (precious := tmp_path / "precious").write_text("work of years")
    path = tmp_path / "key.safetensors"
    path.with_name(f"key.{os.getpid()}.draft").symlink_to(precious)
    fit_cache.save_model(path, linear(), 1.5)
    assert precious.read_text() == "work of years"
    assert KINDS["fit"][1](path) is not None
    assert not path.is_symlink()


@pytest.mark.parametrize("strategy", ["margin", "learning_loss"])
def test_a_task_or_companion_that_was_edited_does_not_find_its_old_fits(
    strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number, shared in enumerate((False, True, False)):
        if number == 2:
            monkeypatch.setattr(Plugin, "code_hash", lambda plugin: f"files-of-{plugin.name}-edited")
        for path in (tmp_path / "run").rglob("seed-0.jsonl"):
            path.unlink()
        [event] = run([cell(strategy, rounds=1)], tmp_path)
        assert isinstance(event, Round)
        assert event.measured.shared_fit == shared


def test_an_encoder_that_was_edited_does_not_find_its_old_encodings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine, pool = (
        Machine(torch.device("cpu"), scratch=tmp_path),
        encodings.InMemoryPool(torch.zeros(2, 1, 8, 8).byte()),
    )

    def folder() -> str:
        return encodings.Encodings(pool, pool, "pool", machine).get_encoder("patch_pca").folder_name

    before = folder()
    assert folder() == before
    monkeypatch.setattr(Plugin, "code_hash", lambda plugin: "files-edited")
    assert folder() != before


def test_the_cache_leaves_what_is_not_its_own(tmp_path: Path) -> None:
    (tmp_path / "fits").mkdir()
    for name in ("my_model.safetensors", "0" * 31 + ".safetensors", "notes.txt"):
        (tmp_path / "fits" / name).write_bytes(bytes(10_000))
    run([cell("random", rounds=2)], tmp_path, cache_gb=1e-9)
    assert len(list((tmp_path / "fits").iterdir())) == 3 + 1


def test_types_shapes_and_names_are_part_of_a_digest() -> None:
    zero = np.zeros(4, np.float32)
    others = [
        {"a": zero.view(np.int32)}, {"a": zero.reshape(2, 2)}, {"b": zero}, {"a": zero, "b": zero[:0]},
        {"a": zero[:2], "b": zero[2:]}, {"a": np.array("")}, {},
    ]  # fmt: skip
    assert len({digest("key", some) for some in ({"a": zero}, *others)}) == len(others) + 1
    assert digest("key", {"a": zero}) != digest("yek", {"a": zero})
    halves = {"a": torch.zeros(2, dtype=torch.bfloat16)}, {"a": torch.zeros(2, dtype=torch.float16)}
    assert len({tensor_files.tensor_digest("", some) for some in halves}) == 2
    assert tensor_files.tensor_digest("", {"a": torch.tensor(1.5)}) == tensor_files.tensor_digest(
        "", {"a": torch.tensor(1.5)}
    )


# --- galleries --------------------------------------------------------------------------------------
def arrays() -> dict[str, np.ndarray]:
    """Returns a gallery of three images of a classification task."""
    none = np.empty(0, np.int64)
    return {
        "labels_P": np.array([0, 1, 1]), "box_image_M": none, "box_class_M": none, "box_side_M": np.empty(0, "f4"),
        "shown_N": np.arange(2), "thumbs_NHW3": np.zeros((2, 8, 8, 3), np.uint8),
        "features_ND": np.ones((2, 4), np.float16), "drawn_K5": np.empty((0, 5), np.float32),
        "classes_C": np.array(["cat", "dog"]),
    }  # fmt: skip


def test_a_gallery_is_read_where_its_digest_fits(tmp_path: Path) -> None:
    path = tmp_path / "gallery" / "small.npz"
    gallery_writer.write_npz(path, arrays())
    assert Gallery.read(path).labels_P.tolist() == [0, 1, 1]
    path.rename(tmp_path / "other.npz")
    with pytest.raises(ValueError, match=r"other.npz is damaged: its digest does not fit"):
        Gallery.read(tmp_path / "other.npz")
    with np.load(tmp_path / "other.npz") as file:
        content = dict(file)
    np.savez(path, **content | {"labels_P": np.array([1, 1, 1])})
    with pytest.raises(ValueError, match="its digest does not fit"):
        Gallery.read(path)


def test_a_damaged_gallery_is_drawn_again(tmp_path: Path) -> None:
    path = tmp_path / "gallery" / "small.npz"
    gallery_writer.write_npz(path, arrays(), "records")
    assert gallery_writer.read_records_digest(path) == "records"
    with np.load(path) as file:
        content = dict(file)
    np.savez(path, **content | {"labels_P": np.array([1, 1, 1])})
    assert gallery_writer.read_records_digest(path) is None
    np.savez(path, **content | {"digest": np.array("")})
    assert gallery_writer.read_records_digest(path) is None


def test_a_gallery_of_an_older_release_is_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "small.npz", **arrays())
    assert Gallery.read(tmp_path / "small.npz").labels_P.tolist() == [0, 1, 1]


# --- how lines reach the user -----------------------------------------------------------------------
def test_the_last_who_listens_hears(caplog: pytest.LogCaptureFixture) -> None:
    first, second = list[str](), list[str]()
    remarks.send_remarks_to(first.append)
    remarks.send_remarks_to(second.append)
    remarks.remark("100 % of it")
    remarks.remark_once("once")
    remarks.remark_once("once")
    assert (first, second) == ([], ["100 % of it", "once"])
    remarks.send_remarks_to(lambda line: None)
