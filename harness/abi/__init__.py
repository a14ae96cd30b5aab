"""The outside world's numbers and layouts, each once. No behaviour."""
