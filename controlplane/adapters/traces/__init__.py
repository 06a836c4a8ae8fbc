"""Traces of recoveries to an OpenTelemetry collector."""
