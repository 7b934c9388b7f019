"""One pass of a run. Talks to the store and to a :class:`~.passing.Dispatcher`; knows no Celery."""
