"""Base of the instrumentors of optional libraries."""

from __future__ import annotations

import importlib
import logging
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

from nodespan.spans.log import warn

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from nodespan.instrumentation._state import InstrumentationState

_logger = logging.getLogger("nodespan")


class Wrappers(Protocol):
    """Wrappers of one library's functions, such as ``Seams``."""

    def install(self, claimant: object, /) -> object:
        """Wraps the functions. Idempotent."""
        ...

    def release(self, claimant: object, /) -> None:
        """Restores the functions."""
        ...


class LibraryInstrumentor(BaseInstrumentor):
    """Instruments a library if it can be imported; a missing library is not an error."""

    _module: ClassVar[str]
    """The library's module."""
    _state: ClassVar[InstrumentationState]
    _installed: Sequence[Wrappers] = ()

    @abstractmethod
    def _wrappers(self) -> Sequence[Wrappers]:
        """The wrappers, imported here and not before, because they import the library."""

    def instrumentation_dependencies(self) -> Collection[str]:
        """None to be checked by metadata, which a frozen program lacks; missing names are reported by the seams."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        try:
            importlib.import_module(self._module)
        except ModuleNotFoundError:
            _logger.debug("%s is not installed and will not be traced.", self._module)
            return
        except Exception as error:  # noqa: BLE001 a library may load native code, which may fail in any way
            warn(
                "instrumentation.import_failed",
                "%s cannot be imported and will not be traced: %s",
                self._module,
                error,
            )
            return
        self._state.activate(kwargs)
        self._installed = self._wrappers()
        for wrappers in self._installed:
            wrappers.install(self)

    def _uninstrument(self, **kwargs: Any) -> None:
        self._state.deactivate()
        for wrappers in reversed(self._installed):
            wrappers.release(self)
        self._installed = ()
