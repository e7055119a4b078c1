"""Data Dependent Randomized Smoothing: from the dataset to every cell of the paper's tables."""

import sys

from snakemake.utils import min_version

min_version("9.20")


configfile: f"{workflow.basedir}/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/cluster.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/sigma.smk"
include: "workflow/rules/certify.smk"
include: "workflow/rules/memory.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/records.smk"


rule paper:
    default_target: True
    input:
        graph.tables(),
        graph.figures(),


rule models:
    input:
        graph.models(),


rule certificates:
    input:
        graph.certificates(),
