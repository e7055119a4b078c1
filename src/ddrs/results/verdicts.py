"""Is a number of ours the printed one? The 95 % interval of their difference, and the one word that follows from it."""

from ddrs.results.published.flaws import ALPHA, N0, N, flaw_of_print
from ddrs.results.published.printed import PRINTED_IMAGES, published
from ddrs.statistics.intervals import Estimate, difference, mean, share, verdict

DEFINITION = (
    "A verdict is `within` if the 95 % interval of the difference (ours minus the print) contains 0, else `above` or `below`. Certified "
    "accuracies are taken as binomial shares, each at its own number of test images (the print's: 10,000 of CIFAR-10, 500 of ImageNet), with "
    "Newcombe's interval of the difference of two shares. The print gives no spread of its ACR: it is assumed that its images spread as "
    "ours do (the standard deviation of radius times correctness), and the means are taken as normal. The variance of training is not "
    "included: two trainings of one method differ by more than these intervals say. Nor is the optimism of choosing sigma and K on test "
    "images, which the print always has and `choice: test` has too. `no print`: the paper has no such number. `print inconsistent`: the "
    "printed ACR exceeds what the printed columns of its own row allow (each column's share up to the next radius, the last one up to the "
    "largest radius that n = 100,000 can certify at the largest sigma of training, or at four times that for data-dependent rows). That a "
    "search ends at four times the largest sigma at most is an assumption: ours do, and the code of the paper's authors has no such bound. "
    "`inconsistent if sigma at most doubles`: the same with twice in place of four times, which stands only on that stronger assumption. "
    "`not comparable`: with the reason."
)


def estimates(cell: dict, paper: float) -> tuple[Estimate, Estimate]:
    """Our value of a cell and the print's, each with its own interval."""
    theirs = PRINTED_IMAGES[cell["kind"]]
    if cell["column"] == "acr":
        return mean(cell["value"], cell["deviation"], cell["images"]), mean(paper, cell["deviation"], theirs)
    return share(cell["value"], cell["images"]), share(paper, theirs)


def why_not_compared(cell: dict) -> str | None:
    """The verdict of a cell that no interval decides: no print, a flaw of the print, or another protocol of ours."""
    place = (cell["table"], cell["kind"], cell["label"], cell["column"])
    if published(*place) is None:
        return "no print"
    known = flaw_of_print(*place)
    if known:
        return known
    for name, printed in (
        ("split", "test"),
        ("protocol", "fixed"),
        ("bound", "binary"),
        ("n0", N0),
        ("n_max", N),
        ("alpha", ALPHA),
        ("precision", "float32"),
    ):
        if cell[name] != printed:
            return f"not comparable: {name} = {cell[name]}, where the print has {printed}"
    return None


def judged_cell(cell: dict) -> dict:
    """The `paper`, `difference` (95 %) and `verdict` of a cell; the difference is None where nothing is compared.

    cell: table, kind (the dataset of the print), label, column, value, images and the protocol's fields; for an ACR also `deviation`, the
    standard deviation over the images. Accuracies are in percent.
    """
    paper = published(cell["table"], cell["kind"], cell["label"], cell["column"])
    reason = why_not_compared(cell)
    if reason is not None or paper is None:
        return {"paper": paper, "difference": None, "verdict": reason}
    ours, theirs = estimates(cell, paper)
    found = difference([ours], [theirs])
    return {"paper": paper, "difference": [round(found.low, 6), round(found.high, 6)], "verdict": verdict(found)}
