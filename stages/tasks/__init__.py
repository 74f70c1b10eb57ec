"""Tasks: what is predicted, how it is learned, and how well it went.

Here live the protocol of a task, the tasks themselves, their scores, and what follows from scores of samples: intervals
and paired tests. Nothing else in the project knows which task it works on.

What does not belong here: files (the data room reads text and pixels and hands them over), networks and training loops
(they ask the task for a loss), fits, results on disk, and words about which method is better.
"""
