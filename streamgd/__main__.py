"""``python -m streamgd`` is the command ``streamgd``."""

from streamgd.cli import main

main(prog_name="streamgd")
