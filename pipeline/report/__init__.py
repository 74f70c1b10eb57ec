"""The page that says whether fine-tuning paid: one HTML file that needs nothing else, and its figures as PNG files.

``page.py`` says what stands on the page, ``report.html.j2`` and ``report.css`` how it looks, ``figures.py`` draws. No
number is made here; they come from ``pipeline.evaluation.comparison``.
"""
