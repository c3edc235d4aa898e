"""The version of paft, which results and the command name, whether the package is installed or run from a clone."""

__version__ = "0.1.0"
