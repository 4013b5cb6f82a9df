"""Activation-steered compression: pairs, extraction, vector files, application."""
