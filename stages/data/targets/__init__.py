"""From what people have, words and numbers in tables and folders of classes, to the targets of a task. One file a task.

A file says how its task is recognized, where nobody named it, and makes of each sample's cells the text that the task
reads. Which columns hold them is known before, and what is learned from them is the business of ``stages.tasks``.
"""
