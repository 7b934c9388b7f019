"""What stands in for the services of others: a payment service and a mail server. Nothing here is about Celery."""
