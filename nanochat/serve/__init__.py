"""A model behind HTTP: OpenAI's interface, the page, and the processes that hold the model."""
