"""The paper's printed numbers, as data with their source, and what in them cannot be so."""
