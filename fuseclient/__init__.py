"""The client: speaks the kernel's FUSE protocol, keeps data in object storage and asks the metadata service."""
