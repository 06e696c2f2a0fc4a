"""Log events as OTLP logs over HTTP, to an OpenTelemetry collector instead of the coordinator.

Imported only where agent.toml says so: the published protobuf definitions cost 5 MB of memory.
"""
