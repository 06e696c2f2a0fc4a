"""ztlab: a lab that runs a WireGuard zero-trust data plane and its control plane, unchanged."""
