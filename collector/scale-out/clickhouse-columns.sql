-- Columns for the attributes in the queries of boards and searches, in the table that Jaeger has created in
-- ClickHouse. Jaeger neither writes nor reads them: ClickHouse fills them at each insert, for your own SQL.
--   clickhouse-client --database jaeger --queries-file clickhouse-columns.sql
ALTER TABLE spans ADD COLUMN IF NOT EXISTS gen_ai_node_name LowCardinality(String)
  MATERIALIZED str_attributes.value[indexOf(str_attributes.key, 'gen_ai.node.name')];
ALTER TABLE spans ADD COLUMN IF NOT EXISTS gen_ai_request_model LowCardinality(String)
  MATERIALIZED str_attributes.value[indexOf(str_attributes.key, 'gen_ai.request.model')];
ALTER TABLE spans ADD COLUMN IF NOT EXISTS gen_ai_conversation_id String
  MATERIALIZED str_attributes.value[indexOf(str_attributes.key, 'gen_ai.conversation.id')];
ALTER TABLE spans ADD COLUMN IF NOT EXISTS nodespan_status LowCardinality(String)
  MATERIALIZED str_attributes.value[indexOf(str_attributes.key, 'nodespan.status')];
ALTER TABLE spans ADD COLUMN IF NOT EXISTS nodespan_output_tokens Int64
  MATERIALIZED int_attributes.value[indexOf(int_attributes.key, 'nodespan.output_tokens')];
ALTER TABLE spans ADD INDEX IF NOT EXISTS idx_conversation gen_ai_conversation_id TYPE bloom_filter GRANULARITY 1;
-- Fill them for existing spans.
ALTER TABLE spans
  MATERIALIZE COLUMN gen_ai_node_name, MATERIALIZE COLUMN gen_ai_request_model,
  MATERIALIZE COLUMN gen_ai_conversation_id, MATERIALIZE COLUMN nodespan_status,
  MATERIALIZE COLUMN nodespan_output_tokens, MATERIALIZE INDEX idx_conversation
  SETTINGS mutations_sync = 2;
