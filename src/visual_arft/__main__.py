"""`python -m visual_arft` is `arft`."""

from visual_arft.cli import main

main(prog_name="arft")
