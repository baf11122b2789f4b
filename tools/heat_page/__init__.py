"""The page of ``tools/app.py``: what it knows, what it accepts, how it looks."""
