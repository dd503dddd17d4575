"""The version of jaxgan."""

__version__ = "0.8.0"
