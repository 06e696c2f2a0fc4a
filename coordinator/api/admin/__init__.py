"""The management API: one module for each collection, declared as routes."""
