"""The pure state machine of a POSIX file system's metadata.

Standard library only; no clock, randomness, environment, I/O or unordered set. See docs/ARCHITECTURE.md.
"""
