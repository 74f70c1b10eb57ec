"""How heads are fitted to rows of features, and how their settings are chosen. Stage 2 puts it together."""
