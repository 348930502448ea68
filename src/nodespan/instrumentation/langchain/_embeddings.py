"""The seams of embedding models: there is no base method to wrap, so each class's own methods are wrapped."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

from langchain_core.embeddings import Embeddings

from nodespan.instrumentation._seams import wrapped
from nodespan.instrumentation.langchain import _calls, _patch

_METHODS: Final = {
    "embed_documents": _patch.enclosed,
    "embed_query": _patch.enclosed,
    "aembed_documents": _patch.aenclosed,
    "aembed_query": _patch.aenclosed,
}


class EmbeddingSeams:
    """Wraps the methods of every class of embedding models, including classes defined later.

    If a method calls another method of its class or base class, only the outermost call has a span.
    """

    def __init__(self) -> None:
        self._wrapped: WeakKeyDictionary[type, dict[str, tuple[Callable[..., Any], Callable[..., Any]]]] = (
            WeakKeyDictionary()
        )

    def install(self, claimant: object) -> None:
        """Wraps all present and future classes. Idempotent."""
        del claimant
        self._wrap_all(Embeddings)
        if "__init_subclass__" not in vars(Embeddings):

            def init_subclass(cls: type[Embeddings], **kwargs: Any) -> None:
                super(Embeddings, cls).__init_subclass__(**kwargs)
                self._wrap(cls)

            Embeddings.__init_subclass__ = classmethod(init_subclass)  # pyright: ignore[reportAttributeAccessIssue] a seam replaces it

    def release(self, claimant: object) -> None:
        """Restores every class."""
        del claimant
        if "__init_subclass__" in vars(Embeddings):
            del Embeddings.__init_subclass__
        for kind, methods in list(self._wrapped.items()):
            for name, (original, wrapper) in methods.items():
                if vars(kind).get(name) is wrapper:
                    setattr(kind, name, original)
        self._wrapped.clear()

    def _wrap_all(self, kind: type[Embeddings]) -> None:
        self._wrap(kind)
        for below in kind.__subclasses__():
            self._wrap_all(below)

    def _wrap(self, kind: type[Embeddings]) -> None:
        if kind in self._wrapped:
            return
        methods = self._wrapped[kind] = {}
        for name, enclose in _METHODS.items():
            original = vars(kind).get(name)
            # Other attributes than functions (static methods) may be called without the model.
            if inspect.isfunction(original) and not getattr(original, "__isabstractmethod__", False):
                wrapper = wrapped(original, partial(enclose, _calls.embedding))
                setattr(kind, name, wrapper)
                methods[name] = (original, wrapper)
