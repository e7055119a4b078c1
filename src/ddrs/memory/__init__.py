"""Algorithm 3: the stateful classifier that answers from its memory first, which makes the answers of different sigmas consistent.

A log of certificates -> `remember` (`ddrs remember`): in ascending idx, each image with its class and radius
    -> `memory.Memory.insert`: inside a stored ball its class is adopted, and where balls of other classes overlap the new one shrinks
    -> `sketch`: bounds on distances by a few sums of each entry, so that few are computed in full; the answers are the same.

Out comes a log of the same columns, with what was kept, adopted or shrunk. The promise is of consistency, in the order of arrival.
"""
