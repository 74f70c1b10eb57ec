"""Results, what they say against each other, and the verdict. Nothing is trained here."""
