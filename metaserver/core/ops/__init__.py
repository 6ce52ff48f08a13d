"""One operation, one file: `apply(txn, ctx, op) -> Result`, dispatched by machine.py. Each decides first, then writes."""
