"""Recurrent networks over the frames of a sample."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from stages.network.heads.base import Head, bag_width
from stages.network.heads.registry import register_torch_head
from stages.network.heads.sequences import WIDTH, in_order, mean_over_time


class RecurrentHead(Head):
    """Frames in order: dropout, a linear layer, a recurrent network both ways, the mean over time, output.

    Bags, float [b, F, d + 1], of any length -> logits [b, classes]. What is missing is left out, and padding has no
    effect, whatever stands there.
    """

    standardized = True
    takes_bags = True

    def __init__(
        self, name: str, row_shape: tuple[int, ...], out_features: int, dropout: float, width: int, states: nn.Module
    ) -> None:
        super().__init__(name, row_shape, out_features, dropout=dropout, width=width)
        self.dropout = nn.Dropout(dropout)
        self.embed = nn.Linear(bag_width(name, row_shape), width)
        self.states = states
        self.output = nn.Linear(2 * width, out_features)

    def forward(self, rows: Tensor) -> Tensor:
        """Return the logits of a batch of bags."""
        frames, lengths = in_order(rows)
        embedded = self.embed(self.dropout(frames))
        if torch.compiler.is_compiling():  # a graph has no packed sequences
            states = self._both_ways(embedded, lengths)
        else:
            # packed, so that the way back begins at the last frame, and not in the padding
            packed = pack_padded_sequence(embedded, lengths.cpu(), batch_first=True, enforce_sorted=False)
            states, _ = pad_packed_sequence(self.states(packed)[0], batch_first=True)
        logits: Tensor = self.output(mean_over_time(states, lengths))
        return logits

    def _both_ways(self, embedded: Tensor, lengths: Tensor) -> Tensor:
        """Return the states [b, F, 2 d] of padded sequences [b, F, d]; the way back is one forth over reversed frames.

        What is computed of the padding is left out by whoever takes the mean.
        """
        frames = torch.arange(embedded.shape[1])
        back = (lengths[:, None] - 1 - frames).clamp_min(0)[..., None].expand(-1, -1, embedded.shape[2])
        forth = self._one_way(embedded, "")
        return torch.cat([forth, self._one_way(embedded.gather(1, back), "_reverse").gather(1, back)], dim=2)

    def _one_way(self, frames: Tensor, suffix: str) -> Tensor:
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = [getattr(self.states, f"{name}{suffix}") for name in names]
        start = frames.new_zeros(1, frames.shape[0], frames.shape[2])
        settings = (weights, True, 1, 0.0, False, False, True)
        if isinstance(self.states, nn.LSTM):
            return torch.lstm(frames, (start, start), *settings)[0]
        return torch.gru(frames, start, *settings)[0]


@register_torch_head("gru", label="GRU", rows="bag", tasks=("single_label", "multi_label", "regression"))
class GRUHead(RecurrentHead):
    """Gated recurrent units over frames. Both ways (Cho et al. 2014, "Learning phrase representations")."""

    def __init__(self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.3, width: int = WIDTH) -> None:
        states = nn.GRU(width, width, batch_first=True, bidirectional=True)
        super().__init__("gru", row_shape, out_features, dropout, width, states)


@register_torch_head("lstm", label="LSTM", rows="bag", tasks=("single_label", "multi_label", "regression"))
class LSTMHead(RecurrentHead):
    """LSTM over frames. Both ways (Hochreiter & Schmidhuber 1997, "Long short-term memory")."""

    def __init__(self, row_shape: tuple[int, ...], out_features: int, dropout: float = 0.3, width: int = WIDTH) -> None:
        states = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        super().__init__("lstm", row_shape, out_features, dropout, width, states)
