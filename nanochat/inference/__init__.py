"""What makes a model speak: the engine, sampling, tool calls, chat, and MLflow's view of a model."""
