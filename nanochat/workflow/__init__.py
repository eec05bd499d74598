"""Orchestration without an orchestrator: what a stage is, the plan, one runner, the launcher of its processes."""
