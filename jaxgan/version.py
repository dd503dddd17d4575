"""The version of jaxgan."""

__version__ = "0.4.0"
