"""The version of jaxgan."""

__version__ = "0.12.0"
