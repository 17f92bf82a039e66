"""Alignment with personas on AlignX-style datasets: ICA and PBA by DPO, and their evaluation."""
