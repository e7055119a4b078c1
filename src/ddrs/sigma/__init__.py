"""A sigma per image.

A model and images -> `run` (`ddrs sigma`), or for the API `search` (`optimize_sigma`)
    -> `strategies`: a file per search: what it tries, and what that costs
    -> `objective`: the radius that is ascended, one step of it, the class it is of, and the trajectory of sigmas
    -> `stored`: the parquet of idx, K and sigma, which certification reads.

`settings`: of a step and of a search. The search promises nothing: its noise has a purpose of its own, and certification draws afresh.
"""
