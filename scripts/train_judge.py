"""Trains a judge, the classifier whose features score samples, and writes it into one file."""

from jaxgan import cli
from jaxgan.commands.train_judge import main

if __name__ == "__main__":
    cli.main(main)
