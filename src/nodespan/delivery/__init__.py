"""From an ended span to its destination: processor, outbox sender, OTLP senders, ledger."""
