"""Benchmarks of nodespan's overhead, one file per theme. Type: make bench."""
