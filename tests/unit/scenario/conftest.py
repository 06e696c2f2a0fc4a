"""The broken scenarios are for reading, not for running."""

collect_ignore_glob = ["errors/*"]
