"""Every shape of the corpus, killed on SQLite."""

from .dying import (
    test_a_database_that_does_not_answer,
    test_a_worker_that_dies,
    test_a_worker_that_is_slow,
    test_the_corpus_is_killed_often_enough,
)

__all__ = [
    "test_a_database_that_does_not_answer",
    "test_a_worker_that_dies",
    "test_a_worker_that_is_slow",
    "test_the_corpus_is_killed_often_enough",
]

DATABASE = "sqlite"
