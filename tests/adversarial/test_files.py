"""Files of ours that were changed by hand or by a disk, as one table each: a name, the edit, and what must be said of it.

None may end in a number: whoever reads a file refuses it in one line, or, where it can be computed again, says so and does.
"""

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ddrs.errors import DdrsError
from ddrs.files import write_bytes
from ddrs.models.devices import Runtime
from ddrs.provenance.digests import digest
from ddrs.results.cells import read_cells
from ddrs.results.row_cells import write_cells
from ddrs.sigma.run import search
from ddrs.sigma.settings import SearchSettings
from ddrs.sigma.stored import content_digest, read_sigmas
from ddrs.statistics.boundaries import boundaries
from tests.unit.helpers import write_log

SEARCH = SearchSettings(step_size=0.05, k_max=4, sigma_max=0.3, samples=1, batch_size=2)


def refused(path: Path, read: Callable[[], object], message: str) -> None:
    with pytest.raises(DdrsError) as error:
        read()
    assert str(path) in str(error.value) and message in str(error.value) and "\n" not in str(error.value)


@pytest.fixture(scope="module")
def sigma_file(trained: Path, small_mnist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sigmas")
    search(trained, small_mnist, folder / "sigmas.parquet", SEARCH, "test", 4, 0, Runtime(scratch=folder), lambda line: None)
    return folder / "sigmas.parquet"


def put(frame: pd.DataFrame, row: int, column: str, value: float) -> pd.DataFrame:
    frame.loc[row, column] = value
    return frame


Facts = dict
TRAJECTORIES: list[tuple[str, Callable[[pd.DataFrame, Facts], pd.DataFrame | None], bool, str]] = [
    # name, edit of the table or of the facts, whether the digest is made anew as a faulty search would, what must be said
    ("a sigma", lambda table, facts: put(table, 9, "sigma_star", 0.26), False, "was changed after it was written"),
    ("the last bit of a sigma", lambda t, f: put(t, 9, "sigma_star", np.nextafter(t.sigma_star[9], np.float32(0.2))), False, "was changed"),
    ("sigma NaN", lambda t, f: put(t, 9, "sigma_star", np.nan), True, "at K = 4: must be within [0.001"),
    ("sigma infinite", lambda t, f: put(t, 9, "sigma_star", np.inf), True, "sigma inf of idx"),
    ("sigma 0", lambda t, f: put(t, 9, "sigma_star", 0), True, "must be within"),
    ("sigma negative", lambda t, f: put(t, 9, "sigma_star", -0.25), True, "must be within"),
    ("sigma above sigma_max", lambda t, f: put(t, 9, "sigma_star", 0.31), True, "must be within"),
    ("another start", lambda t, f: put(t, 5, "sigma_star", 0.26), True, "must have sigma_0 = 0.25"),
    ("another sigma0", lambda t, f: f.update(sigma0=0.5), False, "must have sigma_0 = 0.5"),
    ("another sigma_max", lambda t, f: f["settings"].update(sigma_max=3.0), False, "was changed"),
    ("another k_max", lambda t, f: f["settings"].update(k_max=3), True, "every K from 0 to 3"),
    ("k_max of text", lambda t, f: f["settings"].update(k_max="many"), True, "not a readable sigma file"),
    ("settings gone", lambda t, f: f.pop("settings") and None, True, "not a readable sigma file"),
    ("another row", lambda t, f: f.update(row="gds"), False, "was changed"),
    ("another model", lambda t, f: f.update(model="0" * 64), False, "was changed"),
    ("another count", lambda t, f: f.update(changed_class=99), False, "was changed"),
    ("no digest", lambda t, f: f.pop("content") and None, False, "or is of an older ddrs; search again"),
    ("a row less", lambda t, f: t.drop(9), True, "every K from 0 to 4"),
    ("an image less", lambda t, f: t[t.idx != 0], False, "was changed"),
    ("no rows", lambda t, f: t[:0], True, "every K from 0 to 4"),
    ("rows in another order", lambda t, f: t[::-1], True, "every K from 0 to 4"),
    ("two trajectories exchanged", lambda t, f: t.assign(idx=t.idx.to_numpy()[::-1]), False, "was changed"),
    ("an image twice", lambda t, f: t.assign(idx=np.int32(7)), True, "an image twice"),
    ("a negative idx", lambda t, f: t.assign(idx=t.idx - np.int32(1)), True, "a negative idx"),
    ("float64 sigmas", lambda t, f: t.astype({"sigma_star": float}), True, "its columns must be"),
    ("an empty field", lambda t, f: put(t, 9, "idx", np.nan).astype({"idx": "Int32"}), True, "empty fields"),
]


@pytest.mark.parametrize(("edit", "signed", "message"), [one[1:] for one in TRAJECTORIES], ids=[one[0] for one in TRAJECTORIES])
def test_an_edited_trajectory_is_refused(edit: Callable, signed: bool, message: str, sigma_file: Path, tmp_path: Path):
    table = pq.read_table(sigma_file)
    facts = json.loads(table.schema.metadata[b"ddrs"])
    frame = table.to_pandas()
    changed = edit(frame, facts)
    columns = (frame if changed is None else changed).items()
    new = pa.table({name: pa.array(one.to_numpy() if one.dtype.kind == "f" else one) for name, one in columns})  # NaN is no empty field
    if signed and not any(column.null_count for column in new.columns):
        facts["content"] = content_digest(new, {name: value for name, value in facts.items() if name != "content"})
    path = tmp_path / "sigmas.parquet"
    pq.write_table(new.replace_schema_metadata({"ddrs": json.dumps(facts)}), path)
    refused(path, lambda: read_sigmas(path, 4, np.array([15]), {}), message)


def test_an_unedited_trajectory_is_read(sigma_file: Path):
    found, sigma0, strategy = read_sigmas(sigma_file, 4, np.array([0, 7, 15, 22]), {})
    assert sigma0 == 0.25 and strategy == "ascent" and len(found) == 4


PARTIALS: list[tuple[str, Callable[[dict], dict]]] = [
    ("a sigma", lambda content: {**content, "sigma": np.minimum(content["sigma"] * np.float32(1.01), np.float32(0.3))}),
    ("a count", lambda content: {**content, "changed": content["changed"] + 1}),
    ("fewer steps", lambda content: {**content, "sigma": content["sigma"][:-1]}),
    ("fewer images", lambda content: {**content, "sigma": content["sigma"][:, :1]}),
    ("float64", lambda content: {**content, "sigma": content["sigma"].astype(float)}),
]


class StopError(Exception):
    pass


def stopped(trained: Path, data: Path, folder: Path) -> Path:
    """The partial result of a search's first batch, killed in the second."""

    def say(line: str) -> None:
        if line.startswith("images 3 to"):
            raise StopError

    with pytest.raises(StopError):
        search(trained, data, folder / "sigmas.parquet", SEARCH, "test", 4, 0, Runtime(scratch=folder / "scratch"), say)
    (path,) = (folder / "scratch").glob("sigma-*.0.npz")
    return path


def edited(path: Path, edit: Callable) -> bytes:
    """The bytes of a partial file with other content and the seal of before."""
    data = path.read_bytes()
    content = BytesIO()
    np.savez(content, **edit(dict(np.load(BytesIO(data[:-32])))))
    return content.getvalue() + data[-32:]


@pytest.mark.parametrize("edit", [one[1] for one in PARTIALS], ids=[one[0] for one in PARTIALS])
def test_an_edited_partial_search_is_searched_again(edit: Callable, sigma_file: Path, trained: Path, small_mnist: Path, tmp_path: Path):
    path = stopped(trained, small_mnist, tmp_path)
    write_bytes(path, edited(path, edit))
    said: list[str] = []
    search(trained, small_mnist, tmp_path / "sigmas.parquet", SEARCH, "test", 4, 0, Runtime(scratch=tmp_path / "scratch"), said.append)
    assert (tmp_path / "sigmas.parquet").read_bytes() == sigma_file.read_bytes()
    assert said[0] == f"{path}: is damaged: its bytes are not those that were written; searching its images again"


def test_a_partial_search_of_another_batch_is_searched_again(sigma_file: Path, trained: Path, small_mnist: Path, tmp_path: Path):
    path = stopped(trained, small_mnist, tmp_path)
    other = path.with_name(path.name.replace(".0.npz", ".2.npz"))
    path.rename(other)
    said: list[str] = []
    search(trained, small_mnist, tmp_path / "sigmas.parquet", SEARCH, "test", 4, 0, Runtime(scratch=tmp_path / "scratch"), said.append)
    assert (tmp_path / "sigmas.parquet").read_bytes() == sigma_file.read_bytes()
    assert said[0] == f"{other}: is of the images from 0 on; searching its images again"


@pytest.fixture
def cells(tmp_path: Path, invented_radii: None) -> list[Path]:
    """The cells of one row: 6 of 8 images are certified at 0.75."""
    log = write_log(tmp_path / "log.tsv", [(i, 1, 1 if i < 6 else -1, 0.75 if i < 6 else 0.0) for i in range(8)])
    write_cells([log], "table1", "cohen", [0.0, 0.5, 1.0], tmp_path / "cells", seed=0)
    return [tmp_path / "cells" / f"{column}.json" for column in ("0.00", "0.50", "1.00", "acr")]


CELLS: list[tuple[str, str, dict, bool, str]] = [  # name, which cell, what is put into it, whether its digest is made anew, what must be said
    ("a value", "0.50", {"value": 87.5}, False, "was changed after it was written"),
    ("a print", "acr", {"paper": 0.1}, False, "was changed after it was written"),
    ("no digest", "0.50", {"digest": None}, False, "was changed after it was written"),
    ("NaN", "0.50", {"value": float("nan")}, False, "not a cell file"),
    ("signed: text for a value", "0.50", {"value": "75"}, True, "not a cell file"),
    ("signed: true for a value", "0.50", {"value": True}, True, "not a cell file"),
    ("signed: no interval", "0.50", {"interval": None}, True, "not a cell file"),
    ("signed: an interval of three", "0.50", {"interval": [0, 75.0, 100]}, True, "not a cell file"),
    ("signed: half an image", "0.50", {"images": 8.5}, True, "not a cell file"),
    ("signed: no images", "0.50", {"images": 0}, True, "not a cell file"),
    ("signed: above 100 %", "0.50", {"value": 112.5, "interval": [40, 120]}, True, "must be within [0, 100]"),
    ("signed: below 0", "acr", {"value": -0.5, "interval": [-1, 1]}, True, "must be within [0, inf]"),
    ("signed: an interval the wrong way round", "0.50", {"interval": [90, 40]}, True, "must be within [0, 100]"),
    ("signed: a value outside its interval", "0.50", {"interval": [80, 90]}, True, "outside its own interval"),
    ("signed: an ACR above its interval", "acr", {"value": 12.9}, True, "outside its own interval"),
    ("signed: no share of the images", "0.50", {"value": 74.0}, True, "no share of 8 images"),
    ("signed: more than at a smaller radius", "0.50", {"value": 87.5}, True, "more than"),
    ("signed: an ACR below what a column makes", "acr", {"value": 0.3, "interval": [0.1, 0.7]}, True, "less than the 75.0 %"),
    ("signed: another verdict", "0.50", {"verdict": "within"}, True, "another print, difference or verdict"),
    ("signed: another print", "0.50", {"paper": 75.0}, True, "another print, difference or verdict"),
    ("signed: a column of text", "0.50", {"column": "half"}, True, "not a cell file"),
    ("signed: a column that is no grid's", "0.50", {"column": "0.5"}, True, "has column '0.5'"),
    ("signed: a negative column", "0.50", {"column": "-0.50"}, True, "has column '-0.50'"),
    ("signed: of other logs", "0.50", {"digests": {"log.tsv": "0" * 64}}, True, "has digests"),
    ("signed: another alpha", "0.50", {"alpha": 0.05}, True, "has alpha 0.05"),
    ("signed: another seed", "0.50", {"seed": 3}, True, "has seed 3"),
]


@pytest.mark.parametrize(("column", "change", "signed", "message"), [one[1:] for one in CELLS], ids=[one[0] for one in CELLS])
def test_an_edited_cell_is_refused(column: str, change: dict, signed: bool, message: str, cells: list[Path]):
    (path,) = (one for one in cells if one.stem == column)
    cell = {**json.loads(path.read_text()), **change}
    if signed:
        cell["digest"] = digest({name: value for name, value in cell.items() if name != "digest"})
    path.write_text(json.dumps(cell))
    refused(path, lambda: read_cells(cells), message)


@pytest.mark.parametrize("name", ["value", "interval", "digests", "noise", "choice", "verdict", "table", "kind"])
def test_a_cell_that_lacks_a_field_is_refused(name: str, cells: list[Path]):
    cell = json.loads(cells[0].read_text())
    del cell[name], cell["digest"]
    cells[0].write_text(json.dumps({**cell, "digest": digest(cell)}))
    refused(cells[0], lambda: read_cells(cells), f"lacks {name!r}")


def test_unedited_cells_are_read(cells: list[Path]):
    assert [cell["value"] for cell in read_cells(cells)] == [75.0, 75.0, 0.0, 0.5625]


BOUNDARIES: list[tuple[str, Callable[[dict], dict], str]] = [  # name, edit of a file of the cache, what is said
    ("votes that certify", lambda content: {**content, "certify_at": content["certify_at"] // 2 + 1}, "changed after they were written"),
    ("one vote less", lambda content: {**content, "certify_at": content["certify_at"] - 1}, "changed after they were written"),
    ("giving up", lambda content: {**content, "give_up_at": content["give_up_at"] * 0 - 1}, "changed after they were written"),
    ("the looks", lambda content: {**content, "looks": content["looks"] * 2}, "changed after they were written"),
    ("the key", lambda content: {**content, "identity": str(content["identity"]).replace("0.001", "0.05")}, "made for another key"),
    ("no digest", lambda content: {name: content[name] for name in content if name != "content"}, "damaged"),
]


@pytest.mark.parametrize(("edit", "message"), [one[1:] for one in BOUNDARIES], ids=[one[0] for one in BOUNDARIES])
def test_edited_boundaries_are_computed_again(edit: Callable, message: str, tmp_path: Path):
    whole = boundaries(1e-3, 300, cache=tmp_path / "one")
    (path,) = (tmp_path / "one").iterdir()
    (tmp_path / "two").mkdir()
    changed = tmp_path / "two" / path.name
    np.savez(changed, **edit(dict(np.load(path))))
    with pytest.warns(UserWarning, match=message):
        found = boundaries(1e-3, 300, cache=tmp_path / "two")
    assert np.array_equal(found.certify_at, whole.certify_at) and np.array_equal(found.give_up_at, whole.give_up_at)
    assert str(np.load(changed)["content"]) == str(np.load(path)["content"]), "replaced"
