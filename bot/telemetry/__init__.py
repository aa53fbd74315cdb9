"""What the bot tells about itself: numbers for Prometheus, spans for OpenTelemetry. Knows nothing of what it counts."""
