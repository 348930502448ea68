"""The exceptions nodespan raises, all at set-up or about the application's own request.

    NodespanError
    ├── ConfigurationError        an invalid argument or environment variable
    │   └── UnknownProfileError   a profile type that the factory was not given
    ├── MissingDependencyError    an optional library is not installed (also an ImportError)
    ├── ModelLoadError            a model file that is missing, not GGUF, or rejected by llama.cpp
    ├── PipelineClosedError       request to a factory or pipeline after ``close()``
    ├── ServerError               a model server answered with an error, or incompletely
    ├── DeadlineExceededError     ``deadline_s`` passed before the generation ended (also a TimeoutError)
    └── StoreError                an operation of the local store failed
        ├── StoreBusyError        another process holds it; the operation can be repeated
        └── StoreForeignError     the file is not a store of this version of nodespan

Every message states the given value, the allowed values and what to type. Errors of nodespan's own telemetry are never
raised (see ``nodespan.spans.guard``); the application's exceptions pass through unchanged.
"""

from __future__ import annotations


class NodespanError(Exception):
    """Any error that nodespan itself raises."""


class ConfigurationError(NodespanError):
    """An argument or environment variable is invalid.

    Not a ``ValueError``, which pydantic would wrap in its own report when it is raised in a validator.
    """


class UnknownProfileError(ConfigurationError):
    """The ``PipelineFactory`` has no profile of the requested type."""


class MissingDependencyError(NodespanError, ImportError):
    """A feature needs a library that is not installed."""

    def __init__(self, feature: str, install: str) -> None:
        super().__init__(f'{feature} needs a package that is not installed. Type: pip install "{install}"')


class ModelLoadError(NodespanError):
    """A model file is missing, is not a GGUF file, or was rejected by llama.cpp."""


class PipelineClosedError(NodespanError):
    """A ``PipelineFactory`` or pipeline was used after ``close()``."""


class DeadlineExceededError(NodespanError, TimeoutError):
    """A generation was stopped because its ``deadline_s`` passed."""


class ServerError(NodespanError):
    """A model server answered with an error, or incompletely.

    Attributes:
        status: HTTP status, or the status in an error inside its answer; ``None`` if there is none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StoreError(NodespanError):
    """An operation of the local store failed.

    Attributes:
        code: Code of the warning that is logged where the error does not reach the application.
    """

    code = "store.unavailable"


class StoreBusyError(StoreError):
    """Another process held the local store for too long; the operation can be repeated."""

    code = "store.locked"


class StoreForeignError(StoreError):
    """The file is not a store of this version of nodespan. It is left as it is."""

    code = "store.foreign_file"
