"""Hostile callers, against gunicorn as it runs in production."""
