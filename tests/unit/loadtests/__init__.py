"""Tests of the pure parts of the load tests. None depends on speed."""
