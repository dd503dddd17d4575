"""Makes a page about runs: one HTML file, with a live explorer of latents."""

from jaxgan import cli
from jaxgan.commands.report import main

if __name__ == "__main__":
    cli.main(main)
