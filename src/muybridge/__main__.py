"""`python -m muybridge` is the `muybridge` command."""

from muybridge.cli import main

main()
