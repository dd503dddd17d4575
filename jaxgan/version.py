"""The version of jaxgan."""

__version__ = "0.10.0"
