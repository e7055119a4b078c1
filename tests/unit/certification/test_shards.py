"""Shards of a certification: together they are the log of one run, byte for byte, or merging says what is wrong with them."""

from pathlib import Path

import pytest

from ddrs.certification.settings import ImageCertificateSettings
from ddrs.certification.shards import Shard, merge_shards
from ddrs.errors import DdrsError
from ddrs.memory.remember import remember
from tests.unit.helpers import certify_files, write_log, write_plain

RUNS = {
    "fixed": {},
    "joint on the lattice": {"bound": "joint", "noise": "lattice"},
    "two-stage": {"protocol": "two-stage"},
    "sequential": {"protocol": "sequential", "radii": [0.0, 0.1, 0.25]},
}


def certified(model: Path, data: Path, folder: Path, count: int, **settings: object) -> list[Path]:
    """The logs of all shards of seven images, each from a folder of its own."""
    sampling = ImageCertificateSettings(**{"n0": 20, "n": 300, "alpha": 0.01, **settings})  # type: ignore[arg-type]
    return [
        certify_files(model, data, folder / f"{i}-of-{count}", settings=sampling, images=7, shard=Shard(i, count), batch_size=16 * i)
        for i in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def three(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return certified(trained, small_mnist, tmp_path_factory.mktemp("three"), 3)


@pytest.mark.parametrize("kind", RUNS)
def test_shards_merge_to_the_log_of_one_run(kind: str, trained: Path, small_mnist: Path, tmp_path: Path):
    """In any order of the shards, and at a batch size per shard."""
    (whole,) = certified(trained, small_mnist, tmp_path, 1, **RUNS[kind])
    for count in (3, 7):
        shards = certified(trained, small_mnist, tmp_path, count, **RUNS[kind])
        assert merge_shards(shards[::-1], tmp_path / "merged.tsv") == 7
        assert (tmp_path / "merged.tsv").read_bytes() == whole.read_bytes()


def test_shards_share_a_scratch_folder(three: list[Path], trained: Path, small_mnist: Path, tmp_path: Path):
    """Each has a partial file of its own: one that is stopped half-way is not continued by another."""

    class StoppedError(Exception):
        pass

    def stop(line: str) -> None:
        if line.startswith("2/"):
            raise StoppedError

    settings = ImageCertificateSettings(n0=20, n=300, alpha=0.01)
    with pytest.raises(StoppedError):
        certify_files(trained, small_mnist, tmp_path, stop, settings, images=7, shard=Shard(1, 3), batch_size=16)
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    said: list[str] = []
    second = certify_files(trained, small_mnist, tmp_path, said.append, settings, images=7, shard=Shard(2, 3), name="second.tsv")
    assert not any("resuming" in line for line in said) and second.read_bytes() == three[1].read_bytes()
    first = certify_files(trained, small_mnist, tmp_path, said.append, settings, images=7, shard=Shard(1, 3), name="first.tsv")
    assert any(line.startswith("resuming: 2 images") for line in said) and first.read_bytes() == three[0].read_bytes()


def refused(shards: list[Path], out: Path, message: str) -> None:
    """One line, and what stood at `out` is as it was."""
    out.write_text("an older log")
    with pytest.raises(DdrsError, match=message) as caught:
        merge_shards(shards, out)
    assert "\n" not in str(caught.value) and out.read_text() == "an older log"


@pytest.mark.parametrize("missing", [0, 1, 2])
def test_a_missing_shard_is_refused(missing: int, three: list[Path], tmp_path: Path):
    refused([path for i, path in enumerate(three) if i != missing], tmp_path / "out.tsv", "missing")


def test_a_single_shard_of_several_is_refused(three: list[Path], tmp_path: Path):
    refused(three[:1], tmp_path / "out.tsv", "missing")


def test_a_doubled_shard_is_refused(three: list[Path], tmp_path: Path):
    refused([*three, three[1]], tmp_path / "out.tsv", "is shard 2/3 of 7, as")


def test_a_shard_of_another_run_is_refused(three: list[Path], trained: Path, small_mnist: Path, tmp_path: Path):
    other = certified(trained, small_mnist, tmp_path, 3, alpha=0.02)
    refused([*three[:2], other[2]], tmp_path / "out.tsv", "is of another run than")


def test_a_shard_of_another_division_is_refused(three: list[Path], trained: Path, small_mnist: Path, tmp_path: Path):
    refused([three[0], certified(trained, small_mnist, tmp_path, 2)[1]], tmp_path / "out.tsv", "shard")


def test_shards_of_another_number_of_images_are_refused(three: list[Path], trained: Path, small_mnist: Path, tmp_path: Path):
    """Their settings are the same, and so is their digest."""
    settings = ImageCertificateSettings(n0=20, n=300, alpha=0.01)
    other = certify_files(trained, small_mnist, tmp_path / "other", settings=settings, images=8, shard=Shard(3, 3), batch_size=16)
    refused([*three[:2], other], tmp_path / "out.tsv", "missing: 3/3 of 7")


def test_the_memory_takes_no_shard(three: list[Path], small_mnist: Path, tmp_path: Path):
    with pytest.raises(DdrsError, match="is shard 2/3 of 7; the memory takes the merged log"):
        remember(three[1], small_mnist, tmp_path / "memory.tsv")


@pytest.mark.usefixtures("invented_radii")
def test_a_log_of_others_and_one_after_the_memory_are_refused(tmp_path: Path):
    plain = write_plain(tmp_path / "plain.tsv", [(0, 1, 1, 0.5, 1, "0:00:01")])
    refused([plain], tmp_path / "out.tsv", "plain.tsv: not a log of `ddrs certify --shard`")
    remembered = write_log(tmp_path / "memory.tsv", [(0, 1, 1, 0.5)], memory="kept")
    refused([remembered], tmp_path / "out.tsv", "memory.tsv: not a log of `ddrs certify --shard`")


@pytest.mark.parametrize("text", ["", "1", "1/", "/1", "0/1", "2/1", "1/0", "-1/2", "1/2/3", "a/b", "1.0/2", "¹/²", " 1/2"])
def test_what_is_no_shard_is_refused(text: str):
    with pytest.raises(DdrsError, match="must be I/N with 1 <= I <= N"):
        Shard.parse(text)


def test_shards_take_turns(trained: Path, small_mnist: Path, three: list[Path], tmp_path: Path):
    """Every N-th image from the I-th on; more shards than images is one line."""
    assert Shard.parse("2/3") == Shard(2, 3)
    assert [[int(line.split("\t")[0]) for line in path.read_text().splitlines()[1:]] for path in three] == [[0, 12, 25], [4, 17], [8, 21]]
    with pytest.raises(DdrsError, match="--shard 8/8: 8 shards of 7 images; at most one shard per image"):
        certify_files(trained, small_mnist, tmp_path, images=7, shard=Shard(8, 8))
