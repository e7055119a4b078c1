"""`ddrs remember`: a log as the stateful classifier would have answered it."""

from pathlib import Path

from ddrs.certification.records import LOG_COLUMNS, SHARD, format_line, memory_digest, read_log
from ddrs.data.splits import as_float, load_split
from ddrs.errors import DdrsError
from ddrs.files import write_text
from ddrs.memory.memory import Memory
from ddrs.noise.norms import norm_of


def remember(log: Path, data: Path, out: Path) -> dict[str, int]:
    """Pass a certification log through a new memory, in ascending idx, and write the log of the stateful classifier.

    The norm is that of the log's noise. Columns are the log's, with class, radius and `correct` as the memory answers, and
    `memory`: kept, adopted, shrunk or repeated. sigma, n_top and p_lower stay those of the certificate before. Returns how often each
    happened. Errors: DdrsError if the log does not say its dataset and noise, is a shard, or was certified on other images.
    """
    table = read_log(log).table.sort_values("idx")
    if "memory" in table:
        raise DdrsError(f"{log}: has been through the memory already")
    if out.exists() and out.samefile(log):
        raise DdrsError(f"{log}: would be overwritten by what the memory makes of it; give another folder")
    missing = [name for name in LOG_COLUMNS if name not in table]
    if missing:
        raise DdrsError(f"{log}: lacks the column {missing[0]!r}, which the memory needs")
    if SHARD in table:
        raise DdrsError(f"{log}: is shard {table[SHARD].iloc[0]}; the memory takes the merged log, as it sees all examples in one order")
    split = load_split(data, str(table["split"].iloc[0]))
    if split.dataset != table["dataset"].iloc[0]:
        raise DdrsError(f"{log}: is of {table['dataset'].iloc[0]}, but {data} is {split.dataset}")
    indices = table["idx"].to_numpy()
    if indices.min() < 0 or indices.max() >= len(split.labels):
        outside = indices.min() if indices.min() < 0 else indices.max()
        raise DdrsError(f"{log}: idx {outside} is outside {split.dataset} {split.split}, which has {len(split.labels)} images")
    if split.digest != table["data"].iloc[0]:
        raise DdrsError(f"{log}: was certified on other {split.split} images of {split.dataset} than {data} holds; certify again")
    norm = norm_of(table["noise"].iloc[0], str(log))
    for idx, label in zip(indices.tolist(), table["label"].tolist(), strict=True):
        if split.labels[idx] != label:
            raise DdrsError(f"{log}: idx {idx} has label {label}, but {data} has {split.labels[idx]}")
    memory = Memory(norm)
    columns = (*LOG_COLUMNS, "memory")
    lines = ["\t".join(columns)]
    counts: dict[str, int] = dict.fromkeys(("kept", "adopted", "shrunk", "repeated"), 0)
    made = memory_digest(log, norm)
    for row in table.to_dict("records"):
        before = (len(memory), memory.adopted, memory.shrunk)
        label, radius = memory.insert(as_float(split.images[row["idx"]]), row["predict"], row["radius"])
        after = (len(memory), memory.adopted, memory.shrunk)
        change = "repeated" if after[0] == before[0] else "adopted" if after[1] > before[1] else "shrunk" if after[2] > before[2] else "kept"
        counts[change] += 1
        answered = {"predict": label, "radius": radius, "correct": int(label == row["label"]), "memory": change, "digest": made}
        lines.append(format_line({**row, **answered}, columns))
    write_text(out, "\n".join(lines) + "\n")
    return counts
