"""What a table says of samples besides their images, as numbers: cells of text in, rows out, fitted to train alone.

No image and no network is known here, nor what a head makes of the rows.
"""
