"""PipelineStream: the reader's end of a generation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nodespan.spans.directory import span_id_of
from nodespan.types import Chunk

if TYPE_CHECKING:
    from types import TracebackType

    from nodespan.runner.factory import PipelineFactory
    from nodespan.runner.generation import Generation
    from nodespan.types import PipelineExecutionMetadata, ToolCall


class PipelineStream:
    """The chunks of one generation, to be read once: ``for`` in a thread, ``async for`` in an event loop.

    The generation starts with its request and does not wait for its reader. Above 1 MiB of unread text it ends as
    ``length``. Closing, the end of a ``with`` block, cancelling a read, and dropping the stream stop the model, within
    one token. After the received chunks, reading raises the error of the model, or ``DeadlineExceededError``.

    One reader at a time; ``close`` may be called from any thread.
    """

    def __init__(self, generation: Generation, pipeline_factory: PipelineFactory) -> None:
        self._generation = generation
        self._factory = pipeline_factory  # must not be collected, and so closed, while this stream is read
        self._pieces = generation.pieces
        self._index = 0
        self.span_id = span_id_of(generation.scope.span)
        """16 hex digits of the generation's span; ``None`` without a real provider."""

    @property
    def metadata(self) -> PipelineExecutionMetadata | None:
        """The measurements of the generation; ``None`` until it has ended."""
        return self._generation.metadata

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Tools that the model calls; complete at the end of the stream."""
        return tuple(self._generation.result.tool_calls)

    @property
    def reasoning(self) -> str:
        """The model's reasoning so far, if the engine separates it from the answer."""
        return self._generation.result.reasoning

    @property
    def logprobs(self) -> list[Any]:
        """Log probabilities so far, in the engine's own form, if the request enables them."""
        return list(self._generation.result.logprobs)

    def __iter__(self) -> PipelineStream:
        return self

    def __next__(self) -> Chunk:
        try:
            piece = self._pieces.get()
        except BaseException:  # KeyboardInterrupt, or what a signal handler raised
            self._generation.stop()
            raise
        if piece is None:
            self._raise_error()
            raise StopIteration
        return self._chunk(piece)

    def __aiter__(self) -> PipelineStream:
        return self

    async def __anext__(self) -> Chunk:
        try:
            piece = await self._pieces.aget()
        except BaseException:  # cancelled, or torn down with its loop
            self._generation.stop()
            raise
        if piece is None:
            self._raise_error()
            raise StopAsyncIteration
        return self._chunk(piece)

    def close(self) -> None:
        """Stops the model if it still runs, and returns when the generation has ended."""
        self._generation.stop()
        while self._pieces.get() is not None:
            pass

    async def aclose(self) -> None:
        """Stops the model if it still runs, and returns when the generation has ended."""
        self._generation.stop()
        while await self._pieces.aget() is not None:
            pass

    def __enter__(self) -> PipelineStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> PipelineStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, GeneratorExit):  # the coroutine is closed and cannot await, as when its loop has closed
            self._generation.stop()
        else:
            await self.aclose()

    def __del__(self) -> None:
        self._generation.drop()

    def _chunk(self, piece: str) -> Chunk:
        chunk = Chunk(piece, self._index)
        self._index += 1
        return chunk

    def _raise_error(self) -> None:
        """Raises the error that ended the generation, once: an iterator that has raised is exhausted."""
        error, self._generation.error = self._generation.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
