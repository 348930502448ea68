"""Exact token counts and times of ``Llama.generate`` and ``embed``, for any ``Llama``: nodespan's or anybody's."""

from __future__ import annotations

import time
import weakref
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

import llama_cpp
from nodespan.engine.measurement import llama_cpp_phases
from nodespan.engine.prefix import PrefixUse, PromptCall

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from nodespan.engine.contract import GenerationResult


_calls: Final[weakref.WeakKeyDictionary[llama_cpp.Llama, PromptCall]] = weakref.WeakKeyDictionary()
"""The last call of each model."""


def measured(
    llama: llama_cpp.Llama,
    prompt: Sequence[int],
    tokens: Generator[int, Sequence[int] | None],
    result: GenerationResult,
) -> Generator[int, Sequence[int] | None]:
    """Passes on what ``Llama.generate`` gives and writes into ``result`` what it took, however it ends.

    To be run on the thread that uses the model. With ``no_perf=True`` llama.cpp measures nothing, and so the cached
    tokens, the evaluated ones and the seconds stay unknown; likewise when the model is closed under it.

    Args:
        llama: The model.
        prompt: What ``Llama.generate`` was given.
        tokens: What it returned, not yet started; closed in the end.
        result: Its ``output_tokens`` count while the tokens come.
    """
    result.context_size = llama.n_ctx()
    result.input_tokens = len(prompt)
    result.output_tokens = 0
    result.prefix = _compared(llama, prompt)
    result.evaluated = _tokens_in_context(weakref.ref(llama))
    start = _Evaluated.so_far(llama)
    first: _Evaluated | None = None
    token = -1
    result.prefill_at = time.perf_counter()
    try:
        with closing(tokens):
            token = next(tokens)
            result.first_token_at = time.perf_counter()
            first = _Evaluated.so_far(llama)
            while True:
                result.output_tokens += 1
                accepted = yield token
                token = tokens.send(accepted)
    except StopIteration:
        return
    finally:
        if llama.ctx:  # a model that was closed under a suspended generator can be asked nothing any more
            vocabulary = llama_cpp.llama_model_get_vocab(llama.model)
            if first is not None and vocabulary and llama_cpp.llama_vocab_is_eog(vocabulary, token):
                result.output_tokens -= 1
            if not llama.context_params.no_perf:
                _split(result, start, first, _Evaluated.so_far(llama))
                result.phases = llama_cpp_phases(result)


@contextmanager
def measured_embedding(llama: llama_cpp.Llama, result: GenerationResult) -> Generator[None]:
    """Encloses a ``Llama.embed`` and writes into ``result`` what it evaluated; that is prefill, and nothing else."""
    result.context_size = llama.n_ctx()
    # With ``verbose`` it sets llama.cpp's counters back itself, and then begins.
    start = _Evaluated(0, 0.0) if llama.verbose else _Evaluated.so_far(llama)
    result.prefill_at = time.perf_counter()
    yield
    if not llama.context_params.no_perf:
        result.prefill_tokens, result.prefill_s = _Evaluated.so_far(llama).since(start)
        result.phases = llama_cpp_phases(result)


def _compared(llama: llama_cpp.Llama, prompt: Sequence[int]) -> PrefixUse:
    """The prompt against the model's context, which holds prompt and answer of the call before."""
    held = llama.input_ids[: llama.n_tokens]
    length = min(len(held), len(prompt))
    differs = np.asarray(prompt[:length]) != held[:length]
    shared = int(differs.argmax()) if differs.any() else length
    use = PrefixUse(shared, len(held), _calls.get(llama) if len(held) else None)
    _calls[llama] = use.call
    return use


def _tokens_in_context(llama: weakref.ref[llama_cpp.Llama]) -> Callable[[], int | None]:
    """``Llama.n_tokens`` grows with each evaluated batch, and can be read while native code runs without the GIL."""
    return lambda: getattr(llama(), "n_tokens", None)


class _Evaluated(NamedTuple):
    """llama.cpp's counters since the model was loaded."""

    tokens: int
    seconds: float

    @classmethod
    def so_far(cls, llama: llama_cpp.Llama) -> _Evaluated:
        """Reads both pairs of counters as one sum.

        Which pair a token went to says nothing: a batch of one token counts as decode, also when it is the last token
        of a prompt. And ``llama_perf_context`` shows a count of 0 as 1; its time tells.
        """
        llama_cpp.llama_synchronize(llama.ctx)  # what an aborted call left behind would be counted as the next one's
        perf = llama_cpp.llama_perf_context(llama.ctx)
        batches = perf.n_p_eval if perf.t_p_eval_ms > 0 else 0
        singles = perf.n_eval if perf.t_eval_ms > 0 else 0
        return cls(batches + singles, (perf.t_p_eval_ms + perf.t_eval_ms) / 1e3)

    def since(self, earlier: _Evaluated) -> _Evaluated:
        return _Evaluated(self.tokens - earlier.tokens, self.seconds - earlier.seconds)


def _split(result: GenerationResult, start: _Evaluated, first: _Evaluated | None, end: _Evaluated) -> None:
    """What was evaluated up to the first token is prefill, the rest decode."""
    if first is None:  # aborted: llama.cpp counts tokens of a batch that it did not finish
        result.prefill_s = end.since(start).seconds
        return
    result.prefill_tokens, result.prefill_s = first.since(start)
    result.decode_tokens, result.decode_s = end.since(first)
    if result.input_tokens is not None:
        result.cached_input_tokens = result.input_tokens - result.prefill_tokens
