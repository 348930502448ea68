"""Creation of spans: their scopes, attributes and content, the guard around nodespan's errors, and the run directory.

Depends on opentelemetry-api only, so that it works with every provider.
"""
