"""Verbs of the memory."""

from ddrs.commands.flags import Data, Logs, OutDir, app, say
from ddrs.errors import DdrsError


@app.command()
def remember(
    logs: Logs,
    data: Data,
    out_dir: OutDir,
) -> None:
    """Pass logs through the memory (Algorithm 3), each on its own, in ascending idx. Writes logs of the same names into --out-dir."""
    from ddrs.memory.remember import remember

    if len({log.name for log in logs}) != len(logs):
        raise DdrsError("remember: two logs have the same file name, and so the same place in --out-dir")
    for log in logs:
        counts = remember(log, data, out_dir / log.name)
        say(f"{log.name}: {sum(counts.values())} entries: " + ", ".join(f"{count} {change}" for change, count in counts.items()))
