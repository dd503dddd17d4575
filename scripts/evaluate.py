"""Scores samples of trained models in one table, beside the scores of real images."""

from jaxgan import cli
from jaxgan.commands.evaluate import main

if __name__ == "__main__":
    cli.main(main)
