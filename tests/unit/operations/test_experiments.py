"""`dvc exp run --temp` and `--queue` are refused in one line that says what to use."""

from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.operations.sync import check_records
from tests.unit.helpers import one_line


@pytest.mark.parametrize("folder", [".dvc/tmp/exps/tmpabc123", ".dvc/tmp/exps/standalone/tmpabc123"])
def test_an_experiment_in_a_folder_of_dvcs_says_what_to_use(folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    place = tmp_path / folder
    (place / "results").mkdir(parents=True)
    monkeypatch.chdir(place)
    check_records(True, print, lambda path: True)
    (place / "results/table2.csv").touch()
    with pytest.raises(DdrsError, match="use `dvc exp run` without either, beside another in a clone: `git clone`, `ddrs sync`") as error:
        check_records(True, print, lambda path: True)
    one_line(error)
