"""The version of jaxgan."""

__version__ = "0.6.0"
