"""The version of jaxgan."""

__version__ = "0.7.0"
