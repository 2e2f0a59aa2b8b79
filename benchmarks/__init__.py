"""Measurements that print the tables of docs/performance.md."""
