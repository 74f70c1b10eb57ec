"""What a run came to, in the tools that teams collect runs with; one file a tool. Nothing is computed here."""
