"""The command line: words in, exit code out.

`main`: the table of verbs, each loaded when it is called; what goes wrong is one line on stderr and exit code 2.
`flags`: flags that several verbs have, and settings models as flags: a field's name, type, default, range and description are the flag's.
A module per group of verbs, a function per verb, whose name is the verb (_ for -) and which imports inside its body what it calls:
    data, training, search, certification, memory, results, figures, experiment.

A new verb: a function under `@app.command()` in its group's module, and its line in `main.VERBS`.
"""
