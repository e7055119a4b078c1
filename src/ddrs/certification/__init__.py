"""Certificates: request -> votes -> conclusion.

Images and sigmas, from `run` (`ddrs certify`) or `engine.certify` (the API) -> `task`: what all images of a run share
    request: `protocols` is a generator per image that asks for so many samples, looks at their votes, and asks on or stops;
    votes: `engine` checks images and hands them to `serving`: many at once, in batches of one shape; `inference` is the model; counts per class;
    conclusion: `certificates` is a file per promise: what the votes prove at that sigma, as an `Outcome`: class, radius, bounds.
A log: `records` (columns, radii rounded down, resuming), `shards` (parts of a split, and merging them), `field_format` (other projects').

A protocol knows no images and no torch, the engine no statistics: either can be replaced alone. `settings`: what a run reads.
`checks`: whether a log's rows follow from their counts. `progress`: what is said meanwhile.
"""
