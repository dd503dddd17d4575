"""The version of jaxgan."""

__version__ = "0.11.0"
