"""How the schema came to be: one Alembic revision a file in `versions`, run by `python -m tollbridge.store.migrations`.

A revision is written by hand for both databases, checked by a test against `store.tables`, and never changed once
released. It runs as SQL text in one transaction: it reads nothing back and cannot be undone (restore a backup instead).
"""
