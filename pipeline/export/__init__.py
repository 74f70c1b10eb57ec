"""What leaves a run: a trained method as one file or one object, checked against what the run itself answers.

Nothing is trained and no number of a result is made here.
"""
