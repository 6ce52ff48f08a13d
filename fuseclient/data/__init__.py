"""File contents: chunks, slices and blocks, their way to the object store and back, and the cache on disk."""
