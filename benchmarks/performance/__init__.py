"""Measurements of speed and memory, for maintainers."""
