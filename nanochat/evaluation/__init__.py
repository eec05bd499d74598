"""What a model is worth: bits per byte, CORE, questions of chat tasks, scores and their table."""
