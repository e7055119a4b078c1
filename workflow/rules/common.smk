import os
import shlex
from importlib.util import find_spec
from pathlib import Path

# What is recorded (in DVC's lock, in the params) is the code beside the Snakefile, so that must be the code that runs, here and in the jobs.
# Without any beside it, as in a folder that holds the workflow alone, the installed package is meant.
source = Path(workflow.basedir, "src")
if (source / "ddrs").is_dir():
    spec = find_spec("ddrs")
    imported_from = Path(spec.origin).parent if spec and spec.origin else None
    if imported_from is None or not imported_from.samefile(source / "ddrs"):
        said = "src" if Path.cwd().samefile(workflow.basedir) else shlex.quote(str(source))
        sys.exit(
            f"ddrs: error: the code beside {workflow.basedir}/Snakefile is not what would run: {sys.executable} imports ddrs from "
            f"{imported_from or 'nowhere'}; put PYTHONPATH={said} before the command, or install this checkout in an environment of its own"
        )
    os.environ.update(PYTHONPATH=os.pathsep.join(filter(None, (str(source.resolve()), os.environ.get("PYTHONPATH")))))
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}")

from ddrs.operations.code import require_current
from ddrs.experiment.load import load
from ddrs.experiment.preflight import check_modules
from ddrs.errors import DdrsError
from ddrs.experiment.graph import BRANCH, CERTIFICATE, Graph, MANIFEST, MEMORY, MODEL, SHARD, SIGMAS
from ddrs.experiment.jobs import Jobs, flagged, order
from ddrs.operations.locks import enter as enter_run
from ddrs.experiment.recipes import about
from ddrs.operations.overlays import require_fitting

if workflow.is_main_process:
    enter_run(logger.warning)
try:
    settings = load(config)
    check_modules(settings.datasets)
    if "DVC_STAGE" in os.environ and workflow.is_main_process:
        require_fitting(Path("dvc.yaml"), settings)
        require_current()
except DdrsError as error:
    sys.exit(f"ddrs: error: {error}")

config["about"] = about(settings)  # for the first page of the report
graph = Graph(settings)
jobs = Jobs(graph)


wildcard_constraints:
    **graph.patterns(),
