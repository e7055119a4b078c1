"""Figures 1, 2 and 6 to 9 as targets: what each needs and no more, and what the finished run drew."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from running import dry
from test_dag import planned

from ddrs.certification.records import read_log

NEEDS = {
    "figure1": {"illustrate": 1},
    "figure2": {"illustrate": 1},
    "figure6": {"fetch": 1, "train": 2, "sigma": 2, "certify": 8, "remember_mnist5k": 2, "examples": 1},
    # 7 panels: K = 0 beside the tables' 3 K, which the memory sees of a DS2 model only: of the 4 DS models it is row FS
    "figure7": {"fetch": 1, "train": 5, "finetune": 3, "sigma": 7, "certify": 28, "remember_mnist5k": 7, "remember_run_mnist5k": 3, "figure": 1},
    # 3 sigmas, each fixed, with Algorithm 1 and with 4 grids
    "figure8": {"fetch": 1, "train": 3, "sigma": 15, "certify": 18, "remember_run_mnist5k": 15, "figure": 1},
    "figure9": {"fetch": 1, "train": 2, "sigma": 2, "certify": 8, "remember_mnist5k": 2, "examples": 1},
}


@pytest.mark.parametrize("figure", NEEDS)
def test_a_figure_needs_its_own_logs_only(figure: str, tmp_path: Path) -> None:
    """The memory passes all K of a row's table at once; the others one by one."""
    assert planned(dry("--quiet", "rules", "--", f"results/{figure}.png", folder=tmp_path, config=None).stdout) == NEEDS[figure]


def test_a_grid_that_no_figure_has_is_one_line(tmp_path: Path) -> None:
    target = "results/sigmas/mnist5k/test/smoothadv/gds/sigma_0.50.K_40.parquet"
    done = dry(target, folder=tmp_path, config=None, check=False)
    assert done.returncode != 0 and "figures.figure8 has no grid of 40 points for smoothadv on mnist5k" in done.stdout + done.stderr


def test_all_figures_were_drawn(tiny: Path) -> None:
    for number in range(1, 10):
        assert (tiny / f"results/figure{number}.png").read_bytes().startswith(b"\x89PNG")
        assert (tiny / f"results/figure{number}.pdf").read_bytes().startswith(b"%PDF")


def test_figures_are_shown_with_captions_that_hold_the_memorys_counts(tiny: Path) -> None:
    """The promise of the memory, its counts and how the models were made, below the picture; Figures 1 and 2 are of no experiment."""
    for name in (*(f"figure{number}" for number in range(1, 10)), *(f"p_lower_table{number}" for number in range(1, 5))):
        caption, page = (tiny / f"results/captions/{name}.md").read_text(), (tiny / f"results/pages/{name}.html").read_text()
        title = f"Figure {name[-1]}" if name.startswith("figure") else f"p_lower of Table {name[-1]}"
        assert caption.startswith(f"**{title}.** ") and f"<strong>{title}.</strong>" in page and 'src="data:image/png;base64,' in page
        if name in ("figure1", "figure2"):
            assert "alpha = 0.001 per input" in caption
        else:
            for words in ("mnist5k: 4 test images, protocol fixed", "Memory passes of how many entries", "on mnist5k: Models: small_cnn, "):
                assert words in caption, name
            assert "it promises nothing about correctness" in caption
    assert "200 evaluations" not in (tiny / "results/captions/figure8.md").read_text()
    assert "budget of 8 evaluations" in (tiny / "results/captions/figure8.md").read_text()


def test_step_0_is_certified_at_the_start_of_the_trajectory(tiny: Path) -> None:
    log = read_log(tiny / "results/memory/mnist5k/test/smoothadv/ds2/sigma_0.25.K_0.tsv")
    assert (log.constant("method"), log.constant("K"), set(log.table["sigma"])) == ("smoothadv-ds2", "0", {0.25})
    assert not (tiny / "results/memory/mnist5k/test/yang/ds/sigma_0.50.K_0.tsv").exists(), "of a DS model it is row FS"


def test_the_grids_of_figure_8_share_the_budget_of_algorithm_1(tiny: Path) -> None:
    """Tiny: 4 steps with n = 1 are 8 evaluations: a grid of 8 points with n = 1, or of 4 with n = 2."""
    for sigma in ("0.25", "0.50"):
        for points in (8, 4):
            name = f"mnist5k/test/smoothadv/gds/sigma_{sigma}.K_{points}"
            found = pq.read_table(tiny / f"results/sigmas/{name}.parquet").to_pandas()
            assert set(found.loc[found["K"] == points, "sigma_star"] * points) <= set(range(1, points + 1))
            log = read_log(tiny / f"results/memory/{name}.tsv")
            assert (log.constant("method"), log.constant("K"), log.constant("sigma0")) == ("smoothadv-gds", str(points), float(sigma))
            assert len(log.table) == 4 and "memory" in log.table
