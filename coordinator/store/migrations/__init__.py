"""Alembic's scripts, shipped with the package; coordinator/store/migrate.py runs them."""
