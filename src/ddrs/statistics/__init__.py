"""What may be concluded from counts. No torch, no images; no file but the cache of boundaries.

k of n votes -> `bounds`: Clopper-Pearson, exact in float64, on the safe side.
Votes that come in looks -> `boundaries`: group-sequential limits for a grid of nulls, cached -> `sequential`: the test of one input on them.
Many images -> `intervals`: of shares, means and differences, and the bootstrap over images.

Every bound says its guarantee, for which alpha, and its source. Tests compare them with exact sums, not with simulations.
"""
