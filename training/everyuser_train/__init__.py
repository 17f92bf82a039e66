"""Alignment with personas on AlignX-style datasets: ICA and PBA by DPO, reward models, and their evaluation."""
