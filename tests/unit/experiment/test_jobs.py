"""What each job is told."""

import shlex
from types import SimpleNamespace

import pytest

from ddrs.errors import DdrsError
from ddrs.experiment.graph import Cells, Graph
from ddrs.experiment.jobs import Jobs, flagged, order
from tests.unit.experiment.test_graph import config, without_validation


def jobs(*overlays: str, **changes: object) -> Jobs:
    return Jobs(Graph(config(*overlays, **changes)))


def w(**parts: str) -> SimpleNamespace:
    return SimpleNamespace(**{"dataset": "mnist5k", "method": "cohen", "split": "test", "sigma": "0.25", "regime": "ds2", **parts})


def test_training_is_told_its_network_and_settings_at_the_sigma() -> None:
    text = jobs().train(w(method="macer", sigma="1.00"))
    assert text.startswith("--architecture small_cnn --seed 0 --epochs 8 ") and "--loss lambda=2" in text


def test_ds2_training_ends_a_branched_run_or_goes_on_from_a_finished_one() -> None:
    job = jobs()
    assert job.branch(w()) == ["results/models/mnist5k/cohen/fs/sigma_0.25.branch.pt"] and job.branch(w(method="macer")) == []
    assert job.start(w()) == job.start(w(regime="ds2")) == "results/models/mnist5k/cohen/fs/sigma_0.25.safetensors"
    assert (
        "--epochs 15 " in job.finetune(w(regime="ds2"))
        and "--epochs 4 " in job.finetune(w(method="macer", regime="ds2"))
        and "--step-size 0.038" in job.finetune(w(method="macer", regime="ds2"))
    )
    assert job.branch_flag(w(), SimpleNamespace(branch=[])) == ""


def test_a_search_is_told_the_settings_of_its_strategy() -> None:
    job = jobs()
    assert job.search(w(search="fs/sigma_0.25")).startswith("--split test --images 100 --seed 0 --step-size 0.0001 --samples 1 ")
    assert "--strategy grid --k-max 50" in job.search(w(method="smoothadv", search="gds/sigma_0.25.K_50"))
    assert (
        job.search_code(w(search="fs/sigma_0.25")) == job.search_code(w(search="ds2/sigma_0.50")) != job.search_code(w(search="gds/sigma_0.25.K_50"))
    )
    with pytest.raises(DdrsError, match="no grid of 40 points"):
        job.model_of_search(w(method="smoothadv", search="gds/sigma_0.25.K_40"))


def test_a_certificate_is_told_its_scale_and_sampling() -> None:
    job = jobs()
    assert job.scale(w(run="fs/sigma_0.25"), SimpleNamespace(sigmas=job.sigmas_of_run(w(run="fs/sigma_0.25")))) == "--sigma 0.25"
    ds2 = w(run="ds2/sigma_0.25.K_900")
    assert job.sigmas_of_run(ds2) == ["results/sigmas/mnist5k/test/cohen/ds2/sigma_0.25.parquet"]
    assert job.scale(ds2, SimpleNamespace(sigmas="s.parquet")) == "--sigmas s.parquet --k 900"
    assert "--n 2500 " in job.certify(ds2) and "--n 1000 " in job.certify(w(split="validation", run=ds2.run))
    assert job.model_of_run(ds2) == "results/models/mnist5k/cohen/ds2/sigma_0.25.safetensors"


def test_the_shards_of_a_log_are_all_of_it() -> None:
    settings = config()
    job = jobs(certify={"mnist5k": settings.certify["mnist5k"].model_copy(update={"shards": 2})})
    run = w(run="fs/sigma_0.25")
    assert job.shards(run) == [f"scratch/shards/mnist5k/test/cohen/fs/sigma_0.25/{i}-of-2.tsv" for i in (1, 2)]
    assert job.shard(run, 1) == "" and job.shard(w(shard="2", shards="2"), 1) == " --shard 2/2"


def test_a_published_model_is_told_its_form_and_runs_no_code_of_the_config() -> None:
    job = jobs("pretrained.yaml")
    assert job.import_checkpoint(w(dataset="cifar10")).startswith("--format locuslab --dataset cifar10 --method cohen")
    assert Jobs.reads["import_checkpoint"] == {"checkpoints", "datasets"}


def test_how_a_job_runs_is_the_devices() -> None:
    job = jobs(device="cuda")
    assert (job.runtime(w(), 2), job.gpu(w()), jobs().gpu(w())) == ("--threads 2 --device cuda", 1, 0)


def test_a_table_is_told_what_chooses() -> None:
    even = Jobs(without_validation())
    assert even.even(w(table="table1")) == "--even mnist5k" and jobs().even(w(table="table1")) == ""
    plain, selected = (Cells(even.graph, table, "mnist5k", "cohen") for table in ("table1", "table1_selected"))
    assert (even.choice(plain), even.choice(selected)) == ("--kind mnist5k", "--choose-on even --kind mnist5k")


def test_captions_say_how_each_method_of_a_table_or_figure_is_made_once() -> None:
    job = jobs()
    assert job.recipe_of_table(w(table="table3")) == job.recipe_of_figure(w(number="5"))
    assert job.recipe_of_figure(w(number="9")).count("--recipe ") == 1 and job.recipe_of_figure(w(number="7")).count("--recipe ") == 4
    assert job.number(w(table="table3")) == "3" and job.number(w(table="family")) == "family"


def test_captions_of_a_table_say_no_search_or_training_that_none_of_its_rows_has() -> None:
    job = jobs("family.yaml")
    of_cohen = job.recipe_of_cells(Cells(job.graph, "family", "mnist5k", "cohen"))(w(label="cohen-qcrs"))
    assert "Search by qcrs: K = 6, n = 500, " in of_cohen and "DS2" not in of_cohen and "1500" not in of_cohen
    cohen, consistency = shlex.split(job.recipe_of_table(w(table="family")))[1::2]
    assert shlex.split(of_cohen) == [cohen.removeprefix("cohen on mnist5k: ").removesuffix(".")]
    assert "; DS2 training: " in consistency and ". Search: up to K = 1500 steps " in consistency and "qcrs" not in consistency
    assert all(jobs().recipe_of_figure(w(number=number)) == job.recipe_of_figure(w(number=number)) for number in "3456789")


def test_figures_are_told_how_their_curves_are_grouped() -> None:
    job = jobs()
    assert [job.figure(w(number=number)) for number in "378"] == ["--kind rows", "--kind steps", "--kind searches --evaluations 200"]
    assert job.examples(w(number="9")).startswith("--quantiles 0.0,0.33,0.67,1.0 ")
    assert len(job.searched_examples(w(number="9"))) == len(job.fixed_examples(w(number="9"))) == len(job.data_of_examples(w(number="9"))) == 2


def test_the_params_of_a_result_are_those_of_its_job() -> None:
    job = jobs()
    at = {"dataset": "mnist5k", "method": "cohen", "sigma": "0.25", "regime": "fs"}
    assert job.params_of_result("models", at) == job.train(w())
    assert job.params_of_result("models", {**at, "regime": "ds2"}) == job.finetune(w(regime="ds2"))
    of_run = {"dataset": "mnist5k", "method": "cohen", "split": "test"}
    assert job.params_of_result("certificates", {**of_run, "run": "ds/sigma_0.25.K_900"}) == job.certify(w(run="ds/sigma_0.25.K_900"))
    assert job.params_of_result("sigmas", {**of_run, "search": "fs/sigma_0.25"}) == job.search(w(search="fs/sigma_0.25"))
    imported = jobs("pretrained.yaml")
    assert imported.params_of_result("models", {**at, "dataset": "cifar10"}) == imported.import_checkpoint(w(dataset="cifar10"))


def test_flags_before_files_and_a_digest_of_their_order() -> None:
    files = SimpleNamespace(cells=["a", "b"], one="c", none=[])
    assert flagged("--cell", "cells")(w(), files) == "--cell a --cell b"
    assert flagged("--one", "one", lead=" ")(w(), files) == " --one c"
    assert flagged("--x", "none", lead=" ")(w(), files) == flagged("--x", "missing")(w(), files) == ""
    assert order(lambda w: ["a", "b"])(w()) == order(lambda w: ["a", "b"])(w()) != order(lambda w: ["b", "a"])(w())
