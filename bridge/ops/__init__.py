"""Control and telemetry: the HTTP side, metrics, logs."""
