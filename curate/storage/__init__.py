"""What lies under files.py: this machine's disk, other stores, streams, room for a while, what a machine keeps."""
