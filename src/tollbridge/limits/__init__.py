"""Counters of requests, tokens and running calls.

base    what a limiter is
memory  the limiter of one process
redis   the limiter of many processes, on one Redis or Valkey
"""
