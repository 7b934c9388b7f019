"""The Celery glue: the task class, messages, the sweeper, and what a worker does for durable runs."""
