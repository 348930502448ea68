"""What a pipeline is: the contract between the Runner and whatever runs a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from nodespan.types import FinishReason, GenerationRequest


class Cancellation:
    """The Runner's word to a pipeline that nobody wants the answer any more. It is given once and stays given.

    Safe from any thread, a destructor included: it takes no lock.

    Attributes:
        flag: Two bytes, ``00 00`` until the word is given and ``01 00`` from then on. Native code may hold their
            address: read as a C string they are empty, then not.
    """

    __slots__ = ("flag",)

    def __init__(self) -> None:
        self.flag = bytearray(2)

    def request(self) -> None:
        """Gives the word."""
        self.flag[0] = 1

    @property
    def requested(self) -> bool:
        """Whether the word was given."""
        return self.flag[0] != 0


@dataclass(slots=True)
class GenerationResult:
    """What a pipeline measures of one generation; filled in while it runs. A value that is not known stays ``None``.

    Attributes:
        context_size: Tokens that fit into the model's context.
        input_tokens: Tokens of the prompt, the cached ones included.
        cached_input_tokens: Those of them that were not evaluated again.
        output_tokens: Tokens sampled so far, without the end-of-generation token.
        prefill_tokens: Tokens evaluated before the first one was sampled.
        decode_tokens: Tokens evaluated after that.
        prefill_s: Time of the engine's own clock for ``prefill_tokens``.
        decode_s: The same for ``decode_tokens``.
        prefill_at: ``time.perf_counter()`` when the prefill began.
        first_token_at: ``time.perf_counter()`` when the first token was there.
        evaluated: Returns the number of prompt tokens that are evaluated or cached so far; called on another thread
            during the prefill. ``None`` where the engine does not say.
        finish_reason: Why the model ended by itself: ``stop`` or ``length``.
        model_bytes: Size of the model's tensors.
        state_bytes: Size of its context's state at the end, KV cache included.
    """

    context_size: int | None = None
    input_tokens: int | None = None
    cached_input_tokens: int | None = None
    output_tokens: int | None = None
    prefill_tokens: int | None = None
    decode_tokens: int | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    prefill_at: float | None = None
    first_token_at: float | None = None
    evaluated: Callable[[], int | None] | None = None
    finish_reason: FinishReason | None = None
    model_bytes: int | None = None
    state_bytes: int | None = None

    def facts(self, entered_at: float) -> dict[str, Any]:
        """What was measured, by the keys of ``PipelineExecutionMetadata``.

        Args:
            entered_at: ``time.perf_counter()`` when the generation was asked for.
        """
        speed = None
        if self.decode_s and self.output_tokens and self.output_tokens > 1:
            speed = (self.output_tokens - 1) / self.decode_s
        return {
            "time_to_first_token_s": None if self.first_token_at is None else self.first_token_at - entered_at,
            "prompt_eval_s": self.prefill_s,
            "decode_s": self.decode_s,
            "input_tokens": self.input_tokens,
            "cached_input_tokens": self.cached_input_tokens,
            "output_tokens": self.output_tokens,
            "tokens_per_s": speed,
        }


class Pipeline(Protocol):
    """A loaded model.

    It is made from a ``ModelProfile`` (that is the loading) and used by one thread alone: loaded, asked, and closed
    there. It may generate once at a time. A class may have a static ``check_profile(profile)``; ``PipelineFactory``
    calls it at set-up, so that a profile that cannot work is refused there and not at the first request.
    """

    def generate(
        self, request: GenerationRequest, cancellation: Cancellation, result: GenerationResult
    ) -> Generator[str]:
        """Streams the answer to one request.

        Yields:
            Pieces of text, none empty, none with half a character.

        Between two pieces the caller may stop for good by closing the generator. While it runs, ``cancellation`` is
        looked at after every token and, where the engine allows it, during the prefill; once requested, the generator
        ends soon and without an error. However it ends (by itself, closed, cancelled, raising) the pipeline can take
        the next request, which gives the text that a freshly loaded model would give, and ``result`` holds what is
        known by then. The engine's own errors pass through unchanged.
        """
        ...

    def close(self) -> None:
        """Frees the model. May be called twice; nothing else is called afterwards."""
        ...
