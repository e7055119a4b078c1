"""One file per verb on a whole experiment. Only here are Snakemake, DVC, SLURM and git known, as commands that are called.

`overlays` (`ddrs use`): overlays into config.yaml, and its results into dvc.yaml.
`plan` (`ddrs plan`): what a target would cost, from a dry run's commands; `probe` times them here, `gpu_hours` on cards that are not here.
`sync` (`ddrs sync`, `ddrs lock-status`): results of dvc.lock brought here, proved by content, and Snakemake told.
    `fitting`: whether what lies there is of the config; `locks`: which runs live here, so that a dead
    one's lock stops nobody.
`code` (`ddrs code`): by which definitions a verb's result is made, and which differ from a commit's.
`publish` (`ddrs publish`): finished tables and figures into docs. `cluster`: what a job asks of SLURM.
"""
