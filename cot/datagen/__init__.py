"""Rewriting-data generation: traces in, checked shorter traces out, as a dataset for fine-tuning."""
