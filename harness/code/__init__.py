"""Text to bytes to instructions, and back. The only room that knows keystone and capstone."""
