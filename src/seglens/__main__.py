"""`python -m seglens`, which is how launchers of many processes start it."""

from seglens.cli import main

main()
