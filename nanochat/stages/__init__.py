"""The work of every stage of the pipeline, a file each: the only room that knows both a declaration and its work."""
