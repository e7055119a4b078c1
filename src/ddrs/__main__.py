"""`python -m ddrs` is `ddrs`."""

from ddrs.commands.main import main

main()
