"""Draws images (or vectors) from a trained model: into an array file, a picture, or a folder."""

from jaxgan import cli
from jaxgan.commands.sample import main

if __name__ == "__main__":
    cli.main(main)
