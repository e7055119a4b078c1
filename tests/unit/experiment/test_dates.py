"""A file that is dated after now is refused before a run."""

import os
import time
from pathlib import Path

import pytest

from ddrs.errors import DdrsError
from ddrs.experiment.preflight import check_dates
from tests.unit.helpers import one_line


def test_a_file_of_the_future_is_named_with_what_mends_it(tmp_path: Path):
    path = tmp_path / "sigma 0.25.safetensors"
    path.touch()
    check_dates([path, tmp_path / "missing"])
    later = time.time() + 3600
    os.utime(path, (later, later))
    with pytest.raises(DdrsError, match=r"is dated 3,600 seconds after now; set the clock right, or `touch '.*sigma 0.25.safetensors'`") as error:
        check_dates([path])
    one_line(error)


def test_a_clock_that_is_a_second_ahead_is_no_fault(tmp_path: Path):
    path = tmp_path / "model"
    path.touch()
    later = time.time() + 1
    os.utime(path, (later, later))
    check_dates([path])
