"""What made a result: the digests by which a step knows whether it must run again, and the facts that stand beside a result.

A value or file -> `digests` -> the text that stands in logs and cells.
A verb -> `code`: the definitions that its worker reaches, found in the text of the package (`reading`) -> the digest that Snakemake and DVC compare.
A finished step -> `sidecar`: commit, versions, device, time as JSON beside the log; whatever does not repeat is there, and in no result.

Nothing here knows what is computed, only bytes and syntax. No torch.
"""
