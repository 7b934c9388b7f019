"""Every operation, killed at each of its statements on MariaDB."""

from .dying import test_an_operation_that_dies

__all__ = ["test_an_operation_that_dies"]

DATABASE = "mysql"
