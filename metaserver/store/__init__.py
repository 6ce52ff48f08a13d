"""Where the metadata state is kept: the ordered map under the state machine, and its way to the disk.

overlay       one layer of changes in memory
lmdb_store    the durable bottom layer; with data_file, incoming and lmdb_errors all that knows lmdb
layered       the layers as one map: what `apply` and the queries work on
checkpointer  when layers go down, and what the server must know about that
chain         the digest of all changes so far
view          the state as of one index, while it goes on changing
state_stream  the state as bytes: in snapshots, and to be compared
incoming      another state, until it takes the place of this one
marks         digests of the whole state at marked indexes
memory_store  the twin without a disk, for tests and simulation
"""
