"""Tests of the shop with real parts: brokers, databases and workers, in containers or as local processes."""
