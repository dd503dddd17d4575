"""Fills in missing pixels of images with a trained model, several times each."""

from jaxgan import cli
from jaxgan.commands.inpaint import main

if __name__ == "__main__":
    cli.main(main)
