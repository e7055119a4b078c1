"""What of the print cannot be so: ACRs that their own row excludes, and radii that were rounded up."""

from scipy.special import ndtri

from ddrs.results.published.printed import printed_row
from ddrs.rows import FIXED, Row, table_of_print

N0, N, ALPHA = 100, 100_000, 0.001  # the certificates behind the print
LARGEST_SIGMA = {"cifar10": 0.5, "imagenet": 1.0}  # of training
LARGEST_LAMBDA = 1.0  # of training with uniform noise, in Table 4
# How many times the largest sigma of training a search may end at. Nothing printed bounds it, nor does the authors' code: an assumption.
DOUBLED = 2.0  # takes 2,434 saturated steps from 0.5, where the paper names K = 100
GRANTED = 4.0  # as far as searches here go: to 2.0 from 0.5


def half_unit(table: str, column: str) -> float:
    """Half a unit of the last printed digit: of percents, which Table 4 prints whole, or of an ACR."""
    if column == "acr":
        return 0.0005
    return 0.5 if table_of_print(table) == "table4" else 0.05


def largest_radius(table: str, dataset: str, label: str, growth: float) -> float:
    """The radius that no certificate behind a printed row exceeds: all n votes agree, at the largest sigma that the row can have.

    A fixed sigma is at most the largest of training; a data-dependent one is taken to be at most `growth` times that.
    """
    p_lower = ALPHA ** (1 / N)
    growth = 1.0 if Row.parse(label).kind is FIXED else growth
    if table_of_print(table) == "table4":
        return growth * LARGEST_LAMBDA * (2 * p_lower - 1)
    return growth * LARGEST_SIGMA[dataset] * float(ndtri(p_lower))


def largest_acr(table: str, dataset: str, label: str, growth: float) -> float:
    """An upper bound on the ACR that a printed row's own certified accuracies leave room for, if sigma grows to at most `growth` times.

    The ACR of any one configuration is the integral of its certified accuracy over the radius. At a radius r that is at most the best of
    all configurations at the last column not beyond r, which is what the row prints, up to half a unit of its last digit; and beyond
    `largest_radius` it is 0.
    """
    row = printed_row(table, dataset, label)
    radii = sorted((column for column in row if column != "acr"), key=float)
    end = largest_radius(table, dataset, label, growth)
    starts = [min(float(column), end) for column in radii]
    bound, best = 0.0, 1.0
    for column, start, stop in zip(radii, starts, [*starts[1:], end], strict=True):
        best = min(best, (row[column] + half_unit(table, column)) / 100)
        bound += best * (stop - start)
    return bound


def flaw_of_print(table: str, dataset: str, label: str, column: str) -> str | None:
    """Why a printed value cannot be compared with, as the verdict that says so; None if nothing is known against it."""
    row = printed_row(table, dataset, label)
    if column not in row:
        return None
    if column == "acr":
        lowest = row["acr"] - half_unit(table, "acr")
        for growth, words in ((GRANTED, "print inconsistent"), (DOUBLED, "inconsistent if sigma at most doubles")):
            if lowest > (bound := largest_acr(table, dataset, label, growth)):
                return f"{words}: ACR {row['acr']:.3f}, where the columns of its row allow at most {bound:.3f}"
    elif Row.parse(label).kind is FIXED and row[column] > 0 and float(column) > (cap := largest_radius(table, dataset, label, 1.0)):
        return f"not comparable: the print's radius was rounded up; at n = {N:,} and alpha = {ALPHA:g} no radius exceeds {cap:.5f}"
    return None
