"""The typed client of the coordinator: `node` for agents, `admin` for people and the lab."""
