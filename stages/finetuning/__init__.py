"""What stage 3 is made of: the trainable upper part of a network, and where its inputs come from."""
