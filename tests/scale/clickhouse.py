"""ClickHouse with the tables of Jaeger's ClickHouse storage: python clickhouse.py FOLDER SPANS. Prints JSON.

The tables have the columns, keys, indexes and views that Jaeger's ClickHouse storage creates. They are filled with
spans of nodespan's form: seven days of runs of 50 spans. Then each query of the boards and of the viewer is run several
times, first on Jaeger's table and then on the same table with separate columns for five attributes.
"""

from __future__ import annotations

import json
import random
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chdb.session import Session

SPANS_PER_RUN = 50
NODES = 7
DAYS = 7
REPEATS = 20
LEAST_REPEATS = 5
PER_QUESTION_S = 5.0
SERVICES = 5
MODELS = 3
BATCH = 1_000_000
TYPES = {"bool": "Bool", "double": "Float64", "int": "Int64", "str": "String", "complex": "String"}

NODE = "transform(node, [1, 2, 3, 4, 5, 6, 7], ['plan', 'search', 'read', 'draft', 'review', 'check', 'answer'], '')"
KINDS = ["invoke_node", "chat", "pipeline.queue", "llama_cpp.prefill", "llama_cpp.decode", "execute_tool", "retrieval"]

# The attributes with a column of their own: the holder of each in Jaeger's table and its name.
COLUMNS_FILE = Path(__file__).parents[2] / "collector" / "scale-out" / "clickhouse-columns.sql"
COLUMNS = {
    "gen_ai_node_name": ("str", "gen_ai.node.name"),
    "gen_ai_request_model": ("str", "gen_ai.request.model"),
    "gen_ai_conversation_id": ("str", "gen_ai.conversation.id"),
    "nodespan_status": ("str", "nodespan.status"),
    "nodespan_output_tokens": ("int", "nodespan.output_tokens"),
}


def nested(prefix: str) -> list[str]:
    """The columns of one holder of attributes: a pair of arrays per type."""
    return [f"{prefix}{name}_attributes Nested(key String, value {type_})" for name, type_ in TYPES.items()]


def create(session: Session) -> None:
    """Create the tables and views."""
    events = ["name String", "timestamp DateTime64(9)", *nested("")]
    links = ["trace_id String", "span_id String", "trace_state String", *nested("")]
    texts = ["id", "trace_id", "trace_state", "parent_span_id", "name", "kind"]
    columns = [
        *(f"{name} String" for name in texts),
        "start_time DateTime64(9)", "status_code String", "status_message String", "duration Int64",
        *nested(""),
        f"events Nested({', '.join(events)})",
        f"links Nested({', '.join(links)})",
        "service_name String", *nested("resource_"),
        "scope_name String", "scope_version String", *nested("scope_"),
        "INDEX idx_service_name service_name TYPE set(500) GRANULARITY 1",
        "INDEX idx_name name TYPE set(1000) GRANULARITY 1",
        "INDEX idx_start_time start_time TYPE minmax GRANULARITY 1",
        "INDEX idx_duration duration TYPE minmax GRANULARITY 1",
        *(
            f"INDEX idx_{holder}attributes_{part} {holder}str_attributes.{part} TYPE bloom_filter GRANULARITY 1"
            for holder in ("", "resource_")
            for part in ("key", "value")
        ),
    ]  # fmt: skip
    for statement in (
        "CREATE DATABASE jaeger",
        f"CREATE TABLE jaeger.spans ({', '.join(columns)}) ENGINE = MergeTree "
        f"PARTITION BY toDate(start_time) ORDER BY trace_id TTL start_time + INTERVAL {2 * DAYS} DAY "
        "SETTINGS ttl_only_drop_parts = 1",
        "CREATE TABLE jaeger.trace_id_timestamps (trace_id String, start SimpleAggregateFunction(min, DateTime64(9)), "
        "end SimpleAggregateFunction(max, DateTime64(9))) ENGINE = AggregatingMergeTree ORDER BY trace_id",
        "CREATE MATERIALIZED VIEW jaeger.trace_id_timestamps_mv TO jaeger.trace_id_timestamps AS "
        "SELECT trace_id, min(start_time) AS start, max(start_time) AS end FROM jaeger.spans GROUP BY trace_id",
        "CREATE TABLE jaeger.operations (service_name String, name String, span_kind String) "
        "ENGINE = ReplacingMergeTree ORDER BY (service_name, name, span_kind)",
        "CREATE MATERIALIZED VIEW jaeger.operations_mv TO jaeger.operations AS "
        "SELECT DISTINCT service_name, name, kind AS span_kind FROM jaeger.spans",
    ):
        session.query(statement)


def fill(session: Session, spans: int) -> None:
    """Insert runs of 50 spans: a workflow and seven nodes, each with six children."""
    runs = spans // SPANS_PER_RUN
    for first in range(0, spans, BATCH):
        session.query(f"""
INSERT INTO jaeger.spans (
  id, trace_id, parent_span_id, name, kind, start_time, status_code, duration, service_name, scope_name,
  str_attributes.key, str_attributes.value, int_attributes.key, int_attributes.value,
  double_attributes.key, double_attributes.value, resource_str_attributes.key, resource_str_attributes.value)
WITH
  intDiv(number, {SPANS_PER_RUN}) AS run,
  number % {SPANS_PER_RUN} AS place,
  if(place = 0, 0, intDiv(place - 1, {NODES}) + 1) AS node,
  if(place = 0, 0, (place - 1) % {NODES}) AS step,
  {KINDS}[step + 1] AS work,
  {NODE} AS node_name,
  concat('model-', toString(run % {MODELS})) AS model,
  sipHash64(number) AS dice,
  run % 49 = 0 AND node = 5 AS fails
SELECT
  hex(sipHash64(number, 'span')),
  hex(sipHash128(run)),
  multiIf(place = 0, '', step = 0, hex(sipHash64(number - place, 'span')), hex(sipHash64(number - step, 'span'))),
  multiIf(place = 0, 'invoke_workflow support', step = 0, concat('invoke_node ', node_name),
          step = 1, concat('chat ', model), work),
  'internal',
  now64(9) - INTERVAL {DAYS} DAY + toIntervalMillisecond(intDiv(run * {DAYS * 86_400_000}, {runs}) + place * 40),
  if(fails AND step < 2, 'Error', 'Unset'),
  toInt64(1000000 * (if(place = 0, 9000, if(step = 0, 1200, 150)) + dice % 2000)),
  concat('service-', toString(run % {SERVICES})),
  'nodespan',
  arrayConcat(['gen_ai.operation.name', 'gen_ai.workflow.name', 'gen_ai.conversation.id', 'nodespan.status'],
    if(place = 0, [], ['gen_ai.node.name', 'langgraph.task.id', 'langgraph.checkpoint_ns', 'langgraph.trigger']),
    if(step = 0, [], ['gen_ai.request.model', 'gen_ai.provider.name', 'nodespan.cache_status',
                      'nodespan.finish_reason'])),
  arrayConcat([work, 'support', concat('conversation-', toString(intDiv(run, 4))), if(fails, 'error', 'ok')],
    if(place = 0, [], [node_name, hex(sipHash128(number, 'task')), concat(node_name, ':', hex(dice)), 'branch']),
    if(step = 0, [], [model, 'llama_cpp', 'hit', if(dice % 20 = 0, 'length', 'stop')])),
  arrayConcat(['langgraph.step'],
    if(step = 0, [], ['nodespan.input_tokens', 'nodespan.output_tokens', 'nodespan.cached_input_tokens',
                      'nodespan.priority'])),
  arrayConcat([toInt64(node)],
    if(step = 0, [], [toInt64(200 + dice % 800), toInt64(dice % 200), toInt64(dice % 100), toInt64(dice % 3)])),
  if(step = 0, [], ['nodespan.queue_s', 'nodespan.prompt_eval_s', 'nodespan.decode_s']),
  if(step = 0, [], [(dice % 997) / 1000, (dice % 499) / 1000, 0.5 + (dice % 1999) / 1000]),
  ['service.instance.id', 'service.version', 'host.name', 'telemetry.sdk.name'],
  [hex(sipHash128(run % 40)), '1.0', concat('host-', toString(run % 8)), 'nodespan']
FROM numbers_mt({first}, {min(BATCH, spans - first)})
SETTINGS max_threads = 2
""")


def text(name: str, holder: str = "str_attributes") -> str:
    """An attribute's value in Jaeger's table."""
    return f"{holder}.value[indexOf({holder}.key, '{name}')]"


def questions(end: str, *, own_columns: bool) -> dict[str, Callable[[random.Random, int], str]]:
    """The questions, as makers of SQL from a source of chance and the number of runs; ``end`` is the last start."""

    def value(column: str) -> str:
        kind, name = COLUMNS[column]
        return column if own_columns else text(name, f"{kind}_attributes")

    def has(column: str, wanted: str) -> str:
        kind, name = COLUMNS[column]
        if own_columns:
            return f"{column} = '{wanted}'"
        holder = f"{kind}_attributes"
        pair = f"arrayExists((key, value) -> key = '{name}' AND value = '{wanted}', {holder}.key, {holder}.value)"
        return f"has({holder}.value, '{wanted}') AND {pair}"  # the first part can use the index

    def service(chance: random.Random) -> str:
        return f"service_name = 'service-{chance.randrange(SERVICES)}'"

    def last(hours: int) -> str:
        return f"start_time > toDateTime64('{end}', 9) - INTERVAL {hours} HOUR"

    decoded = "name = 'llama_cpp.decode'"
    tokens, seconds = value("nodespan_output_tokens"), text("nodespan.decode_s", "double_attributes")
    is_node = "startsWith(name, 'invoke_node')"
    return {
        "viewer: one run by its id": lambda chance, runs: (
            f"SELECT * FROM jaeger.spans WHERE trace_id = hex(sipHash128(toUInt64({chance.randrange(runs)})))"
        ),
        "viewer: the last 50 runs of a service": lambda chance, _: (
            f"SELECT trace_id, name, start_time, duration, {value('nodespan_status')} FROM jaeger.spans "
            f"WHERE {service(chance)} AND name = 'invoke_workflow support' AND {last(24)} "
            "ORDER BY start_time DESC LIMIT 50"
        ),
        "viewer: slow model calls of an hour": lambda chance, _: (
            f"SELECT DISTINCT trace_id FROM jaeger.spans WHERE {service(chance)} AND name = 'chat model-1' "
            f"AND duration > 2000000000 AND {last(1)} LIMIT 20"
        ),
        "viewer: runs of a conversation, 7 days": lambda chance, runs: (
            "SELECT DISTINCT trace_id FROM jaeger.spans WHERE "
            + has("gen_ai_conversation_id", f"conversation-{chance.randrange(runs // 4)}")
        ),
        "viewer: failed nodes of a day": lambda chance, _: (
            f"SELECT trace_id, name FROM jaeger.spans WHERE {service(chance)} AND {is_node} AND {last(24)} "
            f"AND {has('nodespan_status', 'error')} ORDER BY start_time DESC LIMIT 100"
        ),
        "board: p50 and p95 of each node, a day": lambda chance, _: (
            f"SELECT toStartOfInterval(start_time, INTERVAL 15 MINUTE) AS at, {value('gen_ai_node_name')} AS node, "
            f"quantiles(0.5, 0.95)(duration) FROM jaeger.spans WHERE {service(chance)} AND {is_node} AND {last(24)} "
            "GROUP BY at, node"
        ),
        "board: errors of each node, a day": lambda chance, _: (
            f"SELECT {value('gen_ai_node_name')} AS node, countIf({value('nodespan_status')} = 'error') / count() "
            f"FROM jaeger.spans WHERE {service(chance)} AND {is_node} AND {last(24)} GROUP BY node"
        ),
        "board: output tokens of each model, 7 days": lambda _, __: (
            f"SELECT toStartOfHour(start_time) AS at, {value('gen_ai_request_model')} AS model, sum({tokens}) "
            f"FROM jaeger.spans WHERE {decoded} GROUP BY at, model"
        ),
        "board: tokens/s of each model, a day": lambda _, __: (
            f"SELECT {value('gen_ai_request_model')} AS model, sum({tokens}) / sum({seconds}) FROM jaeger.spans "
            f"WHERE {decoded} AND {last(24)} GROUP BY model"
        ),
        "board: p95 of the queue by priority, a day": lambda _, __: (
            f"SELECT {text('nodespan.priority', 'int_attributes')} AS priority, quantile(0.95)("
            f"{text('nodespan.queue_s', 'double_attributes')}) FROM jaeger.spans "
            f"WHERE name = 'pipeline.queue' AND {last(24)} GROUP BY priority"
        ),
    }


def rows(session: Session, sql: str) -> list[list[Any]]:
    """The rows of an answer."""
    answer = session.query(sql, "JSONCompactEachRow").bytes().decode()
    return [json.loads(line) for line in answer.splitlines()]


def asked(session: Session, runs: int, *, own_columns: bool) -> dict[str, dict[str, Any]]:
    """For each query: milliseconds for several values, and the number of rows of each result."""
    end = rows(session, "SELECT max(start_time) FROM jaeger.spans")[0][0]
    figures: dict[str, dict[str, Any]] = {}
    for name, make in questions(end, own_columns=own_columns).items():
        chance = random.Random(name)  # the same values with and without columns
        took: list[float] = []
        answers: list[int] = []
        deadline = time.monotonic() + PER_QUESTION_S
        while len(took) < REPEATS and (len(took) < LEAST_REPEATS or time.monotonic() < deadline):
            started = time.perf_counter()
            answers.append(len(rows(session, make(chance, runs))))
            took.append(1e3 * (time.perf_counter() - started))
        took.sort()
        figures[name] = {
            "p50": took[len(took) // 2],
            "p95": took[round(0.95 * len(took)) - 1],
            "asked": len(took),
            "answers": answers,
        }
    return figures


def add_columns(session: Session) -> float:
    """Run the committed file that adds columns for attributes; returns its duration in seconds."""
    started = time.monotonic()
    session.query("USE jaeger")
    without_comments = re.sub(r"^--.*$", "", COLUMNS_FILE.read_text(), flags=re.MULTILINE)
    for statement in without_comments.split(";"):
        if statement.strip():
            session.query(statement)
    return time.monotonic() - started


def disk(session: Session) -> dict[str, int]:
    """Bytes on disk of each column, the largest first, after those of everything."""
    by_column = rows(
        session,
        "SELECT column, sum(column_bytes_on_disk) AS bytes FROM system.parts_columns "
        "WHERE database = 'jaeger' AND table = 'spans' AND active GROUP BY column ORDER BY bytes DESC",
    )
    everything = rows(session, "SELECT sum(bytes_on_disk) FROM system.parts WHERE database = 'jaeger' AND active")
    return {"all": int(everything[0][0]), **{column: int(size) for column, size in by_column}}


def retention(session: Session) -> dict[str, float]:
    """Shorten the table's age to three days and wait until ClickHouse has dropped older rows."""
    before = int(rows(session, "SELECT count() FROM jaeger.spans")[0][0])
    started = time.monotonic()
    session.query("ALTER TABLE jaeger.spans MODIFY TTL start_time + INTERVAL 3 DAY SETTINGS mutations_sync = 2")
    after, oldest = rows(session, "SELECT count(), dateDiff('hour', min(start_time), now()) FROM jaeger.spans")[0]
    return {"before": before, "after": int(after), "oldest_h": int(oldest), "seconds": time.monotonic() - started}


def main(folder: Path, spans: int) -> None:
    """Do all of it and print the figures."""
    session = Session(str(folder))
    create(session)
    runs = spans // SPANS_PER_RUN
    started = time.monotonic()
    fill(session, spans)
    filled_s = time.monotonic() - started
    figures: dict[str, Any] = {"version": rows(session, "SELECT version()")[0][0], "spans": spans, "filled_s": filled_s}
    figures["stored"] = int(rows(session, "SELECT count() FROM jaeger.spans")[0][0])
    figures["runs"] = int(rows(session, "SELECT uniqExact(trace_id) FROM jaeger.spans")[0][0])
    figures["disk"] = disk(session)
    figures["jaeger"] = asked(session, runs, own_columns=False)
    figures["columns_s"] = add_columns(session)
    figures["columns"] = asked(session, runs, own_columns=True)
    figures["disk_with_columns"] = disk(session)
    figures["retention"] = retention(session)
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    sys.stdout.write(json.dumps(figures) + "\n")
    session.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
