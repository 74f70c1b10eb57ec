"""The traced network: cuts, what lies below and above one, and how the frozen part is computed."""
