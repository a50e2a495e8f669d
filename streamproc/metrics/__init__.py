"""Subscribers to telemetry: logs and metrics."""
