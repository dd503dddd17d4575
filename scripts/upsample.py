"""Balances a set of images: generates images of the classes that have fewer than the largest."""

from jaxgan import cli
from jaxgan.commands.upsample import main

if __name__ == "__main__":
    cli.main(main)
