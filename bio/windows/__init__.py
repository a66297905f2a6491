"""Windows of a genome: splits, batches, leakage between splits."""
