"""The turn: drain, decide, make durable, apply, act. Knows `controlplane.core` only."""
