"""`python -m adstream.cli`."""

from adstream.cli import main

main()
