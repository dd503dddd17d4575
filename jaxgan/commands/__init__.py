"""The commands: each file is `python scripts/NAME.py` and `jaxgan NAME`."""
