"""`python -m sounding_cli` is `sounding`."""

from sounding_cli.app import main

main()
