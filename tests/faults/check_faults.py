"""Whatever happens to a step, its next run ends with the bytes of an undisturbed one, and with nothing else in its folder."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from tests.faults.steps import STEPS, contents, ended, finish, killed_after, killed_when, start, stopped
from tests.unit.data.test_imagefolder import write_folder

SEED = int(os.environ.get("FAULTS_SEED", time.time_ns() % 10**6))
POINTS = int(os.environ.get("FAULTS_POINTS", "8"))
every_step = pytest.mark.parametrize("name", STEPS)


@pytest.fixture(scope="session", autouse=True)
def seed() -> None:
    print(f"\nFAULTS_SEED={SEED}")


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Random choices of one trial, the same for a seed whichever others run."""
    return random.Random(f"{SEED} {request.node.name}")


@pytest.fixture(scope="session")
def world(small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the inputs of all steps are."""
    folder = tmp_path_factory.mktemp("world")
    for path in small_mnist.parent.iterdir():
        (folder / path.name).symlink_to(path)
    write_folder(folder / "pets", count=60)
    for splits in (folder / "pets").iterdir():
        for picture in (splits / "a bird").iterdir():
            picture.unlink()
        (splits / "a bird").rmdir()
    finish(STEPS["train"].command(folder, folder))
    (folder / "scratch").rmdir()
    return folder


Whole = dict[str, tuple[dict[str, bytes], float, int]]


@pytest.fixture(scope="session")
def whole(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """Of each step what an undisturbed run leaves, how many seconds it takes, and how many file operations."""
    found = {}
    for name, step in STEPS.items():
        folder, began = tmp_path_factory.mktemp(name) / "out", time.monotonic()
        folder.mkdir()
        code, complained, operations = stopped(step.command(world, folder), folder, "none", 0)
        assert code == 0 and operations > 3, complained
        found[name] = contents(folder), time.monotonic() - began, operations
        assert set(found[name][0]) == set(step.outputs)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def points(operations: int, chance: random.Random) -> list[int]:
    """Some of a step's file operations: the last, which are renames and removals, and others by chance."""
    last = range(max(1, operations - POINTS // 2 + 1), operations + 1)
    return sorted({*last, *chance.sample(range(1, operations + 1), min(POINTS, operations))} - {0})[-POINTS:]


@every_step
def test_killed_at_random_moments(name: str, world: Path, whole: Whole, folder: Path, chance: random.Random):
    words, (expected, seconds, _) = STEPS[name].command(world, folder), whole[name]
    for _ in range(4):
        if not killed_after(words, chance.uniform(0.3, 1) * seconds):
            break
    finish(words)
    assert contents(folder) == expected


@every_step
def test_killed_at_file_operations(name: str, world: Path, whole: Whole, tmp_path: Path, chance: random.Random):
    expected, _, operations = whole[name]
    for at in points(operations, chance):
        folder = tmp_path / f"{at}" / "out"
        folder.mkdir(parents=True)
        words = STEPS[name].command(world, folder)
        code, complained, _ = stopped(words, folder, "kill", at)
        assert code == -signal.SIGKILL, (at, complained)
        torn = {file for file in STEPS[name].outputs if (folder / file).exists() and (folder / file).read_bytes() != expected[file]}
        assert torn == set(), f"before operation {at}"
        finish(words)
        assert contents(folder) == expected, f"killed before operation {at}"


@every_step
def test_a_disk_that_fills_up(name: str, world: Path, whole: Whole, tmp_path: Path, chance: random.Random):
    expected, _, operations = whole[name]
    for at in points(operations, chance)[:: max(1, POINTS // 4)]:
        folder = tmp_path / f"{at}" / "out"
        folder.mkdir(parents=True)
        words = STEPS[name].command(world, folder)
        code, complained, _ = stopped(words, folder, "full", at)
        if code:  # else nothing was opened from there on
            assert code == 2 and complained.count("\n") == 1 and "the disk is full" in complained, (at, complained)
        finish(words)
        assert contents(folder) == expected, f"full from operation {at} on"


@every_step
@pytest.mark.parametrize("trial", range(2))
def test_twins(name: str, trial: int, world: Path, whole: Whole, folder: Path, chance: random.Random):
    words, (expected, seconds, _) = STEPS[name].command(world, folder), whole[name]
    one = start(words)
    time.sleep(trial * chance.uniform(0, seconds))
    two = start(words)
    for process in (one, two):
        code, _, complained = ended(process)
        assert (code, complained) == (0, "")
    assert contents(folder) == expected


@every_step
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_a_damaged_partial_state(name: str, damage: str, world: Path, whole: Whole, folder: Path, chance: random.Random):
    words, (expected, _, operations) = STEPS[name].command(world, folder), whole[name]
    code, complained, _ = stopped(words, folder, "kill", operations * 2 // 3)
    assert code == -signal.SIGKILL, complained
    partial = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith((".tmp", "labels.npy")))
    assert partial
    path = chance.choice(partial)
    data = bytearray(path.read_bytes())
    head = data.index(b"\n") + 1 if path.suffix == ".tsv" else 128  # an array's is written at the end, a log's is not read
    place = chance.randrange(head, len(data))
    if damage == "flip":
        data[place] ^= 1 << chance.randrange(8)
    else:
        del data[place:]
    path.write_bytes(data)
    said = finish(words)
    assert contents(folder) == expected, (path, place)
    torn = path.suffix == ".tsv" and (damage == "cut" or data[-1:] != b"\n")  # as a log is left by any kill
    unrecorded = path.name.endswith(".images.npy")  # images that were not recorded yet are no state
    words_of_it = "were damaged or changed" if path.suffix == ".tsv" else "is damaged"
    assert words_of_it in said or torn or unrecorded, (path, place, said)


@pytest.mark.parametrize("name", ["train", "sigma"])
def test_stale_temporaries(name: str, world: Path, whole: Whole, folder: Path):
    words = STEPS[name].command(world, folder)
    killed_when(words, lambda: list(folder.rglob(".*.tmp")))
    if list(folder.rglob(".*.tmp")):  # else the rename was faster than the kill
        finish(words)
    finish(words)
    assert contents(folder) == whole[name][0]
