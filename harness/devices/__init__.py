"""What a port leads to. No CPU, no engine: a device sees reads, writes and virtual time."""
