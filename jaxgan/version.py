"""The version of jaxgan."""

__version__ = "0.13.0"
