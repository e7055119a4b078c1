"""The experiment that a config describes: which files it has, what each is made of, and what each job is told."""
