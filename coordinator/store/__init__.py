"""The store: SQLAlchemy models, the engine with its transactions, and the migrations."""
