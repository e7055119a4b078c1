"""Numbers from logs. No torch.

The logs of a row -> `envelope` (the best sigma and K for each radius), or `selection` (sigma and K that other images choose)
    -> `row_cells` (`ddrs cell`): a JSON file for each cell, with its interval, what gave it, and the paper's number (`published`)
    -> `cells`: read back and checked -> `tables`, `comparison` (with `verdicts`), `claims`, `per_class`
    -> `captions`: what may be said of them -> `rendering` (csv, md, tex) and `pages` (a browser's).

`published` is the print, with the flaws that it has of itself; nothing of ours is in it.
"""
