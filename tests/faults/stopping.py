"""Run a verb that meets a fault at one of its file operations: `python stopping.py FOLDER FAULT AT NOTE VERB ...`.

Operations are those that write, rename or remove below FOLDER, in order from 1. FAULT at operation AT: `kill` ends the process as the memory
killer does, just before it; `full` lets every file that is opened for writing from there on find a full disk. NOTE gets the number of operations.
"""

import errno
import os
import signal
import sys
from pathlib import Path

WRITING = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}  # and files opened to be written


def main() -> None:
    folder, fault, at, note, *words = sys.argv[1:]
    met = 0

    def audit(event: str, arguments: tuple) -> None:
        nonlocal met
        opened = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not (opened or event in WRITING) or not str(arguments[0]).startswith(folder + os.sep):
            return
        met += 1
        if fault == "kill" and met == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "full" and met >= int(at) and opened:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    from ddrs.commands.main import main as ddrs

    sys.addaudithook(audit)
    sys.argv = ["ddrs", *words]
    code: object = 0
    try:
        ddrs()
    except SystemExit as exit:
        code = exit.code
    Path(note).write_text(str(met), encoding="utf-8")
    sys.exit(code)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
