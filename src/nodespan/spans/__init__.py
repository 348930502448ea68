"""What makes a span right: its owner, the guard around our own errors, what may stand in it, and the run directory.

Needs opentelemetry-api only, so that it works the same on anybody's provider.
"""
