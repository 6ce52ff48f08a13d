"""`python -m keelfs` is the `keelfs` command."""

from keelfs.main import main

main()
