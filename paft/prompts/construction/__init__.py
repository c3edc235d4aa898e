"""Constructing prompt pools (paper, section 4.1): generator models write candidates, which are screened and split."""
