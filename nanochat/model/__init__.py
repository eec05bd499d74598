"""The transformer: shapes, layers, attention, cache, weights on disk, and the precision of its products."""
