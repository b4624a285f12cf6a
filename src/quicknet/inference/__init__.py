"""Asking a model: opening it, predicting, measuring, verifying."""
