"""`python -m tests.golden`: make the miniature sweep and its expected tables again."""

from tests.golden import regenerate

regenerate()
