"""The experiment: config.yaml, and the graph of files that follows from it. No torch, and no Snakemake.

A mapping -> `load` -> `config.Config`, of the sections `names`, `datasets`, `checkpoints`, `panels` and each verb's own settings
    -> `checks`: what must hold between its parts -> `recipes`: how models and sigmas are made, in a caption's words
    -> `graph`: which files there are, and what each is made of -> `jobs`: a job's flags, code digest and resources.
`preflight`: what must be so before any work: data as asked for, and no results of other images.

The rule files ask `graph` and `jobs`, and hold no logic of their own.
"""
