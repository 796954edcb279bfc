"""`python -m seglens`: the command line where its script is not on the path."""

from seglens.cli import main

main()
