"""Replication of an opaque log: entries are bytes, positions are indexes. Nothing here knows what a file is."""
