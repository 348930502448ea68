"""Every attribute, metric and event name that nodespan writes: the one table, and the only place with a name string.

Dialect: OpenTelemetry semantic conventions for generative AI as in core semconv 1.41 and the Python packages of today,
which is what Jaeger 2.20 and current dashboards read. All ``gen_ai.*`` names are "Development" there.
Each constant is the plain name; ``NAMES`` holds its description, from which the docs are generated.
"""

from __future__ import annotations

from typing import Final

from nodespan._name import CORE as _CORE
from nodespan._name import GENAI as _GENAI
from nodespan._name import NAMES as _ENTERED
from nodespan._name import metric as _metric
from nodespan._name import ours as _ours
from nodespan._name import standard as _standard

NAMES: Final = _ENTERED
"""The description of each name."""
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.41.0"
SCOPE: Final = "nodespan"

_PROPOSED: Final = "proposed for the GenAI semantic conventions (issues 187 and 188)"

# Operations: the values of gen_ai.operation.name, and the first word of a span's name.
CHAT: Final = _standard("chat", "A chat completion.", kind="operation")
TEXT_COMPLETION: Final = _standard("text_completion", "A completion of a raw prompt.", kind="operation")
EMBEDDINGS: Final = _standard("embeddings", "Embedding of one or more inputs.", kind="operation")
EXECUTE_TOOL: Final = _standard("execute_tool", "A tool call.", kind="operation")
RETRIEVAL: Final = _standard("retrieval", "A search for documents.", kind="operation")
INVOKE_WORKFLOW: Final = _standard("invoke_workflow", "One run of a compiled graph.", kind="operation")
INVOKE_NODE: Final = _standard(
    "invoke_node", "One node execution, retries included.", source=_PROPOSED, kind="operation"
)

# Standard attributes
OPERATION_NAME: Final = _standard("gen_ai.operation.name", "Operation of the span.")
PROVIDER_NAME: Final = _standard("gen_ai.provider.name", "Provider of the model; `llama_cpp` in process.")
REQUEST_MODEL: Final = _standard("gen_ai.request.model", "The requested model.")
REQUEST_MAX_TOKENS: Final = _standard("gen_ai.request.max_tokens", "Maximum of generated tokens.", "int", "{token}")
REQUEST_TEMPERATURE: Final = _standard("gen_ai.request.temperature", "Sampling temperature.", "double")
REQUEST_TOP_P: Final = _standard("gen_ai.request.top_p", "Nucleus sampling.", "double")
REQUEST_TOP_K: Final = _standard("gen_ai.request.top_k", "Top-k sampling.", "int")
REQUEST_FREQUENCY_PENALTY: Final = _standard("gen_ai.request.frequency_penalty", "Frequency penalty.", "double")
REQUEST_PRESENCE_PENALTY: Final = _standard("gen_ai.request.presence_penalty", "Presence penalty.", "double")
REQUEST_SEED: Final = _standard("gen_ai.request.seed", "Seed of the sampler.", "int")
REQUEST_STOP_SEQUENCES: Final = _standard("gen_ai.request.stop_sequences", "Texts that end the generation.", "string[]")
REQUEST_STREAM: Final = _standard("gen_ai.request.stream", "The answer was streamed.", "boolean")
RESPONSE_MODEL: Final = _standard("gen_ai.response.model", "The model of the answer.")
RESPONSE_FINISH_REASONS: Final = _standard("gen_ai.response.finish_reasons", "Reasons for its end.", "string[]")
RESPONSE_TIME_TO_FIRST_CHUNK: Final = _standard(
    "gen_ai.response.time_to_first_chunk", "From the request to the first chunk.", "double", "s"
)
USAGE_INPUT_TOKENS: Final = _standard("gen_ai.usage.input_tokens", "Prompt tokens, cached included.", "int", "{token}")
USAGE_OUTPUT_TOKENS: Final = _standard("gen_ai.usage.output_tokens", "Generated tokens.", "int", "{token}")
USAGE_CACHE_READ: Final = _standard(
    "gen_ai.usage.cache_read.input_tokens", "Prompt tokens found in a cache.", "int", "{token}"
)
USAGE_CACHE_CREATION: Final = _standard(
    "gen_ai.usage.cache_creation.input_tokens", "Prompt tokens written to a provider's cache.", "int", "{token}"
)
USAGE_REASONING: Final = _standard(
    "gen_ai.usage.reasoning.output_tokens", "Output tokens spent on reasoning.", "int", "{token}"
)
RESPONSE_ID: Final = _standard("gen_ai.response.id", "The provider's id of the answer.")
TOOL_NAME: Final = _standard("gen_ai.tool.name", "Name of the tool.")
TOOL_CALL_ID: Final = _standard("gen_ai.tool.call.id", "The model's id of the call.")
TOOL_TYPE: Final = _standard("gen_ai.tool.type", "`function`: the tool runs in this program.")
DATA_SOURCE_ID: Final = _standard("gen_ai.data_source.id", "The searched data source.")
EMBEDDINGS_DIMENSION: Final = _standard("gen_ai.embeddings.dimension.count", "Length of an embedding.", "int")
SERVER_ADDRESS: Final = _standard("server.address", "Host of the server of a model or of a remote graph.", source=_CORE)
SERVER_PORT: Final = _standard("server.port", "Port of that server.", "int", source=_CORE)
NODE: Final = _standard("gen_ai.node.name", "LangGraph's name of the node.", source=_PROPOSED)
WORKFLOW_NAME: Final = _standard("gen_ai.workflow.name", "The run's `run_name`, else the compiled graph's name.")
CONVERSATION_ID: Final = _standard("gen_ai.conversation.id", "The conversation of the run; on every span of it.")
AGENT_NAME: Final = _standard(
    "gen_ai.agent.name", "The agent that runs: the name given to `create_agent` or `create_react_agent`."
)
USER_ID: Final = _standard(
    "user.id", "The user of the run; on every span of it.", source="OpenTelemetry semantic conventions 1.41, user"
)
ERROR_TYPE: Final = _standard("error.type", "Class of the error that ended the operation.", source=_CORE)
EXCEPTION_EVENT: Final = _standard("exception", "An exception, where it was raised.", source=_CORE, kind="event")
EXCEPTION_TYPE: Final = _standard("exception.type", "Class of the exception.", source=_CORE)
EXCEPTION_MESSAGE: Final = _standard("exception.message", "Redacted and truncated message.", source=_CORE)
EXCEPTION_STACKTRACE: Final = _standard("exception.stacktrace", "Stack of the exception.", source=_CORE)

# Content: only if the user has enabled it, JSON in the `{role, parts}` form
_CONTENT: Final = "JSON; opt-in"
SYSTEM_INSTRUCTIONS: Final = _standard("gen_ai.system_instructions", f"System messages ({_CONTENT}).")
INPUT_MESSAGES: Final = _standard("gen_ai.input.messages", f"Input messages ({_CONTENT}).")
OUTPUT_MESSAGES: Final = _standard("gen_ai.output.messages", f"Output messages ({_CONTENT}).")
TOOL_CALL_ARGUMENTS: Final = _standard("gen_ai.tool.call.arguments", f"Arguments of the tool ({_CONTENT}).")
TOOL_CALL_RESULT: Final = _standard("gen_ai.tool.call.result", f"Result of the tool ({_CONTENT}).")
TOOL_DEFINITIONS: Final = _standard("gen_ai.tool.definitions", f"Tools that the model may call ({_CONTENT}).")
RETRIEVAL_QUERY: Final = _standard("gen_ai.retrieval.query.text", "The query (opt-in).")
RETRIEVAL_DOCUMENTS: Final = _standard("gen_ai.retrieval.documents", f"The found documents ({_CONTENT}).")
INFERENCE_DETAILS_EVENT: Final = _standard(
    "gen_ai.client.inference.operation.details", "A model call with its content, as a log record.", kind="event"
)

# LangGraph
_LANGGRAPH: Final = "LangGraph concept; no semantic convention exists"
LANGGRAPH_NODE: Final = _ours("langgraph.node", "Name of the node.", _LANGGRAPH)
LANGGRAPH_STEP: Final = _ours("langgraph.step", "Superstep, from 1.", _LANGGRAPH, "int")
LANGGRAPH_TASK_ID: Final = _ours("langgraph.task.id", "Id of the task, stable over its retries.", _LANGGRAPH)
LANGGRAPH_CHECKPOINT_NS: Final = _ours("langgraph.checkpoint_ns", "Namespace of the task.", _LANGGRAPH)
LANGGRAPH_TRIGGERS: Final = _ours("langgraph.triggers", "Channels that triggered the task.", _LANGGRAPH, "string[]")
LANGGRAPH_PATH: Final = _ours("langgraph.path", "Path of the task; it differs between `Send` branches.", _LANGGRAPH)
LANGGRAPH_THREAD_ID: Final = _ours("langgraph.thread.id", "Thread of the checkpointer.", _LANGGRAPH)
LANGGRAPH_CHECKPOINT_ID: Final = _ours("langgraph.checkpoint.id", "Checkpoint from which the run started.", _LANGGRAPH)
LANGGRAPH_LEFT_CHECKPOINT_ID: Final = _ours(
    "langgraph.checkpoint.left_id",
    "Checkpoint that an unfinished run left: interrupted, failed, cancelled.",
    _LANGGRAPH,
)
LANGGRAPH_INTERRUPTED: Final = _ours("langgraph.interrupted", "The run stopped at an interrupt.", _LANGGRAPH, "boolean")
LANGGRAPH_INTERRUPTS: Final = _ours("langgraph.interrupt_values", f"Values of its interrupts ({_CONTENT}).", _LANGGRAPH)
LANGGRAPH_RESUME: Final = _ours("langgraph.resume_value", f"Value of `Command(resume)` ({_CONTENT}).", _LANGGRAPH)
LANGGRAPH_GRAPH_HASH: Final = _ours(
    "langgraph.graph.hash", "sha256 of the declared graph: its nodes, edges, branches and subgraphs.", _LANGGRAPH
)
LANGGRAPH_GRAPH_TOPOLOGY: Final = _ours(
    "langgraph.graph.topology", "The graph as JSON, up to 32 KiB; on its first recorded run per day.", _LANGGRAPH
)
LANGGRAPH_EDGES: Final = _ours(
    "langgraph.edges", "Taken edges as kind and target; on a run those from the start.", _LANGGRAPH, "string[]"
)
LANGGRAPH_WRITES: Final = _ours(
    "langgraph.writes", "Written channels, each as channel, type, size and HMAC (privacy.md).", _LANGGRAPH, "string[]"
)
LANGGRAPH_WRITTEN_VALUES: Final = _ours("langgraph.written_values", f"The written values ({_CONTENT}).", _LANGGRAPH)
LANGGRAPH_ITERATION: Final = _ours(
    "langgraph.iteration", "Number of the run's steps that executed the node, if above one.", _LANGGRAPH, "int"
)

# The mirror of NodeMetadata: `nodespan.K` for every key K but those of STATE_ONLY_KEYS
MIRROR_PREFIX: Final = "nodespan."
_MIRROR: Final = "copy of a key of WorkflowState.node_metadata"
MIRROR_KEYS: Final[dict[str, str]] = {
    key: _ours(MIRROR_PREFIX + key, meaning, _MIRROR, type_, unit)
    for key, type_, unit, meaning in (
        ("node_name", "string", "", "Display name, by default LangGraph's name of the node."),
        ("node_id", "string", "", "8 hex digits, unique per node execution."),
        ("node_type", "string", "", "`PipelineNode`."),
        ("profile_type", "int", "", "ModelProfileType value, Primary is 0."),
        ("priority", "int", "", "PipelinePriority value."),
        ("streaming", "boolean", "", "The node streams its chunks."),
        ("execution_time", "string", "", "Start, ISO 8601, UTC."),
        ("user_id", "string", "", "From the state, else the run's."),
        ("conversation_id", "string or int", "", "From the state, else the run's."),
        ("pipeline_type", "string", "", "Class of the pipeline."),
        ("model_name", "string", "", "ModelProfile.name, or the file's stem."),
        ("model_provider", "string", "", "Such as `LLAMA_CPP`."),
        ("status", "string", "", "`ok`, `error`, `interrupted` or `cancelled`."),
        ("duration_s", "double", "s", "From the start of the node to its return."),
        ("queue_s", "double", "s", "Waiting in nodespan's queue for the model."),
        ("server_queue_s", "double", "s", "Waiting in the server's queue, where the server reports it."),
        ("load_s", "double", "s", "Loading of the model, or connecting to its server, by this request."),
        ("time_to_first_token_s", "double", "s", "From the Runner's entry to the first token."),
        ("prompt_eval_s", "double", "s", "Prefill, by the engine's clock."),
        ("decode_s", "double", "s", "Decode, by the engine's clock."),
        ("input_tokens", "int", "{token}", "Prompt tokens, cached ones included."),
        ("cached_input_tokens", "int", "{token}", "Prompt tokens taken from the KV cache."),
        ("output_tokens", "int", "{token}", "Sampled tokens, as in the non-streamed usage."),
        ("tokens_per_s", "double", "{token}/s", "(output_tokens - 1) / decode_s."),
        ("tokens_estimated", "boolean", "", "Tokens were counted from the texts: the server reports none."),
        ("cache_status", "string", "", "Pipeline cache: `hit` or `loaded`."),
        ("finish_reason", "string", "", "`stop`, `length`, `cancelled`, `error` or the engine's own value."),
        ("error_type", "string", "", "Class of the error."),
    )
}
NODE_ID: Final = MIRROR_KEYS["node_id"]
NODE_NAME: Final = MIRROR_KEYS["node_name"]
STATUS: Final = MIRROR_KEYS["status"]

# Spans below a generation, from measured times
_BELOW: Final = "no convention covers the phases of a model call"
PIPELINE_QUEUE: Final = _ours("pipeline.queue", "Waiting for the loaded model.", _BELOW, kind="operation")
PIPELINE_LOAD: Final = _ours("pipeline.load", "Loading the model.", _BELOW, kind="operation")
SERVER_QUEUE: Final = _ours(
    "server.queue", "Waiting in the server's queue, until a slot starts.", _BELOW, kind="operation"
)
SERVER_LOAD: Final = _ours("server.load", "Loading the model in the server.", _BELOW, kind="operation")
LLAMA_CPP_PREFILL: Final = _ours("llama_cpp.prefill", "Evaluating the prompt.", _BELOW, kind="operation")
LLAMA_CPP_DECODE: Final = _ours("llama_cpp.decode", "Generating after the first token.", _BELOW, kind="operation")
EVALUATED_TOKENS: Final = _ours(
    "nodespan.evaluated_tokens", "Tokens evaluated by the prefill or the decode.", _BELOW, "int", "{token}"
)
SERVER_OTHER: Final = _ours(
    "nodespan.server.other_s",
    "Time of a request outside the phases that the server reports: network, templates, sampling.",
    _BELOW,
    "double",
    "s",
)
SERVER_DIALECT: Final = _ours("nodespan.server.dialect", "Kind of the server, such as `llama-server`.", _BELOW)
RESPONSE_CACHED: Final = _ours(
    "nodespan.response_cached",
    "The answer is from LangChain's cache: no model was called, and the span has no usage.",
    "the conventions cover caches of prompts, not of answers",
    "boolean",
)
CHUNKS: Final = _ours("nodespan.chunks", "Chunks passed to the consumer.", "chunks are not tokens", "int", "{chunk}")

CONTEXT_SIZE: Final = _ours("nodespan.context_size", "Size of the model's context.", _BELOW, "int", "{token}")

# Reuse of a prompt's beginning from the previous call
_PREFIX: Final = "the conventions count cached tokens without the call they come from"
PREFIX_SHARED: Final = _ours(
    "nodespan.prefix.shared_tokens", "Length of the prefix that prompt and context share.", _PREFIX, "int", "{token}"
)
PREFIX_REPEATED: Final = _ours(
    "nodespan.prefix.repeated_tokens", "Tokens in the context that differ from the prompt.", _PREFIX, "int", "{token}"
)
PREFIX_PREVIOUS_NODE: Final = _ours("nodespan.prefix.previous_node", "Node of the model's previous call.", _PREFIX)
PREFIX_COST: Final = _ours("nodespan.prefix.cost_s", "Prefill time after the shared tokens.", _PREFIX, "double", "s")

# Runs and attempts
_ATTEMPT: Final = "retries of a graph node have no convention"
ATTEMPT_FAILED: Final = _ours("nodespan.attempt_failed", "An attempt that will be retried.", _ATTEMPT, kind="event")
ATTEMPT: Final = _ours("nodespan.attempt", "Number of the attempt, from 1.", _ATTEMPT, "int")
ATTEMPT_DURATION: Final = _ours("nodespan.attempt.duration_s", "Duration of the attempt.", _ATTEMPT, "double", "s")
TAGS: Final = _ours("nodespan.tags", "Tags of the run's config.", "no convention for tags", "string[]")
METADATA_PREFIX: Final = "nodespan.metadata."
METADATA: Final = _ours(f"{METADATA_PREFIX}<key>", "Value of the run's metadata.", "as for tags", "string, number, ...")
LINK_KIND: Final = _ours(
    "nodespan.link", "`resumed_from` on a link of a run, `previous_prompt` of a model call.", "links have no kind"
)
RESUMED_FROM: Final = "resumed_from"
TRACEPARENT_KEY: Final = _ours(
    "nodespan.traceparent",
    "Key of a run's checkpoint metadata: W3C traceparent of the run that wrote the checkpoint.",
    "no convention defines its place in a checkpoint",
)
PRIORITY: Final = MIRROR_KEYS["priority"]

# Metrics. The conventions' own buckets end at 82 s for a duration and at 10 s for a time to first token, which a local
# model on a CPU often exceeds; explicit buckets are advisory there, so ours reach further under the same names.
SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 60, 120, 300, 600)
FIRST_TOKEN_SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 60, 120)
TOKEN_SECONDS: Final = (1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
"""0.1 to 10,000 tokens per second."""
TOKENS: Final = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)
RATIO: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1)

TOKEN_TYPE: Final = _standard("gen_ai.token.type", "`input` or `output`; label of the token usage.")
FINISH_REASON: Final = MIRROR_KEYS["finish_reason"]

_MODEL_CALL: Final = (OPERATION_NAME, PROVIDER_NAME, REQUEST_MODEL)
_NODE_LABELS: Final = (WORKFLOW_NAME, NODE)
_UTIL: Final = "OpenTelemetry's Python GenAI packages, opentelemetry-util-genai 1.3b0"

OPERATION_DURATION: Final = _metric(
    "gen_ai.client.operation.duration", "histogram", "s", (*_MODEL_CALL, FINISH_REASON, ERROR_TYPE),
    "Duration of a model call.", _GENAI, SECONDS,
)  # fmt: skip
TOKEN_USAGE: Final = _metric(
    "gen_ai.client.token.usage", "histogram", "{token}", (*_MODEL_CALL, TOKEN_TYPE),
    "Tokens of one model call.", _GENAI, TOKENS,
)  # fmt: skip
TIME_TO_FIRST_CHUNK: Final = _metric(
    "gen_ai.client.operation.time_to_first_chunk", "histogram", "s", _MODEL_CALL,
    "From the request to the first chunk of a streamed answer.", _GENAI, FIRST_TOKEN_SECONDS,
)  # fmt: skip
TIME_TO_FIRST_TOKEN: Final = _metric(
    "gen_ai.server.time_to_first_token", "histogram", "s", _MODEL_CALL,
    "From the request to the first token, of models in this process.", _GENAI, FIRST_TOKEN_SECONDS,
)  # fmt: skip
TIME_PER_OUTPUT_TOKEN: Final = _metric(
    "gen_ai.server.time_per_output_token", "histogram", "s", _MODEL_CALL,
    "Decode time of one call by its tokens after the first, of models in this process.", _GENAI, TOKEN_SECONDS,
)  # fmt: skip
WORKFLOW_DURATION: Final = _metric(
    "gen_ai.invoke_workflow.duration", "histogram", "s", (WORKFLOW_NAME, STATUS, ERROR_TYPE),
    "One run of a compiled graph; a run of a subgraph counts separately.", _UTIL, SECONDS,
)  # fmt: skip
TOOL_DURATION: Final = _metric(
    "gen_ai.execute_tool.duration", "histogram", "s", (TOOL_NAME, STATUS, ERROR_TYPE),
    "One tool call.", "OpenTelemetry semantic-conventions-genai 0.1.0", SECONDS,
)  # fmt: skip
NODE_DURATION: Final = _metric(
    "nodespan.node.duration", "histogram", "s", (*_NODE_LABELS, STATUS, ERROR_TYPE),
    "One node execution, retries included.", _LANGGRAPH, SECONDS,
)  # fmt: skip
NODE_RETRIES: Final = _metric(
    "nodespan.node.retries", "counter", "{attempt}", (*_NODE_LABELS, ERROR_TYPE),
    "Failed attempts that were retried.", _ATTEMPT,
)  # fmt: skip
WORKFLOW_ACTIVE: Final = _metric(
    "nodespan.workflow.active", "updowncounter", "{workflow}", (WORKFLOW_NAME,),
    "Active runs, including those of subgraphs.", _LANGGRAPH,
)  # fmt: skip
PHASE: Final = _ours(
    "nodespan.phase", "Phase of an execution: `queued`, `loading`, `prefilling`, `decoding`, `retrying`, `tool`, or "
    "`other`.", "no convention covers the phases of an open call",
)  # fmt: skip
NODE_RUNNING: Final = _metric(
    "nodespan.node.running", "observable gauge", "{execution}", _NODE_LABELS,
    "Node executions that are open for longer than 80 ms.", _LANGGRAPH,
)  # fmt: skip
NODE_RUNNING_AGE: Final = _metric(
    "nodespan.node.running.age", "observable gauge", "s", (*_NODE_LABELS, PHASE),
    "Time that the oldest of these executions has been in its phase.", _LANGGRAPH,
)  # fmt: skip
WORKFLOW_INTERRUPTS: Final = _metric(
    "nodespan.workflow.interrupts", "counter", "{interrupt}", (WORKFLOW_NAME,),
    "Runs that stopped at an interrupt, including runs around an interrupted subgraph.", _LANGGRAPH,
)  # fmt: skip

_POOL: Final = "no convention covers the queue and the loading of a model"
QUEUE_DURATION: Final = _metric(
    "nodespan.pipeline.queue.duration", "histogram", "s", (REQUEST_MODEL, PRIORITY),
    "Time queued behind other requests.", _POOL, SECONDS,
)  # fmt: skip
QUEUE_LENGTH: Final = _metric(
    "nodespan.pipeline.queue.length", "observable updowncounter", "{request}", (REQUEST_MODEL, PRIORITY),
    "Requests waiting for the model.", _POOL,
)  # fmt: skip
LOAD_DURATION: Final = _metric(
    "nodespan.pipeline.load.duration", "histogram", "s", (REQUEST_MODEL, ERROR_TYPE),
    "Loading a model.", _POOL, SECONDS,
)  # fmt: skip
LOADED: Final = _metric(
    "nodespan.pipeline.loaded", "observable updowncounter", "{model}", (REQUEST_MODEL,),
    "Loaded models.", _POOL,
)  # fmt: skip
EVICTIONS: Final = _metric(
    "nodespan.pipeline.evictions", "counter", "{model}", (REQUEST_MODEL,),
    "Models that were evicted to load another.", _POOL,
)  # fmt: skip
TOKENS_IN_FLIGHT: Final = _metric(
    "nodespan.pipeline.tokens.in_flight", "observable updowncounter", "{token}", (REQUEST_MODEL,),
    "Prompt and output tokens of the active generations.", _POOL,
)  # fmt: skip
PREFILL_DURATION: Final = _metric(
    "nodespan.llama_cpp.prefill.duration", "histogram", "s", (REQUEST_MODEL,),
    "Evaluating a prompt, by llama.cpp's counter.", _BELOW, SECONDS,
)  # fmt: skip
DECODE_DURATION: Final = _metric(
    "nodespan.llama_cpp.decode.duration", "histogram", "s", (REQUEST_MODEL,),
    "Generating after the first token, by llama.cpp's counter.", _BELOW, SECONDS,
)  # fmt: skip
PREFILL_TOKENS: Final = _metric(
    "nodespan.llama_cpp.prefill.tokens", "counter", "{token}", (REQUEST_MODEL,),
    "Tokens evaluated by prefills; divided by the sum of their durations, the speed.", _BELOW,
)  # fmt: skip
DECODE_TOKENS: Final = _metric(
    "nodespan.llama_cpp.decode.tokens", "counter", "{token}", (REQUEST_MODEL,),
    "Tokens evaluated by decodes; divided by the sum of their durations, the speed.", _BELOW,
)  # fmt: skip
CACHED_TOKENS: Final = _metric(
    "nodespan.llama_cpp.cached.tokens", "counter", "{token}", (REQUEST_MODEL,),
    "Prompt tokens found in the KV cache: prefix reuse is their share of all input tokens.", _BELOW,
)  # fmt: skip
PREFIX_REUSE: Final = _metric(
    "nodespan.prefix.reuse", "histogram", "1", (REQUEST_MODEL, NODE, PREFIX_PREVIOUS_NODE),
    "Share of a prompt's tokens found in a cache, by its node and the node of the previous call.",
    _PREFIX, RATIO,
)  # fmt: skip
CONTEXT_UTILIZATION: Final = _metric(
    "nodespan.llama_cpp.context.utilization", "histogram", "1", (REQUEST_MODEL,),
    "Share of the context that is filled at the end of a call.", _BELOW, RATIO,
)  # fmt: skip
MODEL_SIZE: Final = _metric(
    "nodespan.llama_cpp.model.size", "observable gauge", "By", (REQUEST_MODEL,),
    "Size of the tensors of a model's loaded copies, reported by llama.cpp; 0 after the model was freed.", _BELOW,
)  # fmt: skip
STATE_SIZE: Final = _metric(
    "nodespan.llama_cpp.state.size", "observable gauge", "By", (REQUEST_MODEL,),
    "Size of the state of their contexts, KV cache included, reported by llama.cpp after the last call.", _BELOW,
)  # fmt: skip

# Metrics of nodespan itself
TELEMETRY_ERROR_KIND: Final = _ours(
    "nodespan.telemetry.operation", "nodespan's failed operation.", "label of nodespan.telemetry.errors"
)
TELEMETRY_ERRORS: Final = _metric(
    "nodespan.telemetry.errors", "counter", "{error}", (TELEMETRY_ERROR_KIND,),
    "Internal errors of nodespan, which do not reach the application.", "otel.sdk.* counts the SDK's own work only",
)  # fmt: skip
_OUTBOX: Final = "the SDK's own queue is in memory; an outbox on disk has no convention"
OUTBOX_SPANS: Final = _metric(
    "nodespan.telemetry.outbox.spans", "observable gauge", "{span}", (),
    "Spans in the store that wait to be sent.", _OUTBOX,
)  # fmt: skip
OUTBOX_AGE: Final = _metric(
    "nodespan.telemetry.outbox.age", "observable gauge", "s", (),
    "Waiting time of the oldest span in the store.", _OUTBOX,
)  # fmt: skip
_SDK: Final = "OpenTelemetry semantic conventions 1.41, SDK metrics"
SPANS_PROCESSED: Final = _metric(
    "otel.sdk.processor.span.processed", "observable counter", "{span}", (ERROR_TYPE,),
    "Spans that the processor has stored, or dropped for the reason in `error.type`.", _SDK,
)  # fmt: skip
SPANS_EXPORTED: Final = _metric(
    "otel.sdk.exporter.span.exported", "observable counter", "{span}", (ERROR_TYPE,),
    "Spans that the destination has accepted, or rejected for the reason in `error.type`.", _SDK,
)  # fmt: skip
