"""The node agent: the truth about one machine. It executes and it witnesses; it never decides."""
