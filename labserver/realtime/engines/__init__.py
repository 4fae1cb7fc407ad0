"""Where messages are kept and how they travel between processes, behind one small protocol (`base`)."""
