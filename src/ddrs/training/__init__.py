"""Models from images.

`ddrs train` (FS) and `ddrs finetune` (with a sigma per example) -> `run` -> `state`: a run between two batches: start, save, restore
    -> `loop`: the one training loop. For each batch: `batches` (read ahead) and `augmentation` -> the regime gives each example its sigma
    (`regimes`: fs, ds2) -> noise -> the loss (`losses`: a file per method) -> the step (`precision`).
`ddrs import-checkpoint` -> `importing`: a model that others published, in place of training.

`settings`: what a run reads; those of a loss are in the loss's own file. A killed run resumes and ends with the same bytes.
"""
