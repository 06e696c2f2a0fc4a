"""The data plane proper: compile policy to map entries, load and attach programs, fill their maps."""
