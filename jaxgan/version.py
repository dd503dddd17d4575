"""The version of jaxgan."""

__version__ = "0.9.0"
