"""An online shop that processes its orders with celery_durable. ``python -m example_project.demo`` shows it."""
