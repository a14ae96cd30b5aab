"""From records to text. Pure functions: nothing here opens a file, runs a guest or knows a terminal."""
