"""A sigma per image: one objective, and a file per way to search it in `strategies`."""
