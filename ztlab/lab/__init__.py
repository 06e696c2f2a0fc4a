"""The lab: nodes as namespaces, with the production programs started in them as processes."""
