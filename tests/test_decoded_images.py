"""Images in memory: decoded in several processes as in one, and read back from the user's cache folder."""

from __future__ import annotations

import errno
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from benchmark.api import Machine
from benchmark.system import activity, process_state, remarks, tensor_cache, tensor_files
from benchmark.tasks.image_folder import image_folder
from benchmark.vision.classification import Recipe
from benchmark.vision.data import decoded_images, image_checks, user_cache
from benchmark.vision.data.decoded_images import load_images
from benchmark.vision.data.duplicates import MAX_NEAR_DISTANCE, near_duplicates
from benchmark.vision.data.forked_processes import map_in_processes, num_cores, shared_array
from benchmark.vision.data.image_checks import THUMBNAIL_SIDE, BadImagesError

CPU = torch.device("cpu")
QUICK = Recipe(model="small_cnn", epochs=1)
NUM_FILES = 6


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Gives each test an empty cache folder, in which everything is stored, and forgets which lines were logged."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(tensor_cache, "MIN_SECONDS", 0.0)
    image_checks.warn_once.cache_clear()
    remarks.remark_once.cache_clear()
    return tmp_path / "cache" / "al-benchmark" / "tensors"


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Records how many images each call decodes."""
    counts: list[int] = []
    decode_all = decoded_images.decode_all

    def counted(paths: Any, *rest: Any) -> Any:
        counts.append(len(paths))
        return decode_all(paths, *rest)

    monkeypatch.setattr(decoded_images, "decode_all", counted)
    return counts


def noise(seed: int, width: int = 20, height: int = 14) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def write_files(folder: Path, number: int = NUM_FILES) -> list[Path]:
    """Writes images of equal size in bytes; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{place:04}.bmp" for place in range(number)]
    for place, path in enumerate(paths):
        noise(place).save(path)
    return paths


def load_without_cache(paths: list[Path], size: int = 8) -> tuple[Any, Any]:
    """Loads images in a process that has no cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "nowhere")  # no absolute path
        return load_images(paths, size, "turn")


def is_equal(first: tuple[Any, Any], second: tuple[Any, Any]) -> bool:
    return np.array_equal(first[0], second[0]) and first[1] == second[1]


# --- what has not changed is not decoded again ---------------------------------------------------------
def test_a_second_start_decodes_nothing_and_is_the_same(tmp_path: Path, decoded: list[int]) -> None:
    paths = write_files(tmp_path / "a")
    first = load_images(paths, 8, "turn")
    assert decoded == [NUM_FILES]
    second = load_images(paths, 8, "turn")
    assert decoded == [NUM_FILES]
    assert is_equal(first, second)
    assert is_equal(first, load_without_cache(paths))
    assert second[0].dtype == np.uint8
    assert [type(value) for value in second[1][0]] == [type(value) for value in first[1][0]]


def test_a_task_is_the_same_from_decoded_images(tmp_path: Path, decoded: list[int], caplog: Any) -> None:
    for place, (part, kind) in enumerate((part, kind) for part in ("train", "test") for kind in "ab"):
        write_files(tmp_path / "data" / part / kind, NUM_FILES)
        for path in (tmp_path / "data" / part / kind).iterdir():
            if part == "train" and kind == "b":
                noise(100 * place + int(path.stem)).save(path)  # the others are duplicates
    answers = []
    for _ in range(2):
        image_checks.warn_once.cache_clear()
        caplog.clear()
        task = image_folder(Machine(CPU, tmp_path), QUICK, root="data", size=8)
        values = task.fingerprint, task.source_files(), task.data_remarks(), task._images.tolist(), caplog.messages[:]
        answers.append(values)
    assert answers[0] == answers[1]
    assert len(answers[0][2]) == 2, "duplicates within the test set, and between both"
    assert decoded == [2 * NUM_FILES] * 2


def change_content(paths: list[Path]) -> list[Path]:
    """Another image of the same size in bytes, with the time of the old one, as `cp -p` and rsync leave it."""
    before = paths[2].stat()
    noise(99).save(paths[2])
    os.utime(paths[2], ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (paths[2].stat().st_size, paths[2].stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    return paths


def touch(paths: list[Path]) -> list[Path]:
    os.utime(paths[2], ns=(1, 1))
    return paths


def enlarge(paths: list[Path]) -> list[Path]:
    noise(2, 30, 30).save(paths[2])
    return paths


def add(paths: list[Path]) -> list[Path]:
    return write_files(paths[0].parent, NUM_FILES + 1)


def remove(paths: list[Path]) -> list[Path]:
    paths[2].unlink()
    return paths[:2] + paths[3:]


def rename(paths: list[Path]) -> list[Path]:
    return [*paths[:-1], paths[-1].rename(paths[-1].with_name("z.bmp"))]


def swap(paths: list[Path]) -> list[Path]:
    """Exchanges the names of two files."""
    paths[0].rename(paths[0].with_name("old"))
    paths[1].rename(paths[0])
    paths[0].with_name("old").rename(paths[1])
    return paths


def reorder(paths: list[Path]) -> list[Path]:
    return paths[::-1]


@pytest.mark.parametrize("change", [change_content, touch, enlarge, add, remove, rename, swap, reorder])
def test_a_change_of_files_is_noticed(
    change: Callable[[list[Path]], list[Path]], tmp_path: Path, decoded: list[int]
) -> None:
    paths = write_files(tmp_path / "a")
    load_images(paths, 8, "turn")
    paths = change(paths)
    changed = load_images(paths, 8, "turn")
    assert decoded == [NUM_FILES, len(paths)]
    assert is_equal(changed, load_without_cache(paths))
    load_images(paths, 8, "turn")
    assert len(decoded) == 3, "the third one was without the cache"


@pytest.fixture
def equal_states(monkeypatch: pytest.MonkeyPatch) -> None:
    """All files have the same size and time, as those that an archive leaves within a tick of the disk's clock."""
    monkeypatch.setattr(decoded_images, "file_states", lambda paths: np.zeros((len(paths), 2), np.int64))


@pytest.mark.usefixtures("equal_states")
@pytest.mark.parametrize("change", [add, remove, rename, reorder])
def test_names_and_their_order_count(
    change: Callable[[list[Path]], list[Path]], tmp_path: Path, decoded: list[int]
) -> None:
    paths = write_files(tmp_path / "a")
    load_images(paths, 8, "turn")
    load_images(change(paths), 8, "turn")
    assert len(decoded) == 2


def test_another_way_of_reading_is_another_file(
    tmp_path: Path, decoded: list[int], cache: Path, monkeypatch: Any
) -> None:
    paths = write_files(tmp_path / "a")
    load_images(paths, 8, "turn")
    load_images(paths, 9, "turn")
    load_images(paths, 8, "ignore")
    monkeypatch.setattr(decoded_images, "CODECS", [("jpg", "another release")])
    load_images(paths, 8, "turn")
    assert len(decoded) == len(list(cache.glob("*.safetensors"))) == 4


@pytest.mark.usefixtures("equal_states")
def test_relative_paths_are_those_of_their_folder(tmp_path: Path, decoded: list[int], monkeypatch: Any) -> None:
    for place, name in enumerate(("a", "b")):
        write_files(tmp_path / name / "images")
        noise(50 + place).save(tmp_path / name / "images" / "0000.bmp")
    results = []
    for name in ("a", "b", "a"):
        monkeypatch.chdir(tmp_path / name)
        results.append(load_images(sorted(Path("images").iterdir()), 8, "turn"))
    assert decoded == [NUM_FILES] * 2
    assert not np.array_equal(results[0][0], results[1][0])
    assert is_equal(results[0], results[2])


def test_what_is_said_of_the_files_is_said_again(tmp_path: Path, decoded: list[int], caplog: Any) -> None:
    paths, exif = write_files(tmp_path / "a"), Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    paths += [tmp_path / "a" / "turned.png", tmp_path / "a" / "film.gif"]
    noise(7).save(paths[-2], exif=exif)
    noise(8).save(paths[-1], save_all=True, append_images=[noise(9)])
    for _ in range(2):
        image_checks.warn_once.cache_clear()
        load_images(paths, 8, "turn")
    assert decoded == [NUM_FILES + 2]
    assert len(caplog.messages) == 4
    assert caplog.messages[:2] == caplog.messages[2:]
    assert "images turned as their EXIF tags say: 1 of 8" in caplog.messages[0]
    assert caplog.messages[1].endswith("of which only the first is read: 1 (" + str(paths[-1]) + ")")


# --- files of the cache --------------------------------------------------------------------------------
def flip_bit(content: bytes, position: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def put_link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.with_suffix(".elsewhere").write_bytes(b"someone else's")
    path.symlink_to(path.with_suffix(".elsewhere"))


HARM: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "foreign": lambda path: path.write_bytes(b"foreign" * 1000),
    "a pickle": lambda path: path.write_bytes(b"cos\nsystem\n(S'exit 1'\ntR."),
    "length of the header": lambda path: path.write_bytes(flip_bit(path.read_bytes(), 6)),
    "header": lambda path: path.write_bytes(flip_bit(path.read_bytes(), 40)),
    "a pixel": lambda path: path.write_bytes(flip_bit(path.read_bytes(), path.stat().st_size - 1)),
    "of no digest": lambda path: path.write_bytes(__import__("safetensors.torch").torch.save({"x": torch.zeros(3)})),
    "of another key": lambda path: tensor_files.write(path, "another", {"x": torch.zeros(3)}, 1.0),
    "a link": put_link,
}


@pytest.mark.parametrize("harm", HARM)
def test_a_file_that_is_not_sound_is_made_anew(harm: str, tmp_path: Path, decoded: list[int], cache: Path) -> None:
    paths = write_files(tmp_path / "a")
    expected = load_images(paths, 8, "turn")
    [file] = cache.iterdir()
    sound = file.read_bytes()
    HARM[harm](file)
    assert file.read_bytes() != sound
    assert is_equal(load_images(paths, 8, "turn"), expected)
    assert (file.is_symlink(), sorted(path.suffix for path in cache.iterdir())[-1]) == (False, ".safetensors")
    if harm == "a link":
        assert file.with_suffix(".elsewhere").read_bytes() == b"someone else's"
    assert is_equal(load_images(paths, 8, "turn"), expected)
    assert len(decoded) == 2


def deny(error: OSError) -> Callable[..., NoReturn]:
    def raises(*args: object, **options: object) -> NoReturn:
        raise error

    return raises


@pytest.mark.parametrize("trouble", ["full", "read-only", "a file", "a link"])
def test_a_folder_that_cannot_be_used_costs_time_and_a_line(
    trouble: str, tmp_path: Path, decoded: list[int], cache: Path, monkeypatch: Any, caplog: Any
) -> None:
    paths = write_files(tmp_path / "a")
    if trouble == "full":
        monkeypatch.setattr(tensor_files, "save_file", deny(OSError(errno.ENOSPC, "No space left on device")))
    elif trouble == "read-only":
        monkeypatch.setattr(Path, "mkdir", deny(OSError(errno.EROFS, "Read-only file system")))
    elif trouble == "a file":
        cache.parent.mkdir(parents=True)
        cache.write_text("no folder")
    else:
        (tmp_path / "fits").mkdir()
        cache.parent.mkdir(parents=True)
        cache.symlink_to(tmp_path / "fits")
    results = [load_images(paths, 8, "turn") for _ in range(2)]
    assert decoded == [NUM_FILES] * 2
    assert is_equal(*results)
    assert len(caplog.messages) == 1
    assert caplog.messages[0].endswith("is computed whenever it is needed")
    assert not list(tmp_path.rglob("*.safetensors")) + list(tmp_path.rglob("*.draft"))


def test_changed_arrays_reach_no_file(tmp_path: Path, decoded: list[int], cache: Path) -> None:
    paths = write_files(tmp_path / "a")
    expected = load_images(paths, 8, "turn")[0].copy()
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # torch warns of arrays that cannot be written
            images_N3HW, _ = load_images(paths, 8, "turn")
            torch.from_numpy(images_N3HW).zero_()
    assert np.array_equal(load_images(paths, 8, "turn")[0], expected)
    assert decoded == [NUM_FILES]


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs /proc/self/maps, which Linux has")
def test_processes_share_the_memory_of_decoded_images(tmp_path: Path, cache: Path) -> None:
    paths = write_files(tmp_path / "a")
    load_images(paths, 64, "turn")
    images_N3HW, _ = load_images(paths, 64, "turn")
    [file] = cache.iterdir()
    ranges = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if line.endswith(str(file))]
    address = images_N3HW.ctypes.data
    assert any(int(low, 16) <= address < int(high, 16) for low, _, high in (part.partition("-") for part in ranges))


def test_what_takes_no_time_is_not_stored(tmp_path: Path, cache: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tensor_cache, "MIN_SECONDS", 3600.0)
    load_images(write_files(tmp_path / "a"), 8, "turn")
    assert list(cache.iterdir()) == []


def test_the_folder_keeps_its_size(tmp_path: Path, decoded: list[int], cache: Path, monkeypatch: Any) -> None:
    folders = [write_files(tmp_path / name) for name in "abc"]
    load_images(folders[0], 8, "turn")
    size = sum(file.stat().st_size for file in cache.iterdir())
    monkeypatch.setattr(user_cache, "MAX_BYTES", int(2.5 * size))
    for number in (1, 0, 2, 0, 1):  # the second one is the least recently used when the third is stored
        load_images(folders[number], 8, "turn")
        for time, file in enumerate(sorted(cache.iterdir(), key=lambda file: file.stat().st_mtime_ns)):
            os.utime(file, ns=(time, time))
    assert len(decoded) == 4
    monkeypatch.setattr(user_cache, "MAX_BYTES", size // 4)
    load_images(write_files(tmp_path / "d"), 8, "turn")
    assert len(list(cache.iterdir())) == 2, "what is too large is not stored, and nothing is removed for it"


WRITER = """
import sys, time
from pathlib import Path
from benchmark.system import tensor_cache
from benchmark.vision.data import decoded_images
tensor_cache.MIN_SECONDS, decode_all, calls = 0.0, decoded_images.decode_all, []
def slowly(*args):
    calls.append(1)
    time.sleep(1)
    return decode_all(*args)
decoded_images.decode_all = slowly
print(flush=True)
sys.stdin.readline()
images_N3HW, scans = decoded_images.load_images(sorted(Path(sys.argv[1]).iterdir()), 8, "turn")
print(len(calls), images_N3HW.astype(int).sum(), scans[0].pixel_hash)
"""


def test_two_processes_at_once_decode_once(tmp_path: Path, cache: Path) -> None:
    paths = write_files(tmp_path / "a")
    command = [sys.executable, "-c", WRITER, str(tmp_path / "a")]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, env=environment, **pipes) for _ in range(2)]
    for process in processes:
        process.stdout.readline()  # both have imported everything
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    answers = sorted(process.communicate()[0].split() for process in processes)
    images_N3HW, scans = load_images(paths, 8, "turn")
    expected = [str(images_N3HW.astype(int).sum()), scans[0].pixel_hash]
    assert answers == [["0", *expected], ["1", *expected]]
    assert [file.suffix for file in cache.iterdir()] == [".safetensors"]


# --- several processes decode as one -------------------------------------------------------------------
def in_processes(number: int, function: Callable[[], Any]) -> Any:
    """Calls a function that decodes in so many processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", "nowhere")
        patch.setattr(decoded_images, "num_cores", lambda: number)
        image_checks.warn_once.cache_clear()
        return function()


def test_images_are_the_same_from_any_number_of_processes(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "a", 150)
    expected = in_processes(1, lambda: load_images(paths, 8, "turn"))
    assert expected[0].shape == (150, 3, 8, 8)
    for number in (2, 3):
        assert is_equal(in_processes(number, lambda: load_images(paths, 8, "turn")), expected)


def test_bad_images_are_named_in_order_from_any_number_of_processes(tmp_path: Path, caplog: Any) -> None:
    paths = write_files(tmp_path / "a", 150)
    for place in (149, 3, 80, 81):
        os.truncate(paths[place], 60)
    paths[100] = paths[100].with_name("missing.bmp")
    for place in (7, 120):
        noise(place).convert("P").save(paths[place].with_suffix(".png"), transparency=b"\0\1")
        paths[place] = paths[place].with_suffix(".png")
    messages = []
    for number in (1, 2, 3):
        with pytest.raises(BadImagesError) as error:
            in_processes(number, lambda: load_images(paths, 8, "turn"))
        messages.append(str(error.value))
    assert len(set(messages)) == 1
    first = f"5 of 150 images cannot be used: {paths[3]} cannot be read as an image: "
    assert messages[0].startswith(first)
    assert messages[0].index(paths[80].name) < messages[0].index(paths[81].name)
    assert "; and 2 more (repair" in messages[0]
    assert len(set(caplog.messages)) == 1
    assert "while 150 images were read, Pillow warned 2 times, first: " in caplog.messages[0]


def test_bad_images_are_named_at_every_start(tmp_path: Path, cache: Path) -> None:
    paths = write_files(tmp_path / "a")
    os.truncate(paths[3], 60)
    for _ in range(2):
        with pytest.raises(BadImagesError, match=r"0003.bmp cannot be read as an image"):
            load_images(paths, 8, "turn")
    assert list(cache.iterdir()) == []


def test_cores_decide_how_many_processes(monkeypatch: Any) -> None:
    for cores, expected in ((5, 5), (128, 32), (1, 1)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda process, cores=cores: set(range(cores)))
        assert num_cores() == expected


def load_and_put(paths: list[Path], results: Any) -> None:
    results.put(load_images(paths, 8, "turn")[0].astype(int).sum())


def test_a_process_that_may_have_none_decodes_itself(tmp_path: Path) -> None:
    paths = write_files(tmp_path / "a", 150)
    results: Any = multiprocessing.get_context("fork").Queue()
    process = multiprocessing.get_context("fork").Process(target=load_and_put, args=(paths, results), daemon=True)
    process.start()
    assert results.get(timeout=60) == load_without_cache(paths)[0].astype(int).sum()
    process.join()


def test_reading_is_counted_in_images(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(activity, "REPORT_SECONDS", 0.0)
    reports: list[tuple[str, int, int | None]] = []
    paths = write_files(tmp_path / "a", 150)
    with activity.report_to(lambda stage: reports.append((stage.full_name, stage.num_done, stage.total))):
        in_processes(2, lambda: load_images(paths, 8, "turn"))
    counts = [count for name, count, total in reports if (name, total) == ("reading images", 150)]
    assert (counts[0], counts[-1]) == (0, 150)
    assert counts == sorted(counts)
    assert len(counts) > 10


# --- the processes -------------------------------------------------------------------------------------
def kill_own_process(item: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(
        RuntimeError, match=r"^a process that reads images was killed, perhaps because memory is short$"
    ):
        list(map_in_processes(kill_own_process, range(4), 2))


def test_results_are_in_order_and_shared_arrays_are_written() -> None:
    squares_N = shared_array((50,), np.int64)

    def square(number: int) -> int:
        squares_N[number] = number**2
        return number

    assert list(map_in_processes(square, range(50), 3)) == list(range(50))
    assert squares_N.tolist() == [number**2 for number in range(50)]
    assert (shared_array((0, 3), np.int64).shape, shared_array((2, 3), np.bool_).any()) == ((0, 3), False)


def test_an_error_in_a_process_is_raised_here() -> None:
    with pytest.raises(KeyError, match="3"):
        list(map_in_processes(dict.fromkeys(range(3)).__getitem__, range(5), 2))


def test_processes_leave_nothing_behind() -> None:
    before = process_state.snapshot()
    assert len(list(map_in_processes(str, range(4), 2))) == 4
    abandoned = map_in_processes(str, range(1000), 2)
    assert next(abandoned) == "0"
    abandoned.close()
    assert multiprocessing.active_children() == []
    assert process_state.snapshot() == before


PARENT = """
import os, sys, time
from benchmark.vision.data.forked_processes import map_in_processes
def work(item):
    print(os.getpid(), flush=True)
    time.sleep(600)
list(map_in_processes(work, range(2), 2))
"""


def test_processes_end_with_a_parent_that_is_killed() -> None:
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen([sys.executable, "-c", PARENT], env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pids = {int(parent.stdout.readline()) for _ in range(2)}
        assert len(pids - {parent.pid}) == 2
        parent.kill()
        closed, _, _ = select.select([parent.stdout], [], [], 30)  # once no process has it open
        for pid in pids if not closed else ():
            os.kill(pid, signal.SIGKILL)
        assert closed


# --- near duplicates -----------------------------------------------------------------------------------
def pairwise_distances(first_ND: Any, second_MD: Any) -> Any:
    return np.sqrt(((first_ND[:, None].astype(float) - second_MD[None].astype(float)) ** 2).sum(2))


def test_near_duplicates_are_those_of_all_pairs(monkeypatch: Any) -> None:
    rng = np.random.default_rng(0)
    pool_ND = rng.integers(0, 256, (300, THUMBNAIL_SIDE**2), np.uint8)
    for first, second in ((5, 6), (40, 250), (41, 251)):
        pool_ND[second] = pool_ND[first]
    pool_ND[100:130] = (pool_ND[:30].astype(int) + rng.integers(-3, 4, (30, THUMBNAIL_SIDE**2))).clip(0, 255)
    test_MD = rng.integers(0, 256, (50, THUMBNAIL_SIDE**2), np.uint8)
    test_MD[:40] = (pool_ND[60:100].astype(int) + rng.integers(-3, 4, (40, THUMBNAIL_SIDE**2))).clip(0, 255)
    limit = MAX_NEAR_DISTANCE * THUMBNAIL_SIDE
    pool_distances_NN, test_distances_MN = (pairwise_distances(part, pool_ND) for part in (pool_ND, test_MD))
    expected_N = np.array(
        [
            min((index for index in np.flatnonzero(row_N == row_N.min())), default=300) if row_N.min() < limit else 300
            for row_N in test_distances_MN
        ]
    )
    has_other_N = np.array([(np.delete(row_N, place) < limit).any() for place, row_N in enumerate(pool_distances_NN)])
    assert 30 < has_other_N.sum() < 100
    assert 10 < (expected_N < 300).sum() < 50
    for _ in range(2):
        other_N, other_test_M = near_duplicates(pool_ND, test_MD)
        assert np.array_equal(other_test_M, expected_N)
        assert np.array_equal(other_N < 300, has_other_N)
        rows_N = np.flatnonzero(has_other_N)
        assert (pool_distances_NN[rows_N, other_N[rows_N]] < limit).all()
        monkeypatch.setattr("benchmark.vision.data.duplicates.nth_nearest", deny(OSError(0, "searched again")))
