"""The wrapped functions of langchain-core, and what is not recorded in a version that lacks one of them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from nodespan import semconv
from nodespan.instrumentation._seams import Seam, Seams
from nodespan.instrumentation.langchain import _calls, _patch, _stores

if TYPE_CHECKING:
    from nodespan.instrumentation._seams import Wrap
    from nodespan.instrumentation.langchain._patch import Open

_CHAT: Final = ("langchain_core.language_models.chat_models", "BaseChatModel")
_LLM: Final = ("langchain_core.language_models.llms", "BaseLLM")
_TOOL: Final = ("langchain_core.tools.base", "BaseTool")
_RETRIEVER: Final = ("langchain_core.retrievers", "BaseRetriever")
_STORE: Final = ("langgraph.store.base.batch", "AsyncBatchedBaseStore")
_TOOL_NODE: Final = ("langgraph.prebuilt.tool_node", "ToolNode")
_MANAGERS: Final = "langchain_core.callbacks.manager"


def _sync(open_call: Open) -> Wrap:
    return partial(_patch.enclosed, open_call)


def _async(open_call: Open) -> Wrap:
    return partial(_patch.aenclosed, open_call)


SEAMS: Final = Seams(
    "langchain-core 0.3 and newer",
    (
        Seam(*_CHAT, "generate", _sync(_calls.chat), "spans of chat models"),
        Seam(*_CHAT, "agenerate", _async(_calls.chat), "spans of chat models in async programs"),
        Seam(
            *_CHAT, "_generate_with_cache", _sync(_calls.chat_of_several), "spans of several conversations in one call"
        ),
        Seam(
            *_CHAT,
            "_agenerate_with_cache",
            _async(_calls.chat_of_several),
            "spans of several conversations in one call",
        ),
        Seam(*_CHAT, "stream", partial(_patch.streamed, semconv.CHAT), "spans of streamed chats"),
        Seam(*_CHAT, "astream", partial(_patch.astreamed, semconv.CHAT), "spans of streamed chats in async programs"),
        Seam(*_CHAT, "_convert_cached_generations", _patch.cached, "the mark of answers from LangChain's cache"),
        Seam(*_LLM, "generate", _sync(_calls.completion), "spans of LLMs"),
        Seam(*_LLM, "agenerate", _async(_calls.completion), "spans of LLMs in async programs"),
        Seam(*_LLM, "stream", partial(_patch.streamed, semconv.TEXT_COMPLETION), "spans of streamed LLMs"),
        Seam(*_LLM, "astream", partial(_patch.astreamed, semconv.TEXT_COMPLETION), "spans of streamed LLMs"),
        Seam(*_TOOL, "run", _sync(_calls.tool), "spans of tools"),
        Seam(*_TOOL, "arun", _async(_calls.tool), "spans of tools in async programs"),
        Seam(*_RETRIEVER, "invoke", _sync(_calls.retrieval), "spans of retrievers"),
        Seam(*_RETRIEVER, "ainvoke", _async(_calls.retrieval), "spans of retrievers in async programs"),
        Seam(_MANAGERS, "CallbackManagerForLLMRun", "on_llm_new_token", _patch.piece, "times to a first chunk"),
        Seam(_MANAGERS, "AsyncCallbackManagerForLLMRun", "on_llm_new_token", _patch.piece, "times to a first chunk"),
    ),
)
LANGGRAPH: Final = Seams(
    "LangGraph 0.6 and newer",
    (
        Seam(*_STORE, "__init__", _stores.makes_task, "the run of embeddings in stores that work in batches"),
        Seam(*_STORE, "asearch", _stores.waits, "the run of embeddings in stores that work in batches"),
        Seam(*_STORE, "aput", _stores.waits, "the run of embeddings in stores that work in batches"),
        Seam(*_TOOL_NODE, "_validate_tool_call", _sync(_calls.missing_tool), "calls of tools that do not exist"),
    ),
)
EVENT_STREAMS: Final = Seams(
    "langchain-core 1.4 and newer",
    (
        Seam(*_CHAT, "_iter_v2_events", _patch.iter_v2_events, "spans of event streams (version v3) of chat models"),
        Seam(*_CHAT, "_aiter_v2_events", _patch.aiter_v2_events, "spans of event streams (version v3) of chat models"),
        Seam(_MANAGERS, "CallbackManagerForLLMRun", "on_stream_event", _patch.piece, "times to a first event"),
        Seam(_MANAGERS, "AsyncCallbackManagerForLLMRun", "on_stream_event", _patch.piece, "times to a first event"),
    ),
    is_newer=True,
)
