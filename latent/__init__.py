"""Latent reasoners: thoughts that are embeddings instead of words."""
