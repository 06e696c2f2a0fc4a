"""The HTTP surface: one blueprint for nodes, one for administrators; no decision is taken here."""
