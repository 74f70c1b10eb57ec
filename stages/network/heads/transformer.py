"""A small transformer over the frames of a sample."""

from __future__ import annotations

from torch import Tensor, nn

from stages.network.heads.base import Head, bag_width
from stages.network.heads.registry import register_torch_head
from stages.network.heads.sequences import WIDTH, in_order, is_frame, mean_over_time, positions


@register_torch_head(
    "transformer", label="transformer", rows="bag", tasks=("single_label", "multi_label", "regression")
)
class TransformerHead(Head):
    """Small transformer over frames: bags, float [b, F, d + 1], of any length -> logits [b, classes].

    Dropout, a linear layer, positions added, layers of self-attention (normalized before each part), the mean over
    time, output. Frames that are missing are neither attended to nor counted.
    """

    standardized = True
    takes_bags = True

    def __init__(
        self,
        row_shape: tuple[int, ...],
        out_features: int,
        dropout: float = 0.3,
        width: int = WIDTH,
        heads: int = 4,
        depth: int = 2,
    ) -> None:
        super().__init__("transformer", row_shape, out_features, dropout=dropout, width=width, heads=heads, depth=depth)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(bag_width("transformer", row_shape), width)
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.1, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, depth, nn.LayerNorm(width), enable_nested_tensor=False)
        self.output = nn.Linear(width, out_features)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of bags."""
        frames, lengths = in_order(rows)
        embedded = self.embed(self.dropout(frames))
        count, width = embedded.shape[1:]
        states = self.layers(
            embedded + positions(count, width).to(embedded), src_key_padding_mask=~is_frame(lengths, count)
        )
        logits: Tensor = self.output(mean_over_time(states, lengths))
        return logits
