"""Every shape of the corpus, killed on SQLite. Its answers can't be lost: there is no connection."""

from .dying import test_a_worker_that_dies, test_a_worker_that_is_slow, test_the_corpus_is_killed_often_enough

__all__ = ["test_a_worker_that_dies", "test_a_worker_that_is_slow", "test_the_corpus_is_killed_often_enough"]

DATABASE = "sqlite"
