"""Trials of what machines do to steps: kills at random moments and at file operations, twins, full disks, damaged and stale files.

`make test-faults` runs them, in a quarter of an hour on two cores; `make test` does not, as their file is named check_*.py. FAULTS_SEED repeats
the random choices of a run, which says its seed at the head; FAULTS_POINTS (default 8) is how many file operations of a step are tried. A new step
is one line of STEPS in steps.py, a new fault one function of check_faults.py.
"""
