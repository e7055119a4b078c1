"""Two clones and a shared DVC remote, a folder and S3: what one has run, the other neither runs again nor takes on trust."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from running import ROOT, TINY

SMALL = """
tables: {table1: [], table2: [], table3: [], table4: [mnist5k]}
figures: {figure6: [], figure7: [], figure8: [], figure9: []}
datasets: {mnist5k: {images: {test: 2, validation: 2}, uniform: {sigmas: [0.50], radii: [0.0]}}}
certify: {mnist5k: {k: [5]}}
"""
MODEL = "results/models/mnist5k/yang/fs/sigma_{}.safetensors"
AWS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true"}
AWS["AWS_MAX_ATTEMPTS"] = "1"  # a server that is not there is waited for by DVC's own attempts alone, not by five of each of them
GIT = {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}


def run(folder: Path, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command of this environment in a clone, with the clone's own code."""
    environment = {**os.environ, **AWS, **GIT, "PYTHONPATH": str(folder / "src")}
    done = subprocess.run([*map(str, words)], cwd=folder, capture_output=True, text=True, env=environment, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(map(str, words))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}")
    return done


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", "commit", "--quiet", "--message", message)


def clone(source: Path, folder: Path) -> Path:
    run(source.parent, "git", "clone", "--quiet", source, folder)
    return folder


def results(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted((folder / "results").rglob("*")) if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    """When results and Snakemake's records were last written."""
    return {str(path): path.stat().st_mtime_ns for part in ("results", ".snakemake/metadata") for path in (folder / part).rglob("*")}


def nothing_to_do(folder: Path) -> bool:
    planned = run(folder, "snakemake", "-n", "paper")
    repro = run(folder, "dvc", "repro").stdout
    return "Nothing to be done" in planned.stdout + planned.stderr and repro.count("didn't change, skipping") == 3 and "Running" not in repro


@pytest.fixture(scope="module", autouse=True)
def programs(warm: Path) -> Iterator[None]:
    """First on the PATH."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{warm}{os.pathsep}{os.environ['PATH']}")
        yield


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the smallest experiment, run by `dvc repro` and pushed to a folder."""
    place = tmp_path_factory.mktemp("remote")
    folder = place / "first"
    listed = subprocess.run(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    (folder / "dvc.lock").unlink(missing_ok=True)
    run(folder, "git", "init", "--quiet")
    commit(folder, "Start")
    (place / "small.yaml").write_text(SMALL)
    run(folder, "ddrs", "use", TINY, place / "small.yaml")
    assert run(folder, "ddrs", "sync", check=False).stderr.startswith("ddrs: error: sync: no dvc.lock here")
    run(folder, "dvc", "repro")
    (place / "store").mkdir()
    run(folder, "dvc", "remote", "add", "--default", "store", place / "store")
    run(folder, "dvc", "push")
    commit(folder, "Run")
    return folder


@pytest.fixture(scope="module")
def second(first: Path) -> Path:
    """A clone, synced."""
    folder = clone(first, first.parent / "second")
    run(folder, "ddrs", "sync")
    return folder


@pytest.fixture(scope="module")
def s3(first: Path) -> Iterator[str]:
    """The endpoint of an S3 server on this machine, with what `first` has pushed in its bucket `lab`."""
    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}".replace("0.0.0.0", "127.0.0.1")
    _bucket(endpoint, create=True)
    folder = clone(first, first.parent / "pushing")
    run(folder, "dvc", "cache", "dir", "--local", first / ".dvc/cache")
    use_s3(folder, endpoint)
    run(folder, "dvc", "push")
    yield endpoint
    server.stop()


def use_s3(folder: Path, endpoint: str) -> None:
    run(folder, "dvc", "remote", "add", "--local", "--force", "--default", "lab", "s3://lab/ddrs")
    run(folder, "dvc", "remote", "modify", "--local", "lab", "endpointurl", endpoint)


def _bucket(endpoint: str, create: bool = False):
    keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    bucket = boto3.resource("s3", endpoint_url=endpoint, **keys).Bucket("lab")
    if create:
        bucket.create()
    return bucket


def test_a_second_clone_has_nothing_to_do(first: Path, second: Path) -> None:
    assert results(second) == results(first) and len(results(second)) > 30
    assert nothing_to_do(second)
    assert not list((second / "logs").rglob("*.json"))  # which each job that runs writes


def test_s3_serves_a_clone_as_a_folder_does(first: Path, s3: str, tmp_path: Path) -> None:
    folder = clone(first, tmp_path / "clone")
    use_s3(folder, s3)
    run(folder, "ddrs", "sync")
    assert results(folder) == results(first) and nothing_to_do(folder)


@pytest.fixture
def emptied(second: Path, tmp_path: Path) -> Path:
    """A copy of the synced clone that has its results, but must fetch all that DVC stores."""
    folder = tmp_path / "emptied"
    shutil.copytree(second, folder, symlinks=True)
    shutil.rmtree(folder / ".dvc/cache")
    return folder


@pytest.mark.parametrize(("fate", "remote"), [("damaged", "s3"), ("missing", "folder")])
def test_an_object_that_the_remote_has_not_whole_is_named_and_nothing_is_lost(
    fate: str, remote: str, emptied: Path, first: Path, request: pytest.FixtureRequest
) -> None:
    path = MODEL.format("0.50") if fate == "damaged" else "results/table4.csv"
    md5 = run(emptied, "md5sum", path).stdout.split()[0]
    place = f"files/md5/{md5[:2]}/{md5[2:]}"
    if remote == "s3":
        endpoint = request.getfixturevalue("s3")
        use_s3(emptied, endpoint)
        stored = _bucket(endpoint).Object(f"ddrs/{place}")
        whole = stored.get()["Body"].read()
        put, delete = lambda body: stored.put(Body=body), stored.delete
    else:
        file = first.parent / "store" / place
        whole, mode = file.read_bytes(), file.stat().st_mode

        def put(body: bytes) -> None:
            file.unlink(missing_ok=True)
            file.write_bytes(body)
            file.chmod(mode)

        delete = file.unlink
    before = results(emptied), times(emptied)
    put(b"?" + whole[1:]) if fate == "damaged" else delete()
    try:
        done = run(emptied, "ddrs", "sync", check=False)
        assert done.returncode == 2 and done.stderr.count("\n") == 1 and done.stderr.startswith("ddrs: error: sync: remote ")
        assert path in done.stderr and place in done.stderr and ("damaged" if fate == "damaged" else "lacks") in done.stderr
        assert (results(emptied), times(emptied)) == before
    finally:
        put(whole)
    if fate == "damaged":  # once is enough
        run(emptied, "ddrs", "sync")


@pytest.mark.parametrize("remote", ["none", "folder", "s3"])
def test_without_a_remote_at_hand_sync_says_so_and_touches_nothing(remote: str, emptied: Path) -> None:
    if remote == "none":
        run(emptied, "dvc", "config", "--unset", "core.remote")
    elif remote == "folder":
        run(emptied, "dvc", "remote", "modify", "--local", "store", "url", emptied / "not mounted")
    else:
        use_s3(emptied, "http://127.0.0.1:9")
    before = results(emptied), times(emptied)
    done = run(emptied, "ddrs", "sync", check=False)
    named = {"none": "dvc remote add -d", "folder": "not mounted", "s3": "s3://lab/ddrs"}[remote]
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and named in done.stderr
    assert (results(emptied), times(emptied)) == before


def test_files_that_dvc_has_nowhere_else_stay(second: Path, tmp_path: Path) -> None:
    folder = tmp_path / "clone"
    shutil.copytree(second, folder, symlinks=True)
    (folder / "results/table4.md").write_text("mine\n")
    (folder / "results/models/mine.safetensors").write_text("mine\n")
    before = results(folder)
    done = run(folder, "ddrs", "sync", check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "results/table4.md" in done.stderr and "results/models/mine.safetensors" in done.stderr
    assert results(folder) == before


def test_a_lock_of_another_config_proves_nothing(second: Path, tmp_path: Path) -> None:
    """`ddrs sync` tells Snakemake nothing, and `ddrs lock-status`, in a clone without data or results, says what differs."""
    folder = clone(second, tmp_path / "clone")
    assert run(folder, "ddrs", "lock-status").stdout == "dvc.lock fits code and config\n"
    config = folder / "config.yaml"
    config.write_text(config.read_text().replace("n: 200", "n: 210"))
    module = folder / "src/ddrs/memory/memory.py"
    module.write_text("# a comment\n" + module.read_text())
    differs = "certificates: config.yaml: certify; paper: config.yaml: certify"
    assert run(folder, "ddrs", "lock-status").stdout == f"dvc.lock is stale: {differs}\n"
    module.write_text(module.read_text() + "\nprint(end='')\n")
    said = "workflow/code.json has other code than is here of illustrate, remember, until `ddrs code --write workflow/code.json`"
    assert run(folder, "ddrs", "lock-status").stdout == f"dvc.lock is stale: {differs}; {said}\n"
    run(folder, "ddrs", "code", "--write", "workflow/code.json")
    said = "certificates: config.yaml: certify, workflow/code.json: remember; paper: config.yaml: certify, workflow/code.json: illustrate"
    assert run(folder, "ddrs", "lock-status").stdout == f"dvc.lock is stale: {said}\n"
    done = run(folder, "ddrs", "sync", check=False)
    assert done.returncode == 2 and said in done.stderr and not (folder / "results").exists()


def test_a_sigma_added_in_one_clone_runs_alone_and_reaches_the_other(first: Path, second: Path, s3: str, tmp_path: Path) -> None:
    """Over S3; what a clone pulls from a folder, others here do."""
    one, two = tmp_path / "one", tmp_path / "two"
    for source, copy in ((first, one), (second, two)):
        shutil.copytree(source, copy, symlinks=True)
        use_s3(copy, s3)
    old = (two / MODEL.format("0.50")).stat().st_mtime_ns
    (tmp_path / "more.yaml").write_text("datasets: {mnist5k: {uniform: {sigmas: [0.25, 0.50]}}}")
    run(two, "ddrs", "use", tmp_path / "more.yaml")
    ran = run(two, "dvc", "repro", "--pull").stdout
    made = sorted(str(path.relative_to(two / "logs")) for path in (two / "logs").rglob("*.json"))
    assert len(made) == 1 + 2 + 4 and all("sigma_0.25" in path for path in made), (made, ran[-3000:])
    assert (two / MODEL.format("0.50")).stat().st_mtime_ns == old
    run(two, "dvc", "push")
    commit(two, "Add a sigma")
    run(one, "git", "pull", "--quiet", two, "HEAD")
    run(one, "ddrs", "sync")
    assert (one / MODEL.format("0.25")).exists() and results(one) == results(two) and nothing_to_do(one)
