"""zt-agent: the data plane of one node: WireGuard, TC programs, their maps, logs and metrics."""
