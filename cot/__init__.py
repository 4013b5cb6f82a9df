"""Engines, methods, runs and data generation: the road from a problem to a stored trace."""
