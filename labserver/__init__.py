"""Real-time and streaming HTTP with FastAPI: the lab's package.

Rooms: `patterns` (the subject), `broken` (its failure modes), `service` (the production app), `stage` (what a notebook
needs to stage an experiment), `school` (exercises and grading). Nothing is imported here: each room is opened by name.
"""

__version__ = "0.1.0"
