"""Windows of a genome: splits, batches, leakage between splits, and the data of a training run."""
