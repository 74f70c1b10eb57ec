"""A search for the best method within a budget of time: trials from cheap to dear, and an answer at any moment.

What a trial is, is told in `trial`; which come after which, in `order`; the loop over them in `search`.
"""
