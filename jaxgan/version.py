"""The version of jaxgan."""

__version__ = "0.5.0"
