"""`python -m tritserve` is the `tritserve` command."""

from tritserve.service.commands.cli import main

main()
