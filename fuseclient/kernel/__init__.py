"""The FUSE kernel protocol on /dev/fuse: a codec without I/O, the mount, and the loop that serves a mount."""
