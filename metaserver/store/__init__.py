"""Where the metadata state is kept: the ordered map under the state machine, and its way to the disk.

overlay       one layer of changes in memory
lmdb_store    the durable bottom layer; the only importer of lmdb
layered       the layers as one map: what `apply` and the queries work on
checkpointer  when layers go down, and what the server must know about that
memory_store  the twin without a disk, for tests and simulation
"""
