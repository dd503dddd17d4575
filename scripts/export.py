"""Writes a trained generator to one file, for other programs or for other people."""

from jaxgan import cli
from jaxgan.commands.export import main

if __name__ == "__main__":
    cli.main(main)
