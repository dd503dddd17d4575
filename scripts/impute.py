"""Fills in the missing cells of a table."""

from jaxgan import cli
from jaxgan.commands.impute import main

if __name__ == "__main__":
    cli.main(main)
