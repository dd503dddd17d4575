"""Describes the history of a run: its course, its failures, what to try; and draws it."""

from jaxgan import cli
from jaxgan.commands.diagnose import main

if __name__ == "__main__":
    cli.main(main)
