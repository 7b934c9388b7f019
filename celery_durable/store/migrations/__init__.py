"""The schema's history, for Alembic. Run by ``celery -A proj durable migrate``."""
