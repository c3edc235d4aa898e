"""Stage 1 of the paper: prompt pools that are constructed, screened, split and audited."""
