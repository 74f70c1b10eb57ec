"""The three stages, extract, head and finetune, and what they are made of."""

import os

# Threads of an operator that wait for each other must not hold a core that a decoding thread or a loader process could
# use: on a small machine that makes extraction and fine-tuning several times slower. OpenMP reads this once, when torch
# is first imported, so it stands here, before anything of the stages imports torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
