"""Certification in shards, as Snakemake jobs."""

import shutil
from pathlib import Path

from running import ROOT, TINY, dry, snakemake

LOG = "results/certificates/mnist5k/test/cohen/ds2/sigma_0.25.K_20.tsv"


def test_shards_are_jobs_and_leave_no_trace(tiny: Path, warm: Path, tmp_path: Path) -> None:
    """With `shards: 3` three jobs certify every third image and one merges them, into the bytes of the one job; their logs are gone."""
    for part in ("data", "results/models", "results/sigmas"):
        shutil.copytree(tiny / part, tmp_path / part)
    overlay = tmp_path / "shards.yaml"
    overlay.write_text("certify: {mnist5k: {shards: 3}}\ndatasets: {mnist5k: {images: {test: 4, validation: 3}}}\n")
    snakemake("--cores", 2, "--configfile", TINY, overlay, "--", LOG, folder=tmp_path, config=None, programs=warm)
    assert all((tmp_path / f"logs/certify/mnist5k/test/cohen/ds2/sigma_0.25.K_20.{i}-of-3.log").exists() for i in (1, 2, 3))
    assert (tmp_path / LOG).read_bytes() == (tiny / LOG).read_bytes()
    assert not list((tmp_path / "scratch").rglob("*.tsv"))


def test_more_shards_than_images_is_one_line_before_any_work(tmp_path: Path) -> None:
    overlay = tmp_path / "shards.yaml"
    overlay.write_text("certify: {mnist5k: {shards: 3}}\n")
    words = ("--configfile", ROOT / "tests/configs/tiny.yaml", overlay, "--", LOG)
    done = dry(*words, folder=tmp_path, config=None, check=False)
    assert done.returncode and "certify.mnist5k.shards: 3 is above the 2 images of a split" in done.stdout + done.stderr
