"""Snakemake and its jobs without the start of their interpreters, which takes longer than the smallest jobs: where tests ask what a run makes.

A process imports the libraries of other people, and forks for each `snakemake` or `ddrs` of a shell line; the fork runs the code of the line's
PYTHONPATH with the line's words, folder, environment and open files. How the real scripts start and end is for other tests.
"""

import atexit
import gc
import marshal
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path

SERVED = ("ddrs", "snakemake")
LIBRARIES = (
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PpmImagePlugin", "jinja2", "markdown_it", "mpmath", "mlxtend.data"),
    *("matplotlib.backends.backend_agg", "matplotlib.backends.backend_pdf", "matplotlib.pyplot", "pandas.io.formats.style", "pyarrow.pandas_compat"),
    *("pyarrow.parquet", "pydantic.type_adapter", "rich", "safetensors.torch", "scipy.optimize", "scipy.stats", "typer._adapters", "yaml"),
    *("snakemake.benchmark", "snakemake.cli", "snakemake.profiles", "snakemake.report.html_reporter", "snakemake.storage", "smart_open"),
    *("torch", "torch._dynamo", "torch.fx.experimental.optimization"),
)
CLIENT = """
import marshal, os, socket, sys
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect(sys.argv[1])
    socket.send_fds(connection, [b"."], [0, 1, 2])
    connection.sendall(marshal.dumps((sys.argv[2:], os.getcwd(), dict(os.environ))))
    connection.shutdown(socket.SHUT_WR)
    sys.exit(int(connection.recv(9) or b"1"))
"""


@contextmanager
def warm() -> Iterator[Path]:
    """The `bin` of an environment that is this one but for two programs: Snakemake puts the folder of its own Python first on the PATH of jobs."""
    with tempfile.TemporaryDirectory() as place, socket.socket(socket.AF_UNIX) as listening:
        environment, served, client = Path(place), f"{place}/served", f"{place}/client.py"
        (environment / "bin").mkdir()
        for path in (*Path(sys.prefix).iterdir(), *Path(sys.executable).parent.iterdir()):
            if path.name not in ("bin", *SERVED):
                (environment / ("bin" if path.parent.name == "bin" else "") / path.name).symlink_to(path)
        Path(client).write_text(CLIENT)
        for program in (environment / "bin" / name for name in SERVED):
            program.write_text(f"#!/bin/sh\nexec '{sys.executable}' -IS '{client}' '{served}' '{program}' \"$@\"\n")
            program.chmod(0o755)
        listening.bind(served)
        listening.listen(100)
        number = listening.fileno()
        server = subprocess.Popen(
            [sys.executable, "-I", __file__, str(number)], pass_fds=[number], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        try:
            yield environment / "bin"
        finally:
            server.terminate()
            server.wait()


def serve(listening: socket.socket) -> None:
    """Without end. Nothing of torch has run, so that no thread is lost by the forks."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in LIBRARIES:
        import_module(name)
    gc.freeze()  # whatever the collector looks at is copied
    while True:
        connection, _ = listening.accept()
        if os.fork() == 0:
            listening.close()
            run(connection)
        connection.close()
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def run(connection: socket.socket) -> None:
    """The program of a client; ends the process."""
    _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    with connection.makefile("rb") as stream:
        sys.argv, folder, environment = marshal.load(stream)
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    program = Path(sys.argv[0])
    sys.executable = str(program.with_name("python"))
    sys.path[:0] = [str(program.parent), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    code = 1
    try:
        import_module("snakemake.cli").main() if program.name == "snakemake" else ddrs()
        code = 0
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else int(exit.code is not None)
        if isinstance(exit.code, str):
            print(exit.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(str(code).encode())
    os._exit(code)


def ddrs() -> None:
    try:
        module = import_module("ddrs.commands.main")
    except ModuleNotFoundError:
        module = import_module("ddrs.cli")
    module.main()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
