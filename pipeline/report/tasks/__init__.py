"""What a page shows of a task beside what it shows of any: one file a task, found by itself, with its template."""
