"""The exceptions nodespan raises, all at set-up or about the application's own request.

    NodespanError
    ├── ConfigurationError        a bad argument or environment variable
    │   └── UnknownProfileError   a profile type that the factory was not given
    ├── MissingDependencyError    an optional library is not installed (also an ImportError)
    ├── ModelLoadError            a model file that is missing, no GGUF, or refused by llama.cpp
    ├── PipelineClosedError       work asked of a factory or pipeline after ``close()``
    ├── ServerError               a model server answered with an error, or not to the end
    ├── DeadlineExceededError     ``deadline_s`` passed before the generation ended (also a TimeoutError)
    └── StoreError                the local store cannot do what was asked
        ├── StoreBusyError        another process holds it; what was asked may be asked again
        └── StoreForeignError     the file is not a store of this version of nodespan

Every message states the given value, the allowed values and what to type. Errors of nodespan's own telemetry are never
raised (see ``nodespan.spans.guard``); the application's exceptions pass through unchanged.
"""

from __future__ import annotations


class NodespanError(Exception):
    """Any error that nodespan itself raises."""


class ConfigurationError(NodespanError):
    """An argument or environment variable has a value that cannot work.

    No ``ValueError``: pydantic would wrap it in a report of its own when it is raised in a validator.
    """


class UnknownProfileError(ConfigurationError):
    """A profile type was asked for that the ``PipelineFactory`` was not given."""


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
    """A model server answered with an error, or did not answer to the end.

    Attributes:
        status: HTTP status, or the status in an error that it sent amid its answer; ``None`` if there is none.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class StoreError(NodespanError):
    """The local store cannot do what was asked.

    Attributes:
        code: Code of the warning that is logged where the error does not reach the application.
    """

    code = "store.unavailable"


class StoreBusyError(StoreError):
    """Another process held the local store for too long; what was asked may be asked again."""

    code = "store.locked"


class StoreForeignError(StoreError):
    """The file is not a store of this version of nodespan. It is left as it is."""

    code = "store.foreign_file"
