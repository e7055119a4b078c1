"""Images: from whoever has them to uint8 arrays on disk, and from there to whoever reads them. No torch.

A name or kind, with the user's own files or the network -> `requests`: what is asked of a source, in which splits, how many held out
    -> `sources`: a file per kind, which delivers pools or writes what is larger than memory (`resumable`: in parts that survive a kill)
    -> `fetch` (`ddrs fetch`): checked, without duplicates across splits, as a manifest and arrays
    -> `splits`: `load_split`, memory-mapped, each file checked against the manifest's SHA-256; `as_float`: what models see.
"""
