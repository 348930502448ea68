"""A model server for tests, with the dialects of real servers and configurable failures."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final, Literal, cast

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType

Kind = Literal["llama-server", "llama-cpp-python", "ollama", "vllm", "sglang", "openai"]

_PATHS: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "llama-server": ("/props", {"default_generation_settings": {"n_ctx": 4096}, "total_slots": 4}),
    "llama-cpp-python": ("/openapi.json", {"info": {"title": "\N{LLAMA} llama.cpp Python API"}}),
    "ollama": ("/api/version", {"version": "0.12.0"}),
    "vllm": ("/version", {"version": "0.11.0"}),
    "sglang": ("/model_info", {"model_path": "model"}),
}


@dataclass(frozen=True)
class Received:
    """A request that the server has received; header names are in lower case."""

    path: str
    headers: Mapping[str, str]
    body: Mapping[str, Any]


@dataclass
class FakeServer:
    """Answers every chat with ``words``, in the form of one kind of server, streamed a word per chunk or whole.

    Listens on loopback.

    A context manager: ``with FakeServer("vllm") as server: ModelProfile(base_url=server.url, name="m")``. All
    values may be changed between requests.

    Args:
        kind: The kind of server.
        words: The answer; a token each.
        delay_s: Pause before each word.
        queue_s: Pause before a slot begins.
        cut_after: Breaks the connection after that many words.
        has_usage: Reports usage in streams, where its kind does.
        status: Answers with this HTTP status instead, for the first ``failures`` requests.
        failures: Requests to fail; all if ``None``.
        error_body: Body of such an answer.
        error_amid: Sends an error after that many words, with status 200.
        redirect_to: Answers with a redirect.
        api_key: Required in ``Authorization``, if given.
        tool_call: Name and arguments of a tool call to send instead of an answer.
        reasoning: Text of the reasoning that precedes the answer.

    Attributes:
        received: The requests for generations, in order.
        probes: All other requests.
        left: Number of answers that the client has not read to the end.
    """

    kind: Kind = "openai"
    words: tuple[str, ...] = ("The", " sea", " is", " wide.")
    delay_s: float = 0.0
    queue_s: float = 0.0
    cut_after: int | None = None
    has_usage: bool = True
    status: int = 200
    failures: int | None = None
    error_body: str = '{"error": {"message": "no"}}'
    error_amid: int | None = None
    redirect_to: str | None = None
    api_key: str | None = None
    tool_call: tuple[str, dict[str, Any]] | None = None
    reasoning: str = ""
    received: list[Received] = field(default_factory=list[Received])
    probes: list[Received] = field(default_factory=list[Received])
    left: int = 0

    def __post_init__(self) -> None:
        self._server: _Server | None = None

    @property
    def port(self) -> int:
        """TCP port, while it runs."""
        assert self._server is not None, "FakeServer is not running: use it in a with block."
        return self._server.server_address[1]

    @property
    def url(self) -> str:
        """Address for ``ModelProfile(base_url=...)``."""
        return f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FakeServer:
        handler = type("Handler", (_Handler,), {"fake": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def fails(self) -> bool:
        """Whether the next request fails; counts it."""
        if self.status == 200 or self.failures == 0:
            return False
        if self.failures is not None:
            self.failures -= 1
        return True

    def events(self, body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The events of one answer, with their pauses."""
        answer = _ANSWERS.get(self.kind, _OpenAI)(self, _words_of(body), body)
        time.sleep(self.queue_s)
        yield from answer.begin()
        if self.reasoning:
            yield answer.think(self.reasoning)
        if self.tool_call is not None:
            yield answer.call(*self.tool_call)
        for index, word in enumerate(() if self.tool_call else self.words):
            time.sleep(self.delay_s)
            if index == self.error_amid:
                yield {"error": {"code": 500, "message": "out of memory"}}
                return
            yield answer.word(word, index + 1)
        yield from answer.end("tool_calls" if self.tool_call else "stop")

    def whole(self, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """The answer to a request without ``stream``."""
        answer = _ANSWERS.get(self.kind, _OpenAI)(self, _words_of(body), body)
        time.sleep(self.queue_s + self.delay_s * len(self.words))
        return answer.whole()


class _Server(ThreadingHTTPServer):
    """Closed connections are not errors: clients abandon streams and close idle connections."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Prints the traceback of an error; not that of a connection which the client has closed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _OpenAI:
    """Chunks of OpenAI's protocol, with what the kinds of servers add."""

    def __init__(self, fake: FakeServer, prompt_tokens: int, body: Mapping[str, Any]) -> None:
        self.fake = fake
        self.prompt_tokens = prompt_tokens
        self.body = body
        options: Mapping[str, Any] = body.get("stream_options") or {}
        has_usage = fake.has_usage and fake.kind != "llama-cpp-python"
        self.usage_at_end = has_usage and options.get("include_usage", False)
        self.usage_always = has_usage and options.get("continuous_usage_stats", False)
        self.began_at = time.perf_counter()
        self.first_at = self.began_at

    def begin(self) -> Iterator[dict[str, Any]]:
        self.began_at = time.perf_counter()
        if self.fake.kind == "llama-server" and self.body.get("return_progress"):
            progress = {"total": self.prompt_tokens, "cache": 1, "processed": 0, "time_ms": 0}
            yield {**self._chunk({"role": "assistant", "content": None}), "prompt_progress": progress}

    def word(self, word: str, count: int) -> dict[str, Any]:
        if count == 1:
            self.first_at = time.perf_counter()
        chunk = self._chunk({"content": word})
        if self.usage_always:
            chunk["usage"] = self._usage(count)
        if self.fake.kind == "llama-server" and self.body.get("timings_per_token"):
            chunk["timings"] = self._timings(count)
        return chunk

    def think(self, text: str) -> dict[str, Any]:
        return self._chunk({"reasoning" if self.fake.kind == "vllm" else "reasoning_content": text})

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        function = {"name": name, "arguments": json.dumps(arguments)}
        return self._chunk({"tool_calls": [{"index": 0, "id": "call-1", "type": "function", "function": function}]})

    def end(self, reason: str) -> Iterator[dict[str, Any]]:
        yield self._chunk({}, reason)
        count = len(self.fake.words)
        if self.usage_at_end:
            last: dict[str, Any] = {**self._chunk({}), "choices": [], "usage": self._usage(count)}
            if self.fake.kind == "llama-server":
                last["timings"] = self._timings(count)
            yield last

    def whole(self) -> dict[str, Any]:
        tool_call, text = self.fake.tool_call, "".join(self.fake.words)
        message: dict[str, Any] = {"role": "assistant", "content": text}
        if tool_call is not None:
            function = {"name": tool_call[0], "arguments": json.dumps(tool_call[1])}
            message |= {"content": None, "tool_calls": [{"id": "call-1", "type": "function", "function": function}]}
        answer = {"text": text} if "prompt" in self.body else {"message": message}
        choice = {"index": 0, **answer, "finish_reason": "tool_calls" if tool_call else "stop"}
        kind = "text_completion" if "prompt" in self.body else "chat.completion"
        made = {**self._chunk({}), "object": kind, "choices": [choice], "usage": self._usage(len(self.fake.words))}
        return {**made, "timings": self._timings(len(self.fake.words))} if self.fake.kind == "llama-server" else made

    def _chunk(self, delta: Mapping[str, Any], reason: str | None = None) -> dict[str, Any]:
        chunk: dict[str, Any] = {"id": "chatcmpl-1", "model": self.body.get("model"), "object": "chat.completion.chunk"}
        if "prompt" in self.body:
            return {**chunk, "choices": [{"index": 0, "text": delta.get("content") or "", "finish_reason": reason}]}
        return {**chunk, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}

    def _usage(self, count: int) -> dict[str, Any]:
        usage = {"prompt_tokens": self.prompt_tokens, "completion_tokens": count}
        return {**usage, "total_tokens": sum(usage.values()), "prompt_tokens_details": {"cached_tokens": 1}}

    def _timings(self, count: int) -> dict[str, Any]:
        now = time.perf_counter()
        return {
            "cache_n": 1,
            "prompt_n": max(0, self.prompt_tokens - 1),
            "prompt_ms": (self.first_at - self.began_at) * 1e3,
            "predicted_n": count,
            "predicted_ms": (now - self.first_at) * 1e3,
        }


class _Ollama(_OpenAI):
    """Lines of Ollama's own protocol."""

    def begin(self) -> Iterator[dict[str, Any]]:
        self.began_at = time.perf_counter()
        return iter(())

    def word(self, word: str, count: int) -> dict[str, Any]:
        if count == 1:
            self.first_at = time.perf_counter()
        return self._line({"response": word} if "prompt" in self.body else {"message": {"content": word}})

    def think(self, text: str) -> dict[str, Any]:
        return self._line({"message": {"content": "", "thinking": text}})

    def call(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return self._line({"message": {"tool_calls": [{"function": {"name": name, "arguments": arguments}}]}})

    def end(self, reason: str) -> Iterator[dict[str, Any]]:
        now = time.perf_counter()
        yield {
            **self._line({"message": {"content": ""}}),
            "done": True,
            "done_reason": "stop" if reason == "tool_calls" else reason,
            "total_duration": round((now - self.began_at) * 1e9),
            "load_duration": 1_000_000,
            "prompt_eval_count": self.prompt_tokens,
            "prompt_eval_duration": round((self.first_at - self.began_at) * 1e9),
            "eval_count": len(self.fake.words),
            "eval_duration": round((now - self.first_at) * 1e9),
        }

    def whole(self) -> dict[str, Any]:
        *_, end = self.end("stop")
        return {**end, **self.word("".join(self.fake.words), 1), "done": True}

    def _line(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {"model": self.body.get("model"), "done": False, **fields}


_ANSWERS: Final = {"ollama": _Ollama}


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else the body waits 40 ms until the client has acknowledged the headers

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 the base's name
        """Logs nothing."""

    def do_GET(self) -> None:
        """Answers the requests that determine a dialect."""
        self.fake.probes.append(self._received(b""))
        found = _PATHS.get(self.fake.kind)
        if found is not None and self.path == found[0]:
            self._send_whole(200, json.dumps(found[1]))
        else:
            self._send_whole(404, "{}")

    def do_POST(self) -> None:
        """Answers a request for a generation."""
        received = self._received(self.rfile.read(int(self.headers.get("Content-Length") or 0)))
        fake = self.fake
        if self.path == "/extras/tokenize/count" and fake.kind == "llama-cpp-python":
            fake.probes.append(received)
            self._send_whole(200, json.dumps({"count": len(str(received.body.get("input")).split())}))
            return
        fake.received.append(received)
        if fake.api_key is not None and received.headers.get("authorization") != f"Bearer {fake.api_key}":
            self._send_whole(401, f'{{"error": {{"message": "bad key: {received.headers.get("authorization")}"}}}}')
        elif fake.redirect_to is not None:
            self._send_whole(307, "", {"Location": fake.redirect_to})
        elif fake.fails():
            self._send_whole(fake.status, fake.error_body)
        elif received.body.get("stream", fake.kind == "ollama"):
            self._stream(received.body)
        else:
            self._send_whole(200, json.dumps(fake.whole(received.body)))

    def _received(self, body: bytes) -> Received:
        headers = {name.lower(): value for name, value in self.headers.items()}
        return Received(self.path, headers, cast("dict[str, Any]", json.loads(body)) if body else {})

    def _send_whole(self, status: int, body: str, headers: Mapping[str, str] | None = None) -> None:
        data = body.encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, body: Mapping[str, Any]) -> None:
        is_native = self.fake.kind == "ollama"
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson" if is_native else "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        try:
            words = 0
            for event in self.fake.events(body):
                if words == self.fake.cut_after:
                    self.close_connection = True
                    return
                self._send_chunk(json.dumps(event), is_native=is_native)
                words += _has_text(event)
            if not is_native:
                self._send_chunk("[DONE]", is_native=False)
            self.wfile.write(b"0\r\n\r\n")
        except OSError:
            self.fake.left += 1
            self.close_connection = True

    def _send_chunk(self, text: str, *, is_native: bool) -> None:
        data = (text + "\n" if is_native else f"data: {text}\n\n").encode()
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.flush()


def _words_of(body: Mapping[str, Any]) -> int:
    prompt = body.get("prompt") or "".join(str(one.get("content")) for one in body.get("messages", ()))
    return len(str(prompt).split())


def _has_text(event: Mapping[str, Any]) -> bool:
    with contextlib.suppress(KeyError, IndexError, TypeError):
        choice = event["choices"][0]
        return bool(choice.get("text") or choice["delta"].get("content"))
    message: Mapping[str, Any] = event.get("message") or {}
    return bool(event.get("response") or message.get("content"))
