"""The version, for who must not import the package: that has the names of all its modules."""

__version__ = "0.1.0"
