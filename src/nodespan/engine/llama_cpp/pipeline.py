"""LlamaCppPipeline: a GGUF model in this process, by llama-cpp-python."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import inspect
import os
import sys
import threading
from typing import TYPE_CHECKING, Any, Final, cast

from nodespan.engine.contract import Cancellation, GenerationResult
from nodespan.engine.tool_calls import ToolCallPieces
from nodespan.errors import ConfigurationError, MissingDependencyError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence
    from pathlib import Path

    import llama_cpp
    from nodespan.types import GenerationRequest, ModelProfile, Sampling

_GGUF_MAGIC: Final = b"GGUF"
_REDIRECTION: Final = "suppress_stdout_stderr"
_LOADING: Final = threading.Lock()
"""Held while a model is loaded: llama-cpp-python redirects the output of the whole process meanwhile."""

if hasattr(os, "register_at_fork"):  # else a thread that does not exist in the child could hold it
    os.register_at_fork(before=_LOADING.acquire, after_in_child=_LOADING.release, after_in_parent=_LOADING.release)


class LlamaCppPipeline:
    """Runs a ``ModelProfile`` on llama.cpp. Its text is what llama-cpp-python streams at the same seed.

    Chat messages go through the chat template inside the model file, or the one that ``chat_format`` names.

    Raises:
        ConfigurationError: The profile has no model file, or ``options`` that ``llama_cpp.Llama`` does not accept.
        MissingDependencyError: llama-cpp-python is not installed.
        ModelLoadError: The file is missing or not a GGUF file, or llama.cpp rejects it.
    """

    def __init__(self, profile: ModelProfile) -> None:
        self.check_profile(profile)
        from nodespan.engine.llama_cpp.meter import measured

        self._measured = measured
        self._profile = profile
        self._llama = _load(profile)
        self._generate = self._llama.generate
        self._llama.generate = self._measured_generate
        self._current = (Cancellation(), GenerationResult())

    @staticmethod
    def check_profile(profile: ModelProfile) -> None:
        """Raises for a profile that cannot be loaded, without loading it."""
        if importlib.util.find_spec("llama_cpp") is None:
            raise MissingDependencyError("LlamaCppPipeline", "nodespan[llama-cpp]")
        if profile.model_path is None:
            raise ConfigurationError(
                "This ModelProfile has no model_path. Give it a GGUF file: ModelProfile(model_path='model.gguf')."
            )
        _check_file(profile.model_path)
        _check_chat_format(profile)

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        """See ``Pipeline.generate``."""
        self._current = (cancellation, result)
        try:
            with contextlib.closing(self._pieces(request, result)) as pieces:
                for text in pieces:
                    if text:
                        yield text
        except _CancelledError:
            return
        finally:
            result.model_bytes, result.state_bytes = _sizes(self._llama)

    def close(self) -> None:
        """Frees the model."""
        self._llama.close()
        self._llama.__dict__.pop("generate", None)  # else a reference cycle would keep it until a garbage collection

    def _pieces(self, request: GenerationRequest, result: GenerationResult) -> Generator[str | None]:
        """Yields the text of llama-cpp-python's chunks; writes everything else to the result."""
        arguments = {**_sampling(self._profile.sampling, request.sampling), **request.arguments()}
        tool_calls = ToolCallPieces()
        if request.prompt is not None:
            chunks = _stream(self._llama.create_completion(request.prompt, stream=True, **arguments))
        else:
            self._check_parts(request)
            messages: Any = [message.as_object() for message in request.messages]
            chunks = _stream(self._llama.create_chat_completion(messages, stream=True, **arguments))
        with contextlib.closing(chunks):
            for chunk in chunks:
                choice = chunk["choices"][0]
                result.finish_reason = choice["finish_reason"] or result.finish_reason
                if logprobs := choice.get("logprobs"):
                    result.logprobs.append(logprobs)
                delta = choice.get("delta", choice)
                if pieces := delta.get("tool_calls"):
                    tool_calls.add(pieces)
                    result.tool_calls = tool_calls.calls()
                yield delta.get("content", delta.get("text"))

    def _check_parts(self, request: GenerationRequest) -> None:
        """Raises for images and other media, whose data a chat template would print as text."""
        kinds = {str(part.get("type")) for message in request.messages for part in message.parts} - {"text"}
        if kinds and "chat_handler" not in self._profile.options:
            raise ConfigurationError(
                f"This model reads text only; the request has content parts of type {', '.join(sorted(kinds))}. "
                "Give ModelProfile(options={'chat_handler': ...}) one of llama_cpp.llama_chat_format that reads them."
            )

    def _measured_generate(
        self,
        tokens: Sequence[int],
        *args: Any,
        **kwargs: Any,
    ) -> Generator[int, Sequence[int] | None]:
        """Replaces ``Llama.generate``: the same tokens, counted, and stopped when cancelled."""
        if not tokens:
            raise ConfigurationError(
                "The prompt has no tokens, and this model adds none. Give a text: GenerationRequest(prompt='...')."
            )
        cancellation, result = self._current
        generated = self._measured(self._llama, tokens, self._generate(tokens, *args, **kwargs), result)
        return _stoppable(self._llama, generated, cancellation)


class _CancelledError(Exception):
    """Ends llama-cpp-python's own loop from inside."""


def _stoppable(
    llama: llama_cpp.Llama, tokens: Generator[int, Sequence[int] | None], cancellation: Cancellation
) -> Generator[int, Sequence[int] | None]:
    """Checks the cancellation after each token, and has llama.cpp check it during the prefill."""
    with contextlib.closing(tokens):
        try:
            with _aborted_by(llama, cancellation):
                token = next(tokens)
        except RuntimeError:
            if not cancellation.requested:
                raise
            llama.reset()  # the evaluated part of the last batch is not in n_tokens and must not be sampled from
            raise _CancelledError from None
        except StopIteration:
            return
        while not cancellation.requested:
            accepted = yield token
            try:
                token = tokens.send(accepted)
            except StopIteration:
                return
        raise _CancelledError


@contextlib.contextmanager
def _aborted_by(llama: llama_cpp.Llama, cancellation: Cancellation) -> Generator[None]:
    """Aborts llama.cpp's evaluation once cancellation is requested.

    llama.cpp calls the callback thousands of times per batch. A Python function would acquire the GIL each time, and
    wait for it up to 5 ms while another thread computes. The callback is therefore ``strlen`` of the C library on the
    cancellation's flag: 0, which is false, until the request, and 1 afterwards.
    """
    import llama_cpp

    library = ctypes.cdll.msvcrt if sys.platform == "win32" else ctypes.CDLL(None)
    flag = (ctypes.c_char * len(cancellation.flag)).from_buffer(cancellation.flag)
    callback = llama_cpp.ggml_abort_callback(ctypes.cast(library.strlen, ctypes.c_void_p).value or 0)
    llama_cpp.llama_set_abort_callback(llama.ctx, callback, ctypes.cast(flag, ctypes.c_void_p))
    try:
        yield
    finally:
        llama_cpp.llama_set_abort_callback(llama.ctx, llama_cpp.ggml_abort_callback(0), ctypes.c_void_p(None))


def _sizes(llama: llama_cpp.Llama) -> tuple[int, int]:
    """Bytes of the model's tensors and of its context's state. Costs 50 us with a full context of a small model."""
    import llama_cpp

    return llama_cpp.llama_model_size(llama.model), llama_cpp.llama_state_get_size(llama.ctx)


def _stream(chunks: object) -> Generator[Any]:
    """llama-cpp-python returns one or the other type by the value of ``stream``; here it is always a generator."""
    return cast("Generator[Any]", chunks)


def _sampling(profile: Sampling, request: Sampling) -> dict[str, Any]:
    arguments = request.over(profile)
    if stop := arguments.get("stop"):
        arguments["stop"] = list(stop)  # llama-cpp-python ignores a tuple
    return arguments


def _check_file(path: Path) -> None:
    allowed = "Give the path of a GGUF file: ModelProfile(model_path='model.gguf')."
    try:
        with path.open("rb") as file:
            magic = file.read(len(_GGUF_MAGIC))
    except OSError as error:
        raise ModelLoadError(f"The model file {path} cannot be read ({error.strerror}). {allowed}") from None
    if magic != _GGUF_MAGIC:
        raise ModelLoadError(f"{path} is not a GGUF file: it begins with {magic!r}, not {_GGUF_MAGIC!r}. {allowed}")


def _check_chat_format(profile: ModelProfile) -> None:
    """Raises for a chat format that llama-cpp-python does not have; the load checks those of the file."""
    name = profile.chat_format
    if name is None or name.startswith("chat_template.") or "chat_handler" in profile.options:
        return
    from llama_cpp import llama_chat_format

    try:
        llama_chat_format.get_chat_completion_handler(name)
    except llama_chat_format.LlamaChatCompletionHandlerNotFoundException as error:
        raise ConfigurationError(
            f"ModelProfile(chat_format={name!r}) is not a chat format of llama-cpp-python: {error}. "
            "Leave it out to use the template inside the model file."
        ) from None


def _load(profile: ModelProfile) -> llama_cpp.Llama:
    import llama_cpp

    known = inspect.signature(cast("type[object]", llama_cpp.Llama)).parameters
    if unknown := sorted(set(profile.options) - set(known)):
        raise ConfigurationError(
            f"ModelProfile(options=...) has {', '.join(unknown)}, which llama_cpp.Llama does not accept. "
            f"Allowed: {', '.join(name for name in known if name != 'kwargs')}."
        )
    arguments: dict[str, Any] = {
        "model_path": str(profile.model_path),
        "n_ctx": profile.n_ctx,
        "n_batch": profile.n_batch,
        "n_threads": profile.n_threads,
        "n_gpu_layers": profile.n_gpu_layers,
        "chat_format": profile.chat_format,
        "verbose": False,
        **profile.options,
    }
    with _LOADING, _without_redirection():
        try:
            return llama_cpp.Llama(**arguments)
        except (ValueError, RuntimeError) as error:
            raise ModelLoadError(
                f"llama.cpp cannot load {profile.model_path} with n_ctx={profile.n_ctx}, n_batch={profile.n_batch}: "
                f"{error}. Is the file complete and of a version that llama.cpp {llama_cpp.__version__} reads, and is "
                "enough memory free? ModelProfile(options={'verbose': True}) shows llama.cpp's own messages."
            ) from error


@contextlib.contextmanager
def _without_redirection() -> Generator[None]:
    """Keeps llama-cpp-python from pointing the process's stdout and stderr at /dev/null while it loads.

    With ``verbose=False`` it does so while it loads, and discards what other threads print, permanently if two loads
    overlap. llama.cpp's own messages go through a callback that is silent anyway.
    """
    from llama_cpp import _internals, llama

    with contextlib.ExitStack() as restored:
        for module in (_internals, llama):
            if (redirect := getattr(module, _REDIRECTION, None)) is not None:
                setattr(module, _REDIRECTION, _redirect_nothing)
                restored.callback(setattr, module, _REDIRECTION, redirect)
        yield


@contextlib.contextmanager
def _redirect_nothing(disable: bool = True) -> Generator[None]:
    del disable
    yield
