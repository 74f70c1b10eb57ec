"""What saved methods say of images and samples, old and new, and how that is written."""
