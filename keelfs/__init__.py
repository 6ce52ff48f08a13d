"""The face of KeelFS: the `keelfs` command and the Python API."""

__version__ = "0.1.0"
